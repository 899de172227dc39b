"""Which tasks are evaluated, and the evaluation of one encoder into a folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import speechft
from speechft.data.manifest import Corpus
from speechft.errors import ConfigError, DataError
from speechft.evaluation import suite, task_evaluation
from speechft.evaluation.candidates import Candidate
from speechft.evaluation.config import RANDOM, EvaluationConfig, ProbeConfig
from speechft.evaluation.predictions import items_of, read_items
from speechft.evaluation.score import RATIO
from speechft.evaluation.suite import assign_tasks, choose_tasks, evaluate_encoder
from speechft.results import ResultRow, read_rows
from speechft.tasks import TASKS, find_task

QUICK = {
    "frame": ProbeConfig(learning_rates=(3e-2,), extend=0, batch=16, epochs=3),
    "utterance": ProbeConfig(learning_rates=(1e-2, 3e-2), extend=0, epochs=4),
}
NAMES = ("pr", "style", "ic", "pc")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suite.PROTOCOLS, "quick", QUICK)


def without(corpus: Corpus, kind: str) -> Corpus:
    """Return the corpus as if it had no labels of a kind."""
    statistics = {
        split: {**values, "labels": {k: n for k, n in values["labels"].items() if k != kind}}
        for split, values in corpus.statistics.items()
    }
    return dataclasses.replace(corpus, statistics=statistics)


def evaluate(source: Path | str, corpus: Corpus, folder: Path, **options: Any) -> list[ResultRow]:
    candidate = options.pop("candidate", Candidate("pre-trained", str(source)))
    names = options.pop("tasks", NAMES)
    config = EvaluationConfig(tasks=names, protocol="quick", precision="fp32")
    tasks = [find_task(name) for name in names]
    settings = {"seed": 0, **options}
    return evaluate_encoder(candidate, tasks, corpus, config, folder, **settings)


def test_tasks_are_chosen_by_name_or_by_what_there_is(tones: Corpus) -> None:
    named = choose_tasks(EvaluationConfig(tasks=("sid", "pr")), tones)
    assert [task.name for task in named] == ["sid", "pr"]
    every = choose_tasks(EvaluationConfig(tasks="available"), tones)
    lacking = {"ks", "qbe", "sd", "er", "sf"}
    assert [task.name for task in every] == [name for name in TASKS if name not in lacking]
    fewer = choose_tasks(EvaluationConfig(tasks="available"), without(tones, "speaker"))
    assert {"sid", "asv"} == {t.name for t in every} - {task.name for task in fewer}


def test_unknown_names_are_refused(tones: Corpus) -> None:
    with pytest.raises(ConfigError, match="unknown protocol 'minni'") as caught:
        choose_tasks(EvaluationConfig(protocol="minni"), tones)
    assert caught.value.hint == "did you mean 'mini'?"
    with pytest.raises(ConfigError, match="unknown task 'prr'"):
        choose_tasks(EvaluationConfig(tasks=("prr",)), tones)
    with pytest.raises(ConfigError, match="no task to evaluate"):
        choose_tasks(EvaluationConfig(tasks=()), tones)


def test_tasks_that_the_corpus_lacks_are_refused(tones: Corpus) -> None:
    with pytest.raises(
        DataError, match="for task sid: every utterance needs label 'speaker'"
    ) as caught:
        choose_tasks(EvaluationConfig(tasks=("sid",)), without(tones, "speaker"))
    assert "pr, asr, ic" in str(caught.value.hint)


def test_a_corpus_without_a_task_says_what_it_lacks_for_those_that_are_close(tones: Corpus) -> None:
    available = EvaluationConfig(tasks="available")

    def told(*corpora: Corpus) -> DataError:
        with pytest.raises(DataError) as caught:
            assign_tasks(available, corpora)
        return caught.value

    bare = dataclasses.replace(tones, statistics={})
    assert told(bare).message.endswith("supports no task: its utterances have no labels")
    known = {split: {**v, "labels": {"speaker": 18}} for split, v in tones.statistics.items()}
    named = {"trian": known["train"], "test": known["test"]}
    misnamed = dataclasses.replace(tones, statistics=named)
    assert told(misnamed).message == (
        "corpus tones supports no task: for sid, asv, its split train is missing or empty; "
        "its splits: trian, test (is 'trian' meant?)"
    )
    assert "draw=recordings" in str(told(misnamed).hint)
    both = told(bare, misnamed).message.splitlines()
    assert both == [told(bare).message, told(misnamed).message]
    of_column = {split: {**v, "labels": {"room": 18}} for split, v in tones.statistics.items()}
    column = dataclasses.replace(tones, statistics=of_column)
    column._values.update({(split, "room"): frozenset("ab") for split in tones.statistics})
    assert told(column).hint == "some are taken only where they are named: --tasks label:room"


def test_evaluation_writes_rows_and_predictions(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path
) -> None:
    folder = tmp_path / "pre-trained"
    rows = evaluate(tiny_hubert, tones, folder)
    found = {p: read_rows(p) for p in folder.glob("evaluation/pre-trained-*/*/results.jsonl")}
    assert len(found) == len(NAMES)
    for path, [row] in found.items():
        place = path.parent.relative_to(folder)
        assert path.parent.name.startswith(f"{row.task}-")
        assert row.model_copy(update={"predictions": f"{place}/{row.predictions}"}) in rows
    assert [row.task for row in rows] == list(NAMES)
    test_ids = sorted(cut.id for cut in tones.split("test"))
    for row in rows:
        items = items_of(row, folder)
        assert [item.id for item in items] == test_ids
        assert row.value == pytest.approx(RATIO.value(items))
        assert row.n == len(items)
        assert row.interval is not None
        assert row.interval[0] <= row.value <= row.interval[1]
        assert (row.split, row.protocol, row.encoder) == ("test", "quick", "pre-trained")
        assert isinstance(row.details["converged"], bool)
        assert sum(row.details["layer_weights"]) == pytest.approx(1.0, abs=1e-3)
    recognition = rows[0].details
    kinds = ("substitutions", "insertions", "deletions")
    assert sum(recognition[k] for k in kinds) == pytest.approx(rows[0].value, abs=0.02)
    assert 0 <= recognition["blank_ratio"] <= 1


def test_unchanged_evaluation_is_skipped(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pre-trained"
    first = evaluate(tiny_hubert, tones, folder, tasks=("style",))
    ran: list[str] = []
    original = task_evaluation.probe_seeds

    def counted(task: Any, *args: Any) -> Any:
        ran.append(task.name)
        return original(task, *args)

    monkeypatch.setattr(task_evaluation, "probe_seeds", counted)
    assert evaluate(tiny_hubert, tones, folder, tasks=("style",)) == first
    assert ran == []


@pytest.mark.parametrize("change", ["seed", "corpus", "splits", "probe"])
def test_changed_evaluation_is_not_taken_for_the_old_one(
    change: str, tiny_hubert: Path, tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(tiny_hubert, tones, tmp_path / "one", tasks=("style",))
    options: dict[str, Any] = {"tasks": ("style",)}
    corpus = tones
    if change == "seed":
        options["seed"] = 1
    elif change == "corpus":
        digests = dict.fromkeys(tones.digests, "other")
        corpus = dataclasses.replace(tones, digest="other", digests=digests)
    elif change == "splits":
        info = {**tones.info, "task_splits": {"*": ["train", "test", "dev"]}}
        corpus = dataclasses.replace(tones, info=info)
    else:
        quicker = QUICK["utterance"].model_copy(update={"epochs": 2})
        monkeypatch.setitem(suite.PROTOCOLS, "quick", {**QUICK, "utterance": quicker})
    ran: list[int] = []
    original = task_evaluation.probe_seeds
    monkeypatch.setattr(
        task_evaluation, "probe_seeds", lambda *args: (ran.append(1), original(*args))[1]
    )
    evaluate(tiny_hubert, corpus, tmp_path / "one", **options)
    assert ran == [1]


def test_without_test_the_dev_split_is_reported(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path
) -> None:
    [row] = evaluate(tiny_hubert, tones, tmp_path / "a", tasks=("style",), test=False)
    assert (row.split, row.n, row.interval) == ("dev", 18, None)
    assert row.value == pytest.approx(row.details["dev"], abs=1e-3)
    dev_ids = sorted(cut.id for cut in tones.split("dev"))
    assert [item.id for item in items_of(row, tmp_path / "a")] == dev_ids


def test_floors_have_their_rows(tiny_hubert: Path, tones: Corpus, tmp_path: Path) -> None:
    mfcc = Candidate("MFCC", "mfcc")
    drawn = [Candidate("random", RANDOM, like=str(tiny_hubert), seed=seed) for seed in (0, 1)]
    rows = [
        evaluate("", tones, tmp_path / str(n), candidate=candidate, tasks=("style",))[0]
        for n, candidate in enumerate([mfcc, *drawn])
    ]
    assert [row.encoder for row in rows] == ["MFCC", "random", "random"]
    assert len(rows[0].details["layer_weights"]) == 1
    assert len(rows[1].details["layer_weights"]) == 3
    assert len({row.encoder_digest for row in rows}) == 3


def test_missing_predictions_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"predictions .*sid\.jsonl cannot be read"):
        read_items(tmp_path / "sid.jsonl")


def test_items_survive_the_file(tiny_hubert: Path, tones: Corpus, tmp_path: Path) -> None:
    [row] = evaluate(tiny_hubert, tones, tmp_path / "a", tasks=("pr",))
    items = items_of(row, tmp_path / "a")
    lines = (tmp_path / "a" / str(row.predictions)).read_text().splitlines()
    written = [json.loads(line) for line in lines]
    for item, line in zip(items, written, strict=True):
        assert line == {k: v for k, v in dataclasses.asdict(item).items() if k != "searched"}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("protocol=quik", "unknown protocol 'quik'"),
        ("tasks=pr,sidd", "unknown task 'sidd'"),
        ("language_model=words.arpa", "is for task asr"),
    ],
)
def test_names_are_checked_before_a_corpus_is_prepared(
    setting: str, told: str, tiny_hubert: Path, tmp_path: Path
) -> None:
    table = tmp_path / "my.csv"
    table.write_text("path,split\nwould take an hour.wav,train\n")
    given: dict[str, Any] = {"corpus": table, "out": tmp_path / "out"}
    base = str(tiny_hubert)
    with pytest.raises(ConfigError, match=told):
        speechft.evaluate(base, overrides=["tasks=pr,sid", setting], **given)
    with pytest.raises(ConfigError, match=told):
        speechft.run("demo", overrides=[f"encoder={base}", f"evaluation.{setting}"], **given)
    assert not list((tmp_path / "out").rglob("corpus*"))
