"""Tests of evaluating several encoders into one folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from speechft.data.manifest import Corpus
from speechft.errors import DataError
from speechft.evaluation import encoders
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.encoders import evaluate
from speechft.evaluation.predictions import items_of
from speechft.results import read_rows
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
    assert read_rows(tmp_path / "results.jsonl") == [*first, *last, *replaced]
    assert "is another encoder than before" in capsys.readouterr().err


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
