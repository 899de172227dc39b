"""From training to use, as typed: fine-tune, evaluate, predict, export, transformers' pipelines."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
import transformers

from helpers import tiny_encoder
from speechft import cli
from speechft.data.labels import phones_of
from speechft.data.manifest import Corpus
from speechft.evaluation.predictions import items_of
from speechft.results import read_rows

TUNE = (
    "--set finetuning.steps=40 --set finetuning.batch_seconds=20 --set finetuning.hidden=null "
    "--set finetuning.learning_rate=0.003"
)
EXACT = "--set finetuning.precision=fp32"
"""What is noted in training is compared with `predict`, which computes in fp32."""


def call(arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["speechft", *shlex.split(arguments)])
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def place(tones: Corpus, quick_probes: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a fine-tuning on phones, one on two tasks, and an evaluation."""
    folder = tmp_path_factory.mktemp("using")
    tiny_encoder().save(folder / "base")
    start = f"finetune demo --corpus {tones.folder} --set encoder={folder / 'base'} {TUNE}"
    assert call(f"{start} --set finetuning.task=pr {EXACT} --out {folder / 'pr'}") == 0
    both = "--set finetuning.tasks.asr=1 --set finetuning.tasks.sid=1"
    assert call(f"{start} {both} --out {folder / 'both'}") == 0
    evaluate = f"evaluate {folder / 'pr/encoder'} --tasks sid,ic,asr --corpus {tones.folder}"
    assert call(f"{evaluate} --precision fp32 --no-cache --out {folder / 'eval'}") == 0
    return folder


def test_tuned_heads_are_used_as_they_were_trained(
    place: Path, tones: Corpus, tmp_path: Path
) -> None:
    """The predictions of the files of dev have the error rate that training noted."""
    assert call(f"predict {place / 'pr'} {tones.folder} --out {tmp_path / 'o.jsonl'}") == 0
    said = {row["id"]: row["text"] for row in lines(tmp_path / "o.jsonl")}
    cuts = list(tones.split("dev"))
    truth = [" ".join(phone for phone, _, _ in phones_of(cut)) for cut in cuts]
    rate = 100 * jiwer.wer(truth, [said[f"dev/{cut.id}"] for cut in cuts])
    history = json.loads((place / "pr" / "history.json").read_text())
    noted = [step["per"] for step in history["evaluations"] if "per" in step]
    assert any(rate == pytest.approx(value, abs=0.01) for value in noted)
    assert rate < 100, "it says something"


def test_one_of_several_tuned_heads_is_chosen(
    place: Path, tones: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = tones.folder / "test-000.wav"
    start = f"predict {place / 'both'} {audio} --out {tmp_path / 'o.csv'}"
    assert call(start) == 1
    assert "--name both --task asr; --name both --task sid" in capsys.readouterr().err
    assert call(f"{start} --task sid --json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["task"], told["written"], told["format"]) == ("sid", 1, "csv")
    assert (tmp_path / "o.csv").read_text().startswith("id,seconds,label,probability\n")


@pytest.mark.parametrize(("task", "key"), [("sid", "label"), ("ic", "intent"), ("asr", "text")])
def test_probes_say_what_was_scored(
    task: str, key: str, place: Path, tones: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    assert call(f"predict {place / 'eval'} {tones.folder} --task {task} --out {out}") == 0
    said = {row["id"]: row[key] for row in lines(out)}
    [row] = [r for r in read_rows(place / "eval" / "results.jsonl") if r.task == task]
    items = items_of(row, place / "eval")
    assert len(items) == 18
    same = [said[f"test/{item.id}"] == item.prediction for item in items]
    assert sum(same) >= 17, "features lie on disk in half precision: rarely one differs"


def test_exports_run_in_transformers_as_predict_does(
    place: Path, tones: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = tones.folder / "test-003.wav"
    array = soundfile.read(audio, dtype="float32")[0]
    for model, options, kind, key in (
        ("pr", "", "automatic-speech-recognition", "text"),
        ("both", "--task sid", "audio-classification", "label"),
        ("eval", "--task sid", "audio-classification", "label"),
    ):
        out, said = tmp_path / f"export-{model}", tmp_path / f"{model}.jsonl"
        assert call(f"export {place / model} {out} {options}") == 0
        assert f"wrote {out}" in capsys.readouterr().out
        assert call(f"predict {place / model} {audio} {options} --out {said}") == 0
        [expected] = lines(said)
        found = transformers.pipeline(kind, model=str(out))(np.array(array))
        best = found if key == "text" else max(found, key=lambda row: row["score"])
        assert best[key] == expected[key]


def test_what_is_unreadable_ends_with_one_error_and_the_rest_done(
    place: Path, tones: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "c"):
        audio = (tones.folder / "test-000.wav").read_bytes()
        (tmp_path / "in" / f"{name}.wav").write_bytes(audio)
    (tmp_path / "in" / "b.wav").write_text("none")
    out = tmp_path / "o.jsonl"
    assert call(f"predict {place / 'pr'} {tmp_path / 'in'} --out {out}") == 1
    told = capsys.readouterr()
    assert f"error: 1 of 3 recordings have no answer: {tmp_path / 'in' / 'b.wav'}" in told.err
    assert "wrote 2 answers" in told.out
    assert [row["id"] for row in lines(out)] == ["a", "c"]
