"""Evaluations that several processes share: each once, figures those of one process."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from helpers import tiny_encoder
from processes import Child
from speechft.data.manifest import Corpus
from speechft.evaluation.candidates import Candidate
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.jobs import EncoderJobs
from speechft.evaluation.suite import choose_tasks, evaluate_encoder
from speechft.features.extract import extract
from speechft.parallel.claims import FOLDER, Workers
from speechft.parallel.sharing import share
from speechft.results import ResultRow

_VERB = (
    "from helpers import quicken_probes; quicken_probes(); from speechft.cli import main; main()"
)
_TASKS = "sid,pr"


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the folders of two encoders."""
    folder = tmp_path_factory.mktemp("encoders")
    for seed in (1, 2):
        tiny_encoder(seed=seed).save(folder / f"encoder-{seed}")
    return [str(folder / f"encoder-{seed}") for seed in (1, 2)]


def _contents(out: Path) -> dict[str, bytes]:
    """Return what lies in a folder of results."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != ".lock" and "cache" not in path.parts
    }


def _evaluate(out: Path, encoders: list[str], tones: Corpus, folder: Path, name: str) -> Child:
    words = ["evaluate", *encoders, "--corpus", str(tones.folder), "--tasks", _TASKS]
    return Child(_VERB, [*words, "--out", str(out)], folder, name=name)


def test_two_processes_give_what_one_gives(
    tones: Corpus, encoders: list[str], tmp_path: Path
) -> None:
    code, _, error = _evaluate(tmp_path / "one", encoders, tones, tmp_path, "alone").wait()
    assert code == 0, error
    both = [_evaluate(tmp_path / "two", encoders, tones, tmp_path, f"part-{n}") for n in "ab"]
    for child in both:
        code, _, error = child.wait()
        assert code == 0, error
    alone, shared = _contents(tmp_path / "one"), _contents(tmp_path / "two")
    assert shared.keys() == alone.keys()
    assert [name for name in alone if alone[name] != shared[name]] == []
    assert not (tmp_path / "two" / FOLDER).exists()


def test_features_of_other_settings_are_never_taken(
    tones: Corpus, encoders: list[str], tmp_path: Path
) -> None:
    """Their names hold what they depend on: encoder, precision, mode, device and corpus."""
    names = set()
    changes: list[dict[str, object]] = [{}, {"mode": "s3prl"}, {"precision": "bf16"}]
    for encoder in encoders:
        for change in changes:
            config = EvaluationConfig(tasks=("sid",), precision="fp32").model_copy(update=change)
            tasks = choose_tasks(config, tones)
            jobs = EncoderJobs(
                Candidate("a", encoder), tasks, {"sid": tones}, config, tmp_path, seed=0
            )
            names.add(jobs._passes[tones.digest]._name)
    assert len(names) == len(encoders) * len(changes)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_of_four_processes_two_may_be_killed(
    tones: Corpus, encoders: list[str], tmp_path: Path, seed: int
) -> None:
    code, _, error = _evaluate(tmp_path / "one", encoders, tones, tmp_path, "alone").wait()
    assert code == 0, error
    draw = random.Random(seed)
    parts = [_evaluate(tmp_path / "four", encoders, tones, tmp_path, f"part-{n}") for n in "abcd"]
    for child in parts[:2]:
        time.sleep(6 * draw.random())
        if child.running:
            child.kill()
    for child in parts[2:]:
        code, _, error = child.wait()
        assert code == 0, error
    alone, shared = _contents(tmp_path / "one"), _contents(tmp_path / "four")
    assert {n: c for n, c in shared.items() if n in alone} == alone


def _jobs(encoder: str, corpus: Corpus, out: Path) -> EncoderJobs:
    config = EvaluationConfig(tasks=("sid", "pr"), floors=())
    tasks = choose_tasks(config, corpus)
    corpora = {task.name: corpus for task in tasks}
    return EncoderJobs(Candidate("tiny", encoder), tasks, corpora, config, out, seed=0)


def test_features_are_made_once_and_handed_over(
    tones: Corpus,
    encoders: list[str],
    tmp_path: Path,
    quick_probes: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def counted(encoder: object, cuts: object, **settings: object) -> object:
        found = extract(encoder, cuts, **settings)  # type: ignore[arg-type]
        asked.append(len(found.pooled))
        return found

    passes: list[int] = []
    monkeypatch.setattr("speechft.evaluation.jobs.extract", counted)
    monkeypatch.setattr("speechft.features.keeping.Keeper.keep", _counting(passes), raising=True)
    one, two = (_jobs(encoders[0], tones, tmp_path) for _ in range(2))
    names = [one.unit(task) for task in one.jobs]
    with Workers(tmp_path, "a", names) as here, Workers(tmp_path, "b", names) as there:
        share(one.units(here)[:1], here)
        encoded = sum(passes)
        units = two.units(there)[1:]
        assert not units[0].ready()
        assert not list((tmp_path / FOLDER).glob("*.asked")), "looking asks nobody"
        units[0].ask()
        while not units[0].ready():
            time.sleep(0.05)
        share(units, there)
        one.release(here)
        two.release(there)
    assert encoded > 0
    assert sum(passes) == encoded  # the second one read what the first had made
    rows = [_plain(row) for row in one.rows(())]
    single = _rows_of_one(encoders[0], tones, tmp_path / "single")
    assert rows == single


def _counting(passes: list[int]):  # type: ignore[no-untyped-def]
    from speechft.features.keeping import Keeper

    keep = Keeper.keep

    def counted(self, group, output):  # type: ignore[no-untyped-def]
        passes.append(len(group))
        keep(self, group, output)

    return counted


def _rows_of_one(encoder: str, corpus: Corpus, out: Path) -> list[dict[str, object]]:
    config = EvaluationConfig(tasks=("sid", "pr"), floors=())
    tasks = choose_tasks(config, corpus)
    found = evaluate_encoder(Candidate("tiny", encoder), tasks, corpus, config, out, seed=0)
    return [_plain(row) for row in found]


def _plain(row: ResultRow) -> dict[str, object]:
    return row.as_dict()


def test_where_features_cannot_be_handed_over_each_makes_its_own(
    tones: Corpus,
    encoders: list[str],
    tmp_path: Path,
    quick_probes: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("no way to write this")

    monkeypatch.setattr("speechft.evaluation.shared_pass.PooledCache.put", refuse)
    one, two = (_jobs(encoders[0], tones, tmp_path) for _ in range(2))
    names = [one.unit(task) for task in one.jobs]
    with Workers(tmp_path, "a", names) as here, Workers(tmp_path, "b", names) as there:
        share(one.units(here)[:1], here)
        assert share(two.units(there), there) == {}
        one.release(here)
        two.release(there)
    assert [row.task for row in two.rows(())] == ["sid", "pr"]


def test_features_that_nobody_asked_for_are_left_to_others(
    tones: Corpus, encoders: list[str], tmp_path: Path, quick_probes: None
) -> None:
    one, two = (_jobs(encoders[0], tones, tmp_path) for _ in range(2))
    names = [one.unit(task) for task in one.jobs]
    with Workers(tmp_path, "a", names) as here, Workers(tmp_path, "b", names) as there:
        share(one.units(here)[:1], here)
        one.release(here)
        assert share(two.units(there), there) == {}
        two.release(there)
    assert [row.task for row in two.rows(())] == ["sid", "pr"]


def test_a_sweep_of_two_processes_is_that_of_one(
    tones: Corpus, encoders: list[str], tmp_path: Path
) -> None:
    def sweep(out: str, name: str) -> Child:
        words = ["sweep", *encoders, "--alphas", "0.25,0.5,1", "--tasks", "sid", "--force"]
        words += ["--tuned-on", "sid", "--corpus", str(tones.folder), "--out", str(tmp_path / out)]
        return Child(_VERB, words, tmp_path, name=name)

    children = [sweep("one", "alone")]
    code, _, error = children[0].wait()
    assert code == 0, error
    for child in [sweep("two", f"part-{n}") for n in "ab"]:
        code, _, error = child.wait()
        assert code == 0, error
    alone, shared = _contents(tmp_path / "one"), _contents(tmp_path / "two")
    assert shared.keys() == alone.keys()
    assert [name for name in alone if alone[name] != shared[name]] == []
    parts = [(tmp_path / f"part-{n}.err").read_text() for n in "ab"]
    measured = [sum(", sid: accuracy" in line for line in part.splitlines()) for part in parts]
    assert sum(measured) == 4  # base and three merges, each by one of them
