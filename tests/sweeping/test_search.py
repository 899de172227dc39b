"""Searching coefficients: two halves of dev, a file that merges, and test closed until the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import speechft
from processes import Child
from speechft.data.manifest import Corpus
from speechft.errors import ConfigError, DataError, PackageError
from speechft.merging.config_file import merge_config
from speechft.merging.execution import write_merge
from speechft.storage.files import read_json
from speechft.sweeping import search as searching
from speechft.sweeping.search import half_of
from speechft.tasks.measures import Item


def run(base: Path, tuned: Any, corpus: Corpus, out: Path, **more: Any) -> Any:
    given = {"tasks": "sid,ic", "protocol": "quick", "precision": "fp32", "trials": 3, "groups": 2}
    return speechft.search(base, tuned, out=out, corpus=corpus.folder, **{**given, **more})


def test_a_search_writes_what_merge_takes_and_reads_test_after_the_choice(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, opened = tmp_path / "out", []
    original = Corpus._read

    def watched(corpus: Corpus, name: str) -> Any:
        opened.append((name, (out / "chosen.yaml").is_file()))
        return original(corpus, name)

    monkeypatch.setattr(Corpus, "_read", watched)
    texts = Corpus.read_text
    monkeypatch.setattr(
        Corpus, "read_text", lambda c, name: (opened.append((name, False)), texts(c, name))[1]
    )
    found = run(base, tuned, tones, out, test=True, methods="linear,ties", keep_within=100)
    assert {name for name, chosen in opened if not chosen} == {"train", "dev"}
    assert {name for name, chosen in opened if chosen} >= {"test"}
    assert {row.split for row in found.rows} == {"dev", "test"}
    assert found.choice.further.keys() == {"sid", "ic"}
    assert [one.point.name for one in found.judged] == ["base", "trial 0", "trial 1", "trial 2"]
    assert not list(out.rglob("*model*")), "no checkpoint on disk"

    merged = write_merge(merge_config({"out": tmp_path / "merged"}, found.config))
    assert merged.out_digest == found.choice.digest
    assert merged.out_digest in {row.encoder_digest for row in found.rows if row.split == "test"}

    content = read_json(out / "search.json")
    assert content["choice"] == found.choice.point.name
    assert any(one["front"] for one in content["points"])

    again = run(base, tuned, tones, out, test=True, methods="linear,ties", keep_within=100)
    assert (again.rows, again.judged) == (found.rows, found.judged)


def test_what_breaks_the_rule_on_the_first_half_cannot_be_chosen(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All trials gain on the half that chooses; the first half prunes all but the base."""
    judged, halves = searching.judged, []

    def turned(measured: Any, tuned_on: Any, rule: Any) -> Any:
        found = judged(measured, tuned_on, rule)
        halves.append(len(found))
        broken = len(found) == 2  # base and trial: the first half
        fields = {"within": not broken} if broken else {"within": True, "gain": 5.0}
        return [found[0], *(searching.replace(one, **fields) for one in found[1:])]

    monkeypatch.setattr(searching, "judged", turned)
    found = run(base, tuned, tones, tmp_path, trials=2)
    assert halves == [2, 2, 3]
    assert found.choice.point.name == "base"
    told = read_json(tmp_path / "search.json")
    assert [one["pruned"] for one in told["points"]] == [False, True, True]
    assert told["command"] is None, "the base is there"


@pytest.mark.parametrize("trials", [1, 9, 10, 14])
def test_rounds_draw_what_trials_one_by_one_draw(trials: int) -> None:
    import optuna

    def suggest(trial: optuna.Trial) -> dict[str, Any]:
        found: dict[str, Any] = {n: trial.suggest_float(n, 0.0, 1.0, step=0.05) for n in "abc"}
        return {**found, "method": trial.suggest_categorical("method", ["linear", "ties"])}

    def outcome(number: int, drawn: dict[str, Any]) -> searching.Outcome:
        return None if number == 3 else (drawn["a"] - drawn["b"] ** 2, number % 4 != 1)

    def one_by_one(trial: optuna.Trial) -> float:
        found = outcome(trial.number, suggest(trial))
        if found is None:
            raise optuna.TrialPruned
        trial.report(found[0], step=0)
        if not found[1]:
            raise optuna.TrialPruned
        return found[0]

    rounds: list[int] = []

    def judge(drawn: Any) -> list[searching.Outcome]:
        rounds.append(len(drawn))
        return [outcome(number, one) for number, one in drawn.items()]

    studies = [searching._study(5) for _ in range(2)]
    for study in studies:
        study.enqueue_trial({"a": 0.5, "b": 0.5, "c": 0.5, "method": "linear"})
    studies[0].optimize(one_by_one, n_trials=trials)
    searching.play(studies[1], trials, suggest, judge)
    said = [[(t.params, t.state, t.value) for t in study.trials] for study in studies]
    assert said[0] == said[1]
    assert rounds == [min(trials, 10), *[1] * (trials - 10)]


_VERB = """
from helpers import quicken_probes
quicken_probes()
from speechft.evaluation import task_evaluation
run = task_evaluation.TaskEvaluation.run
def slow(*given):
    import time
    time.sleep(0.2)
    return run(*given)
task_evaluation.TaskEvaluation.run = slow
from speechft.cli import main
main()
"""


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.integration
def test_two_processes_search_what_one_searches(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path, killed: bool
) -> None:
    def start(out: str, name: str) -> Child:
        words = [
            "search",
            str(base),
            str(tuned),
            "--tasks",
            "sid,ic",
            "--corpus",
            str(tones.folder),
        ]
        words += ["--trials", "12" if not killed else "3", "--groups", "2", "--test"]
        words += ["--tuned-on", "sid", "--out", str(tmp_path / out)]
        return Child(_VERB, words, tmp_path, name=name)

    code, _, error = start("one", "alone").wait()
    assert code == 0, error
    first, second = (start("two", f"part-{n}") for n in "ab")
    if killed:
        while first.running and not list((tmp_path / "two").rglob("predictions*")):
            time.sleep(0.01)
        first.kill()
    else:
        assert first.wait()[0] == 0
    code, _, error = second.wait()
    assert code == 0, error
    alone, shared = (_contents(tmp_path / name) for name in ("one", "two"))
    assert [name for name in alone if alone[name] != shared.get(name)] == []
    assert killed or shared.keys() == alone.keys()


def _contents(out: Path) -> dict[str, bytes]:
    """Return every file but the record of what was written here before."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".speechft.json")
    }


def test_halves_share_no_speaker_and_hold_everything() -> None:
    items = [Item(f"{n:02d}", "a", "b", 0.0, 1.0, group=f"s{n % 5}") for n in range(20)]
    first, second = (half_of({"sid": [items]}, 3, second=n)["sid"][0] for n in (False, True))
    assert sorted([*first, *second], key=lambda item: item.id) == items
    assert not {item.group for item in first} & {item.group for item in second}
    assert {len({item.group for item in half}) for half in (first, second)} == {2, 3}
    with pytest.raises(DataError, match="it has no halves"):
        half_of({"sid": [items[:1]]}, 0, second=True)


def test_what_cannot_be_searched(
    base: Path, tuned: Path, tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for how, message in (
        ({"trials": 0}, "trials is 0"),
        ({"methods": "lines"}, "there is nothing to search"),
        ({"methods": ""}, "no method to search"),
        ({"groups": 3}, "the encoder has 2 layers"),
        ({"tuned_on": "asr"}, "of which nothing is measured"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(base, tuned, tones, tmp_path / "out", **how)
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(PackageError, match="optuna, which is not installed"):
        run(base, tuned, tones, tmp_path / "out")
