"""Tests of evaluating several encoders into one folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import speechft
from speechft.data.manifest import Corpus
from speechft.errors import DataError
from speechft.evaluation import encoders
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.encoders import evaluate, with_earlier
from speechft.evaluation.predictions import items_of
from speechft.results import ResultRow, read_rows, write_rows
from speechft.storage.outputs import overwriting
from speechft.sweeping.writing import check_place
from speechft.tasks import TASKS


def test_evaluate_names_encoders_and_writes_rows(
    tmp_path: Path, tiny_hubert: Path, tones: Corpus
) -> None:
    config = EvaluationConfig(tasks=("style",), floors=())
    rows = evaluate([str(tiny_hubert), "mfcc"], str(tones.folder), config, tmp_path)
    assert [row.encoder for row in rows] == [tiny_hubert.name, "mfcc"]
    assert read_rows(tmp_path / "results.jsonl") == rows


def test_a_finished_evaluation_writes_nothing(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it is read again where one may not write."""
    config = EvaluationConfig(tasks=("style",), floors=())
    rows = evaluate(["mfcc"], str(tones.folder), config, tmp_path)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("written")

    for name in ("Workers", "lock", "write_rows", "replacing"):
        monkeypatch.setattr(encoders, name, refused)
    assert evaluate(["mfcc"], str(tones.folder), config, tmp_path) == rows


def test_a_second_evaluation_adds_to_the_first(
    tmp_path: Path, tiny_hubert: Path, tones: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    one = EvaluationConfig(tasks=("style",), floors=())
    first = evaluate(["mfcc"], str(tones.folder), one, tmp_path)
    second = evaluate([str(tiny_hubert)], str(tones.folder), one, tmp_path)
    assert read_rows(tmp_path / "results.jsonl") == [*first, *second]
    again = evaluate([str(tiny_hubert)] * 2, str(tones.folder), one, tmp_path, seed=1)
    assert [row.seed for row in again] == [1]
    assert read_rows(tmp_path / "results.jsonl") == [*first, *second, *again]
    other = tmp_path / tiny_hubert.name.upper()  # another encoder, whose name differs by case
    shutil.copytree(tiny_hubert, other)
    weights = load_file(other / "model.safetensors")
    weights["encoder.layer_norm.bias"] += 0.1
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    last = evaluate([str(other)], str(tones.folder), one, tmp_path)
    assert read_rows(tmp_path / "results.jsonl") == [*first, *second, *again, *last]
    for row in (*first, *second, *again, *last):  # every figure has its own items still
        assert row.value == TASKS[row.task].figure(items_of(row, tmp_path))
    mine = tmp_path / "mine" / tiny_hubert.name  # another encoder, whose name is the same
    shutil.copytree(other, mine)
    replaced = evaluate([str(mine)], str(tones.folder), one, tmp_path)
    assert read_rows(tmp_path / "results.jsonl") == [*first, *replaced, *last]
    assert "is another encoder than before" in capsys.readouterr().err


def row(encoder: str, task: str = "sid", **changes: Any) -> ResultRow:
    fields: dict[str, Any] = {
        "encoder": encoder,
        "encoder_digest": encoder,
        "task": task,
        "metric": "accuracy",
        "value": 50.0,
        "higher_is_better": True,
        "n": 8,
        "interval": None,
        "split": "test",
        "seed": 0,
        "protocol": "mini",
        "learning_rate": 0.1,
        "evaluation": f"{task} 1",
    }
    return ResultRow.model_validate({**fields, **changes})


def names(rows: Sequence[ResultRow]) -> list[str]:
    return list(dict.fromkeys(row.encoder for row in rows))


def test_encoders_keep_their_places_and_the_newest_of_each_comes_last() -> None:
    a, b, c = row("a"), row("b"), row("c")
    digests = {name: name for name in "abc"}
    extended = with_earlier([a, b], [a, c], digests)
    assert names(extended) == ["a", "b", "c"]
    assert with_earlier(extended, [a, c], digests) == extended
    corrected = row("a", evaluation="sid 2")
    both = with_earlier(extended, [corrected], digests)
    assert both == [a, corrected, b, c]
    assert with_earlier(both, [a], digests) == [corrected, a, b, c]
    assert names(with_earlier([a, b], [row("a", "ic")], digests)) == ["a", "b"]
    retuned = row("a", encoder_digest="other")
    assert with_earlier([a, b], [retuned], {"a": "other"}) == [retuned, b]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("a"), row("b")], "a"),
        ([row("mfcc", role="floor"), row("base", role="pre-trained"), row("b")], "base"),
        ([row(f"alpha {a:g}", alpha=a, role="merged") for a in (0.5, 0.0, 1.0)], "alpha 0"),
        ([row("a"), row("alpha 0", alpha=0.0)], "a"),
    ],
    ids=["the first", "what the others started from", "of a sweep its base", "alpha is no role"],
)
def test_what_is_compared_with_unless_it_is_said(
    rows: list[ResultRow], expected: str, tmp_path: Path
) -> None:
    write_rows(tmp_path / "results.jsonl", rows)
    assert {found.baseline for found in speechft.compare(tmp_path)} == {expected}


def test_the_first_of_several_folders_has_the_base(tmp_path: Path) -> None:
    write_rows(tmp_path / "a" / "results.jsonl", [row("a"), row("b")])
    write_rows(tmp_path / "run" / "results.jsonl", [row("base", role="pre-trained")])
    found = speechft.compare([tmp_path / "a", tmp_path / "run"])
    assert {one.baseline for one in found} == {"a"}


@pytest.mark.parametrize("content", ["text", '{"encoder": "cut of', "[1]"])
def test_results_of_others_are_told_what_to_do_about(
    content: str, tones: Corpus, tmp_path: Path
) -> None:
    (tmp_path / "results.jsonl").write_text(content)
    config = EvaluationConfig(tasks=("style",), floors=())
    with pytest.raises(DataError, match="line 1, is not a result row") as caught:
        evaluate(["mfcc"], str(tones.folder), config, tmp_path)
    assert "--overwrite" in str(caught.value.hint)
    with pytest.raises(DataError) as swept:
        check_place(tmp_path, "sweep.json")
    assert swept.value.hint == caught.value.hint
    with overwriting(True):
        rows = evaluate(["mfcc"], str(tones.folder), config, tmp_path)
    assert read_rows(tmp_path / "results.jsonl") == rows


def test_tables_of_own_recordings_do_not_share_a_folder(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = []
    for number, start in enumerate((0, 5)):
        lines = ["path,split,label"]
        for split in ("train", "dev", "test"):
            for cut in list(tones.split(split))[start : start + 4]:
                path, style = cut.recording.sources[0].source, cut.supervisions[0].custom["style"]
                lines.append(f"{path},{split},{style}-{number}")
        tables.append(tmp_path / f"{number}.csv")
        tables[-1].write_text("\n".join(lines) + "\n")
    opened = []

    def keep(_: object, corpora: list[Corpus]) -> None:
        opened.extend(corpora)
        raise DataError("enough")

    monkeypatch.setattr(encoders, "assign_tasks", keep)
    config = EvaluationConfig(tasks=("label",), floors=())
    with pytest.raises(DataError, match="enough"):
        evaluate(["mfcc"], list(map(str, tables)), config, tmp_path / "out")
    for number, corpus in enumerate(opened):
        assert {value[-2:] for value in corpus.values("train", "label")} == {f"-{number}"}
