"""One bad item never ends an evaluation: left out, counted in the row, named; failures end last."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from helpers import tone_corpus
from speechft import cli, pipeline
from speechft.data.kept_cuts import Cuts
from speechft.data.labels import phones_of
from speechft.data.manifest import Corpus, open_corpus, write_corpus
from speechft.data.utterances import Utterance
from speechft.errors import DataError
from speechft.evaluation.candidates import Candidate
from speechft.evaluation.config import EvaluationConfig, ProbeConfig
from speechft.evaluation.failures import Failures
from speechft.evaluation.protocols import PROTOCOLS
from speechft.evaluation.suite import assign_tasks, evaluate_encoder, tasks_of
from speechft.results import ResultRow, read_rows
from speechft.tasks import find_task

_FEW: dict[str, Any] = {"extend": 0, "epochs": 2, "halve_at": (), "batch": 16}
QUICK = {
    "frame": ProbeConfig(learning_rates=(3e-2,), **_FEW),
    "utterance": ProbeConfig(learning_rates=(1e-1,), **_FEW),
    "asv": ProbeConfig(learning_rates=(3e-3,), hidden=8, units=(12,), frames=24, **_FEW),
}
Splits = dict[str, list[Utterance]]


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for protocol in ("mini", "s3prl"):
            patch.setitem(PROTOCOLS, protocol, QUICK)
        yield


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """Return utterances of three speakers, seven of each in every split."""
    corpus = tone_corpus(tmp_path_factory.mktemp("tones"), per_speaker=7)
    return {
        split: [
            Utterance(
                cut.id,
                cut.recording.sources[0].source,
                cut.num_samples,
                text=cut.supervisions[0].text,
                speaker=cut.supervisions[0].speaker,
                phones=phones_of(cut),
                labels=dict(cut.supervisions[0].custom),
            )
            for cut in corpus.split(split)
        ]
        for split in ("train", "dev", "test")
    }


def written(folder: Path, splits: Splits, **info: Any) -> Corpus:
    folder.mkdir(exist_ok=True)
    write_corpus(folder, "tones", "1", splits, info)
    return open_corpus(folder)


def copied(splits: Splits, *more: tuple[str, Utterance]) -> Splits:
    found = {name: list(items) for name, items in splits.items()}
    for split, item in more:
        found[split].append(item)
    return found


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, splits: Splits) -> Utterance:
    """Return a recording of 0.3 s, which the x-vector of ASV cannot use."""
    path = tmp_path_factory.mktemp("short") / "short.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(4800), 16_000)
    phones = [("A", 0.0, 0.3)]
    return dataclasses.replace(
        splits["test"][0], id="short", path=str(path), samples=4800, phones=phones
    )


def evaluated(
    corpus: Corpus, task: str, encoder: Path, out: Path, **options: Any
) -> tuple[ResultRow, list[dict[str, str]]]:
    config = EvaluationConfig(tasks=(task,), precision="fp32", **options)
    tasks, _ = assign_tasks(config, [corpus])
    candidate = Candidate("tiny", str(encoder))
    row = evaluate_encoder(candidate, tasks, corpus, config, out, seed=0)[0]
    file = (out / str(row.predictions)).parent / "left_out.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return row, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def clean(
    _quick: None, splits: Splits, tiny_hubert: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ResultRow]:
    """Return the rows of a corpus without bad items, by task."""
    place = tmp_path_factory.mktemp("clean")
    corpus, tasks = written(place / "a", splits), [find_task(name) for name, _, _ in BAD.values()]
    candidate, config = Candidate("tiny", str(tiny_hubert)), EvaluationConfig(precision="fp32")
    rows = evaluate_encoder(candidate, tasks, corpus, config, place / "out", seed=0)
    assert not list(place.rglob("left_out.jsonl"))
    return {row.task: row for row in rows}


def unlike(item: Utterance, **changes: Any) -> Utterance:
    """Return an utterance with other labels."""
    labels = {k: v for k, v in {**item.labels, **changes.pop("labels", {})}.items() if v}
    return dataclasses.replace(item, labels=labels, **changes)


BAD: dict[str, tuple[str, Callable[[Utterance], Utterance], str]] = {
    "too short for a head": ("asv", lambda item: item, "too short for the head"),
    "without phones": ("pr", lambda item: unlike(item, phones=[]), "no label"),
    "unseen speaker": ("sid", lambda item: unlike(item, speaker="new"), "class unseen in training"),
    "without a label": ("style", lambda item: unlike(item, labels={"style": ""}), "no label"),
    "fewer slots": ("ic", lambda i: unlike(i, labels={"intent": "A"}), "another number of slots"),
    "alignment": ("pc", lambda i: unlike(i, phones=[("A", 9.0, 9.1)]), "alignment without a frame"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_item_is_left_out_counted_and_named(
    kind: str,
    splits: Splits,
    short: Utterance,
    clean: dict[str, ResultRow],
    tiny_hubert: Path,
    tmp_path: Path,
) -> None:
    task, spoil, reason = BAD[kind]
    spoiled = copied(splits, ("test", spoil(short)))
    row, lines = evaluated(written(tmp_path / "b", spoiled), task, tiny_hubert, tmp_path / "1")
    other = clean[task]
    assert (row.left_out, other.left_out) == ({reason: 1}, {})
    assert lines == [{"id": "short", "split": "test", "reason": reason}]
    assert (row.value, row.n, row.interval) == (other.value, other.n, other.interval)


def test_a_bad_item_of_training_takes_no_part_in_it(
    splits: Splits,
    short: Utterance,
    clean: dict[str, ResultRow],
    tiny_hubert: Path,
    tmp_path: Path,
) -> None:
    long = unlike(short, phones=[("AE"[n % 2], 0.0, 0.1) for n in range(40)])
    spoiled = copied(splits, ("train", long))
    row, lines = evaluated(written(tmp_path / "b", spoiled), "pr", tiny_hubert, tmp_path / "1")
    assert row.left_out == {"target longer than the frames": 1}
    assert lines[0]["split"] == "train"
    assert row.value == clean["pr"].value
    assert row.details["layer_weights"] == clean["pr"].details["layer_weights"]


def test_trials_fall_with_their_recordings(
    splits: Splits, short: Utterance, tiny_hubert: Path, tmp_path: Path
) -> None:
    names = [item.id for item in splits["test"]]
    pairs = [(a, b) for a in names[:6] for b in names[6:12]]
    trials = [f"{int(int(a[-1]) % 3 == int(b[-1]) % 3)} {a} {b}\n" for a, b in pairs]
    places = {}
    for name, more in (("a", []), ("b", [f"1 {names[0]} short\n", f"0 {names[1]} nobody\n"])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trials.txt").write_text("".join([*trials, *more]))
        spoiled = copied(splits, *[("test", short)] * bool(more))
        places[name] = written(tmp_path / name, spoiled, trials="trials.txt")
    row, lines = evaluated(places["b"], "asv", tiny_hubert, tmp_path / "1")
    clean, _ = evaluated(places["a"], "asv", tiny_hubert, tmp_path / "2")
    assert (row.n, row.value) == (36, clean.value)
    assert row.left_out == {
        "pair of a recording that is left out": 1,
        "pair without audio": 1,
        "too short for the head": 1,
    }
    assert {line["id"] for line in lines} == {"short", f"{names[0]}|short", f"{names[1]}|nobody"}


def test_pairs_of_queries_and_documents_fall_too(
    miniature: Corpus, tiny_hubert: Path, tmp_path: Path
) -> None:
    lines = (miniature.folder / "qbe.tsv").read_text()
    first = lines.partition("\n")[0].split("\t")[0]
    (miniature.folder / "gaps.tsv").write_text(
        f"{lines}{first}\tgone\t1\n{first}\ttest-000@short\t0\nq-short\ttest-000\t1\n"
    )
    corpus = dataclasses.replace(miniature, info={**miniature.info, "qbe": "gaps.tsv"})
    for split in ("dev-queries", "documents"):
        cuts = list(miniature.cuts(split))
        added = cuts[0].truncate(duration=0.02)
        name = "q-short" if split == "dev-queries" else "test-000@short"
        corpus._cuts[split] = Cuts.of([*cuts, added.with_id(name)])
    row, named = evaluated(corpus, "qbe", tiny_hubert, tmp_path / "1", max_left_out=0.2)
    clean, _ = evaluated(miniature, "qbe", tiny_hubert, tmp_path / "2")
    assert (row.value, row.n, row.details["dev"]) == (clean.value, clean.n, clean.details["dev"])
    assert row.left_out == {
        "pair of a recording that is left out": 2,
        "pair without audio": 1,
        "shorter than one frame": 2,
    }
    assert {line["id"] for line in named} == {
        *("q-short", "test-000@short", f"{first}|gone"),
        *(f"{first}|test-000@short", "q-short|test-000"),
    }
    missing = "".join(line for line in lines.splitlines(True) if not line.startswith(first))
    (miniature.folder / "gaps.tsv").write_text(missing)
    corpus = dataclasses.replace(corpus, digest="other")
    row, _ = evaluated(corpus, "qbe", tiny_hubert, tmp_path / "3", max_left_out=0.25)
    assert row.left_out == {"query without a pair": 1}
    with pytest.raises(DataError, match=f"holds no pair of query '{first}' of split dev-queries"):
        evaluated(corpus, "qbe", tiny_hubert, tmp_path / "4", max_left_out=0.2)


def test_too_many_are_an_error_that_does_not_end_other_tasks_and_encoders(
    splits: Splits,
    short: Utterance,
    tiny_hubert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    twin = dataclasses.replace(short, id="twin")
    written(tmp_path / "b", copied(splits, ("test", short), ("test", twin)))
    out = tmp_path / "out"
    given = ["evaluate", str(tiny_hubert), "mfcc", "--corpus", str(tmp_path / "b")]
    given += ["--tasks", "asv,style", "--out", str(out), "--no-cache"]
    monkeypatch.setattr(sys, "argv", ["speechft", *given])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    rows = read_rows(out / "results.jsonl")
    assert {(row.encoder, row.task) for row in rows if row.metric == "accuracy"} == {
        (tiny_hubert.name, "style"),
        ("mfcc", "style"),
    }
    error = capsys.readouterr().err
    assert (
        f"asv of {tiny_hubert.name}, mfcc: task asv cannot use 2 of the 23 items of split test, "
        "more than the 5 % that may be left out: short (too short for the head), twin (too short"
    ) in error
    assert "Traceback" not in error
    monkeypatch.setattr(sys, "argv", ["speechft", *given, "--set", "max_left_out=0.1"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    rows = read_rows(out / "results.jsonl")
    assert {row.encoder: row.left_out for row in rows if row.task == "asv"} == {
        name: {"too short for the head": 2} for name in (tiny_hubert.name, "mfcc")
    }


def test_protocol_s3prl_leaves_nothing_out(
    splits: Splits, short: Utterance, tiny_hubert: Path, tmp_path: Path
) -> None:
    corpus = written(tmp_path / "b", copied(splits, ("test", short)))
    with pytest.raises(DataError, match=r"cut short has 14 frames; .* task asv needs at least 16"):
        evaluated(corpus, "asv", tiny_hubert, tmp_path / "1", protocol="s3prl")
    unlabelled = written(tmp_path / "c", copied(splits, ("test", unlike(short, phones=[]))))
    with pytest.raises(DataError, match="in its split test 21 of 22 have it"):
        evaluated(unlabelled, "pr", tiny_hubert, tmp_path / "2", protocol="s3prl")
    long = unlike(short, phones=[("AE"[n % 2], 0.0, 0.1) for n in range(40)])
    trained = written(tmp_path / "d", copied(splits, ("train", long)))
    row, lines = evaluated(trained, "pr", tiny_hubert, tmp_path / "3", protocol="s3prl")
    assert (row.left_out, lines) == ({}, []), "it counts as zero in its batch"


def test_a_recording_that_cannot_be_read_fails_only_the_tasks_that_use_it(
    splits: Splits, short: Utterance, tiny_hubert: Path, tmp_path: Path
) -> None:
    gone = copied(splits)
    gone["asv-test"] = [*splits["test"], dataclasses.replace(short, path="gone.wav", samples=16000)]
    corpus = written(
        tmp_path / "b",
        gone,
        task_splits={"*": ["train", "dev", "test"], "asv": ["train", "dev", "asv-test"]},
    )
    config = EvaluationConfig(tasks=("asv", "style"), precision="fp32")
    tasks, failures = [find_task(name) for name in config.tasks], Failures()
    candidate = Candidate("tiny", str(tiny_hubert))
    rows = evaluate_encoder(
        candidate, tasks, corpus, config, tmp_path / "out", seed=0, failures=failures
    )
    assert ({row.task for row in rows}, failures.tasks) == ({"style"}, {"asv"})
    with pytest.raises(DataError, match=r"asv of tiny: audio .*gone\.wav does not exist"):
        failures.raise_any(tmp_path / "out")


def test_a_run_reports_what_it_can_before_its_error(
    splits: Splits, short: Utterance, tiny_hubert: Path, tmp_path: Path
) -> None:
    from speechft.recipe import Recipe

    twins = [dataclasses.replace(short, id=f"twin{n}") for n in range(2)]
    written(tmp_path / "b", copied(splits, *(("test", twin) for twin in twins)))
    recipe = Recipe.model_validate(
        {
            "title": "bad items",
            "encoder": str(tiny_hubert),
            "data": {"corpus": str(tmp_path / "b")},
            "finetuning": {
                "task": "style",
                "steps": 2,
                "learning_rate": 1e-3,
                "trackers": (),
                "precision": "fp32",
                "batch_utterances": 4,
            },
            "merging": {"alpha": 0.5},
            "evaluation": {"tasks": ["style", "asv"], "floors": [], "precision": "fp32"},
        }
    )
    with pytest.raises(DataError, match=r"asv of pre-trained, .*: task asv cannot use 2 of the 23"):
        pipeline.run(recipe, tmp_path / "out")
    assert {row.task for row in read_rows(tmp_path / "out" / "results.jsonl")} == {"style"}
    assert "bad items" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("protocol", ["mini", "s3prl"])
def test_what_preparation_lost_counts_under_any_protocol(
    protocol: str, splits: Splits, tmp_path: Path
) -> None:
    lost = {"train": {"silence": 1}, "dev": {"cut-off": 2}, "other": {"too-short": 9}}
    corpus = written(tmp_path / "b", splits, lost=lost)
    with pytest.raises(DataError, match=r"lacks 2 of 23 recordings of split dev, .*cut-o") as seen:
        evaluated(corpus, "style", Path("mfcc"), tmp_path / "1", protocol=protocol)
    assert "raise evaluation.max_left_out, for evaluate" in str(seen.value.hint)
    with pytest.raises(DataError, match="lacks 2 of 23 recordings of split dev"):
        tasks_of(EvaluationConfig(protocol=protocol), {"style": corpus})
    row, _ = evaluated(
        corpus, "style", Path("mfcc"), tmp_path / "1", protocol=protocol, max_left_out=0.1
    )
    assert row.left_out == {
        "when the corpus was prepared: cut-off": 2,
        "when the corpus was prepared: silence": 1,
    }


def test_a_task_may_not_leave_out_what_preparation_used_up(
    splits: Splits, short: Utterance, tmp_path: Path
) -> None:
    spoiled = copied(splits, ("test", unlike(short, labels={"style": ""})))
    fine = written(tmp_path / "a", spoiled, lost={"train": {"silence": 1}})
    assert evaluated(fine, "style", Path("mfcc"), tmp_path / "1")[0].left_out["no label"] == 1
    corpus = written(tmp_path / "b", spoiled, lost={"test": {"silence": 1}})
    words = "1 of the 22 items of split test beside the 1 that preparation left out"
    with pytest.raises(DataError, match=words):
        evaluated(corpus, "style", Path("mfcc"), tmp_path / "2")
