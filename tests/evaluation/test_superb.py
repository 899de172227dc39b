"""All ten SUPERB tasks on a miniature corpus, their probes on files, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import speechft
from speechft.data.kept_cuts import Cuts, chosen
from speechft.data.manifest import Corpus
from speechft.errors import CheckpointError, DataError
from speechft.evaluation import task_evaluation
from speechft.evaluation.candidates import Candidate
from speechft.evaluation.compare import compare, difference_table
from speechft.evaluation.config import EvaluationConfig, ProbeConfig
from speechft.evaluation.encoders import evaluate
from speechft.evaluation.predictions import items_of
from speechft.evaluation.protocols import PROTOCOLS, differences, protocol_notes, settings_of
from speechft.evaluation.score import resampled
from speechft.evaluation.suite import evaluate_encoder
from speechft.prediction.pipelines import load_pipeline
from speechft.results import ResultRow, read_rows, write_rows
from speechft.tasks import SUPERB, TASKS, find_task

LINEAR = {"extend": 0, "epochs": 6, "halve_at": (), "batch": 16}
QUICK = {
    "frame": ProbeConfig(learning_rates=(3e-2,), **LINEAR),
    "utterance": ProbeConfig(learning_rates=(1e-1,), **LINEAR),
    "asr": ProbeConfig(learning_rates=(3e-3, 1e-2), units=(8,), hidden=8, **LINEAR),
    "sf": ProbeConfig(learning_rates=(1e-2,), units=(8,), spec_augment=True, **LINEAR),
    "sd": ProbeConfig(learning_rates=(1e-2,), units=(8,), **LINEAR),
    "asv": ProbeConfig(learning_rates=(3e-3,), hidden=8, units=(12,), frames=24, **LINEAR),
    "ks": ProbeConfig(
        learning_rates=(1e-1,),
        crop_seconds=0.5,
        crops=2,
        crop_dev=True,
        **LINEAR,
    ),
}
FIGURES = {
    "pr": ["per"],
    "asr": ["wer"],
    "ks": ["accuracy"],
    "qbe": ["mtwv"],
    "sid": ["accuracy"],
    "asv": ["eer"],
    "sd": ["der"],
    "er": ["accuracy"],
    "ic": ["accuracy"],
    "sf": ["slot_type_f1", "slot_value_cer"],
}


@pytest.fixture(scope="module")
def evaluated(
    tiny_hubert: Path, miniature: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[ResultRow]]:
    """Return the folder and rows of one evaluation on all ten tasks, with frames on disk."""
    PROTOCOLS["quick-ten"] = QUICK
    out = tmp_path_factory.mktemp("ten")
    config = EvaluationConfig(
        tasks=SUPERB,
        protocol="quick-ten",
        precision="fp32",
        floors=(),
        cache=str(out / "cache"),
        frame_cache_gb=0.001,
        frame_codec="int8",
        frame_memory_gb=0.0005,
    )
    return out, evaluate([str(tiny_hubert)], str(miniature.folder), config, out)


def folder_of(out: Path, task: str) -> Path:
    [folder] = (out / "evaluation").glob(f"*/{task}-*")
    return folder


def test_every_task_reports_its_figures(evaluated: tuple[Path, list[ResultRow]]) -> None:
    out, rows = evaluated
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.task, []).append(row.metric)
    assert found == FIGURES
    assert rows == read_rows(out / "results.jsonl")
    for row in rows:
        items = items_of(row, out)
        measure = next(m for m in find_task(row.task).measures if m.name == row.metric)
        assert row.value == pytest.approx(measure.value(items))
        assert row.n == len(items) > 0
        assert [item.id for item in items] == sorted(item.id for item in items)
        assert row.interval is not None
        assert row.interval[0] - 1e-9 <= row.value <= row.interval[1] + 1e-9
        assert row.details["uncertainty"] == f"{resampled(items, measure)} of the test data only"
        assert {"precision", "device", "kernel", "threads"} <= row.details.keys()


def test_details_of_tasks(evaluated: tuple[Path, list[ResultRow]]) -> None:
    details = {row.task: row.details for row in evaluated[1]}
    assert len(details["er"]["folds"]) == 2
    assert {"substitutions", "insertions", "deletions", "blank_ratio"} <= details["asr"].keys()
    assert {"missed", "false_alarm", "confusion"} <= details["sd"].keys()
    assert len(details["qbe"]["setting"]["dev_by_layer"]) == 3
    for task in ("pr", "sid", "er", "asv", "qbe"):
        assert " groups " in details[task]["uncertainty"], task
    assert " items " in details["sd"]["uncertainty"], "a mixture belongs to two speakers"


def test_crops_are_recorded(evaluated: tuple[Path, list[ResultRow]]) -> None:
    lines = (folder_of(evaluated[0], "ks") / "crops.jsonl").read_text().splitlines()
    crops = [json.loads(line) for line in lines]
    assert len(crops) > 10
    assert {round(crop["duration"], 6) for crop in crops} == {0.5}
    assert len({crop["start"] for crop in crops}) == len(crops)


def check_trials(pipeline: Any, items: dict[str, Any], corpus: Corpus) -> None:
    """Embeddings of files have the cosines of the trials that were scored."""
    cuts = {cut.id: cut.recording.sources[0].source for cut in corpus.split("test")}
    for item in list(items.values())[:3]:
        first, second = (
            np.array(pipeline.answer(cuts[name]).values["embedding"]) for name in item.id.split("|")
        )
        assert first @ second == pytest.approx(item.amount, abs=0.02), "frames on disk are int8"


@pytest.mark.parametrize("task", ["pr", "asr", "sid", "er", "ic", "sf", "sd", "asv"])
def test_probes_predict_on_files(
    task: str, evaluated: tuple[Path, list[ResultRow]], miniature: Corpus
) -> None:
    pipeline = speechft.load_pipeline(folder_of(evaluated[0], task))
    assert pipeline.task.name == task
    row = next(row for row in evaluated[1] if row.task == task)
    items = {item.id: item for item in items_of(row, evaluated[0]) if item.fold < 2}
    if task == "asv":
        check_trials(pipeline, items, miniature)
        return
    cuts = [c for c in miniature.split(find_task(task).folds(miniature)[0][2]) if c.id in items]
    hits = 0
    for cut in cuts[:5]:
        said = pipeline.predict(cut.recording.sources[0].source)
        if task == "sd":
            assert json.loads(said)[0][0] in ("_0", "_1")
        hits += said == items[cut.id].prediction
    assert hits >= (0 if task == "sd" else 4)  # frames on disk are int8: rarely one symbol differs


def test_probe_folders_are_checked(
    evaluated: tuple[Path, list[ResultRow]], tmp_path: Path, miniature: Corpus
) -> None:
    with pytest.raises(CheckpointError, match="holds no trained head"):
        load_pipeline(tmp_path)
    for place, named in ((evaluated[0], {"task": "qbe"}), (folder_of(evaluated[0], "qbe"), {})):
        with pytest.raises(DataError, match="qbe does not predict on a file: it has no probe"):
            load_pipeline(place, **named)
    pipeline = load_pipeline(folder_of(evaluated[0], "sid"))
    (tmp_path / "no.wav").write_text("no audio")
    with pytest.raises(DataError, match=r"no\.wav is not readable as audio"):
        pipeline.predict(tmp_path / "no.wav")


def test_a_second_encoder_is_compared(
    evaluated: tuple[Path, list[ResultRow]], miniature: Corpus, tmp_path: Path
) -> None:
    out, first = evaluated
    names = ("pr", "sid")
    config = EvaluationConfig(tasks=names, protocol="quick-ten", precision="fp32", floors=())
    evaluate(["mfcc"], str(miniature.folder), config, tmp_path)
    found = compare([out / "results.jsonl", tmp_path / "results.jsonl"])
    assert [(d.task, d.encoder) for d in found] == [("pr", "mfcc"), ("sid", "mfcc")]
    values = {row.task: row.value for row in first}
    for difference in found:
        assert difference.baseline_value == values[difference.task]
        assert difference.difference == difference.value - difference.baseline_value
        assert difference.interval is not None
        low, high = difference.interval
        assert low - 1e-9 <= difference.difference <= high + 1e-9
        assert difference.better is None or (low > 0) == (high > 0)
    header, cells = difference_table(found)
    assert all(len(row) == len(header) for row in cells)
    with pytest.raises(DataError, match="nothing to compare: the results hold mfcc"):
        compare([tmp_path / "results.jsonl"])
    twin = tmp_path / "twin" / "results.jsonl"
    write_rows(twin, read_rows(tmp_path / "results.jsonl"))
    everything = [out / "results.jsonl", tmp_path / "results.jsonl", twin]
    assert compare(everything) == found, "the same measured thing in two files is one figure"
    write_rows(twin, [r.model_copy(update={"encoder_digest": "x"}) for r in read_rows(twin)])
    with pytest.raises(DataError, match="'mfcc' was evaluated on pr in two places"):
        compare(everything)


def test_finished_tasks_are_kept_when_others_are_added(
    tiny_hubert: Path, miniature: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, "quick-ten", QUICK)
    ran: list[str] = []
    original = task_evaluation.probe_seeds

    def counted(task: Any, *args: Any) -> Any:
        ran.append(task.name)
        return original(task, *args)

    monkeypatch.setattr(task_evaluation, "probe_seeds", counted)
    for names in (("ic",), ("ic", "sid")):
        config = EvaluationConfig(tasks=names, protocol="quick-ten", precision="fp32", floors=())
        rows = evaluate([str(tiny_hubert)], str(miniature.folder), config, tmp_path)
        assert [row.task for row in rows] == list(names)
    assert ran == ["ic", "sid"]


def test_several_seeds_have_a_row_each(
    tiny_hubert: Path, miniature: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, "quick-ten", QUICK)
    config = EvaluationConfig(tasks=("sid",), protocol="quick-ten", precision="fp32", seeds=2)
    candidate = Candidate("tiny", str(tiny_hubert))
    rows = evaluate_encoder(candidate, [find_task("sid")], miniature, config, tmp_path, seed=3)
    assert [row.seed for row in rows] == [3, 4]
    assert len({row.predictions for row in rows}) == 2
    for row in rows:
        assert row.value == pytest.approx(TASKS["sid"].figure(items_of(row, tmp_path)))


def changed(corpus: Corpus, **info: Any) -> Corpus:
    return dataclasses.replace(corpus, info={**corpus.info, **info}, digest="changed")


def run_on(corpus: Corpus, task: str, encoder: Path, out: Path) -> None:
    config = EvaluationConfig(tasks=(task,), protocol="quick-ten", precision="fp32")
    candidate = Candidate("tiny", str(encoder))
    evaluate_encoder(candidate, [find_task(task)], corpus, config, out, seed=0)


def test_bad_labels_are_one_clear_error(
    tiny_hubert: Path, miniature: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, "quick-ten", QUICK)
    (miniature.folder / "bad-trials.txt").write_text("1 test-000 nobody\n")
    with pytest.raises(DataError, match=r"line 1: trial without audio, 'nobody' is not in"):
        run_on(changed(miniature, trials="bad-trials.txt"), "asv", tiny_hubert, tmp_path / "a")
    (miniature.folder / "bad-qbe.tsv").write_text("q-dev-000\tx\n")
    with pytest.raises(DataError, match=r"line 1: expected 'query<TAB>document"):
        run_on(changed(miniature, qbe="bad-qbe.tsv"), "qbe", tiny_hubert, tmp_path / "b")
    pairs = (miniature.folder / "qbe.tsv").read_text()
    (miniature.folder / "no-hits.tsv").write_text(pairs.replace("\t1\n", "\t0\n"))
    with pytest.raises(DataError, match=r"no query of split dev-queries occurs in some documents"):
        run_on(changed(miniature, qbe="no-hits.tsv"), "qbe", tiny_hubert, tmp_path / "d")
    single = {"er": [["fold1-train"] * 3, ["one-class"] * 3]}
    cuts = miniature.cuts("fold2-train")
    low = chosen(cuts, lambda cut: cut.supervisions[0].custom["emotion"] == "low")
    corpus = changed(miniature, folds=single)
    corpus.statistics["one-class"] = {"utterances": 1, "labels": {"emotion": 1}}
    corpus._cuts["one-class"] = Cuts.of(low)
    with pytest.raises(DataError, match=r"fold 2 \(one-class.*at least two values of 'emotion'"):
        run_on(corpus, "er", tiny_hubert, tmp_path / "c")
    del corpus.statistics["one-class"]


def test_protocols_name_their_settings_and_differences() -> None:
    for protocol in ("mini", "default", "s3prl"):
        for name in SUPERB:
            task = find_task(name)
            assert settings_of(protocol, task).learning_rates
            assert differences(protocol, task)
    notes = protocol_notes("mini", [find_task("pr"), find_task("sid")])
    assert list(notes.values()) == [["pr", "sid"]]
    theirs = settings_of("s3prl", find_task("sid"))
    assert (theirs.learning_rates, theirs.hidden, theirs.steps) == ((1e-4,), 256, 200_000)
    assert (theirs.crop_seconds, theirs.crops) == (8.0, 47)
    assert settings_of("default", find_task("asr")).units == (1024, 1024)
    closings = {"pr": ["<eos>"], "sf": ["<eos>"], "asr": ["|", "<eos>"]}
    for name, closing in closings.items():
        task: Any = find_task(name)
        assert list(task.variant("s3prl").labels.closing) == closing
        assert not task.variant("default").labels.closing


def test_targets_of_s3prl_close_as_its_text_encoders_do(miniature: Corpus) -> None:
    cuts = list(miniature.split("train"))
    task = find_task("asr").variant("s3prl")
    vocabulary = task.vocabulary(cuts)
    text = (cuts[0].supervisions[0].text or "").upper()
    symbols = vocabulary.decode(task.target(cuts[0], vocabulary, 1000).tolist())
    assert symbols[:-1] == [*text.replace(" ", "|"), "|"], "s3prl ends every word, the last too"
    assert symbols[-1] == "<eos>"
    assert (
        task.scorer.describe((vocabulary.encode(symbols[:-1], ""), 0.0), vocabulary, None) == text
    )


def test_a_limit_takes_so_many_of_every_split_and_their_pairs(
    tiny_hubert: Path, miniature: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, "quick-ten", QUICK)
    names = ("pr", "ks", "qbe", "sid", "asv", "er")
    config = EvaluationConfig(
        tasks=names, protocol="quick-ten", precision="fp32", floors=(), limit=12
    )
    rows = evaluate([str(tiny_hubert)], str(miniature.folder), config, tmp_path)
    found = {row.task: row for row in rows}
    assert set(found) == set(names)
    assert found["pr"].n == found["sid"].n == 12
    assert all(row.left_out == {} for row in rows)
    per_speaker = Counter(item.reference for item in items_of(found["sid"], tmp_path))
    assert max(per_speaker.values()) - min(per_speaker.values()) <= 1, "classes take turns"
    known = {cut.id for cut in miniature.split("test")}
    for item in items_of(found["asv"], tmp_path):
        assert set(item.id.split("|")) <= known
    whole = config.model_copy(update={"limit": None, "tasks": ("sid",)})
    [row] = evaluate([str(tiny_hubert)], str(miniature.folder), whole, tmp_path)
    assert row.n > 12
    assert row.evaluation != found["sid"].evaluation
    assert len(read_rows(tmp_path / "results.jsonl")) == len(rows) + 1
