"""Encoders of the user's own through an evaluation: three ways, the same rows, resumed or anew."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import speechft
from helpers import tiny_encoder
from speechft.cli.app import app
from speechft.data.manifest import Corpus
from speechft.errors import CheckpointError
from speechft.prediction.pipelines import load_pipeline
from speechft.results import ResultRow

TESTS = Path(__file__).parents[1]
CODE = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import torch
from helpers import tiny_encoder

class Mine(torch.nn.Module):
    sampling_rate, output_dim, hop_size_in_ms, receptive_field_in_ms = 16000, 24, 20, 25

    def __init__(self):
        super().__init__()
        self.inner = tiny_encoder(3)

    def forward(self, waveforms, lengths):
        return self.inner(waveforms, lengths).layers

    def frame_lengths(self, lengths):
        return self.inner.frame_lengths(lengths)

class Forgetful:
    sampling_rate, output_dim, hop_size_in_ms = 16000, 24, 20

    def __init__(self):
        self.inner = Mine()

    def __call__(self, waveforms, lengths):
        return list(self.inner(waveforms, lengths))
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "my.py").write_text(CODE)
    tiny_encoder(3).save(tmp_path / "tiny")
    return tmp_path / "my.py"


def evaluated(encoders: Any, tones: Corpus, out: Path, tasks: str = "style") -> list[ResultRow]:
    return speechft.evaluate(encoders, tasks=tasks, corpus=tones.folder, out=out, limit=9)


def figures(rows: list[ResultRow]) -> list[tuple[Any, ...]]:
    return [(r.task, r.metric, r.value, r.interval, r.learning_rate, r.n) for r in rows]


def test_three_ways_give_the_rows_of_the_encoder_itself(
    code: Path, tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speechft.encoders.user_code import typed_encoder

    name = f"{code}:Mine"
    point = importlib.metadata.EntryPoint("mine", "my:Mine", "speechft.encoders")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("speechft.encoders.user_code.entry_points", lambda group: [point])
    given = [tmp_path / "tiny", name, "mine", typed_encoder(name)]
    rows = evaluated(given, tones, tmp_path / "out", "style,pc")
    by_encoder: dict[str, list[ResultRow]] = {}
    for row in rows:
        by_encoder.setdefault(row.encoder, []).append(row)
    assert list(by_encoder) == ["tiny", "my.py:Mine", "mine-1", "Mine-2"]
    expected = figures(by_encoder["tiny"])
    assert len(expected) == 2
    assert all(figures(own) == expected for own in by_encoder.values())
    digests = {own[0].encoder_digest for own in by_encoder.values()}
    assert len(digests) == 2, "its own digest is that of weights and source, whatever the way"


def test_the_command_line_takes_code_and_a_recipe_does_not(
    code: Path, tones: Corpus, tmp_path: Path
) -> None:
    command = ["evaluate", f"{code}:Mine", "--tasks", "style", "--corpus", str(tones.folder)]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["encoder"] == "my.py:Mine"
    for verb in (speechft.run, speechft.finetune):
        with pytest.raises(CheckpointError, match="is code, which runs only where you type"):
            verb("demo", out=tmp_path / "run", corpus=tones.folder, encoder=f"{code}:Mine")


def test_what_is_known_is_resumed_and_what_is_not_is_measured_anew(
    code: Path, tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speechft.evaluation import jobs

    runs: list[str] = []
    extract = jobs.extract

    def counted(*args: Any, **options: Any) -> Any:
        runs.append(options["description"])
        return extract(*args, **options)

    monkeypatch.setattr(jobs, "extract", counted)
    out = tmp_path / "out"
    names = [f"{code}:Mine", f"{code}:Forgetful"]
    first = evaluated(names, tones, out)
    assert len(runs) == 2
    again = evaluated(names, tones, out)
    assert runs[2:] == ["features of my.py:Forgetful"]
    assert [row.value for row in first] == [row.value for row in again]
    assert first[1].encoder_digest != again[1].encoder_digest
    assert figures(evaluated(names[0], tones, out)) == figures(first[:1])
    assert len(runs) == 3


def test_a_saved_probe_is_given_its_encoder(code: Path, tones: Corpus, tmp_path: Path) -> None:
    from speechft.encoders.user_code import typed_encoder

    name = f"{code}:Mine"
    own = typed_encoder(name)
    [row] = evaluated([own], tones, tmp_path / "out")
    audio = next(tones.folder.glob("test-*.wav"))
    expected = load_pipeline(tmp_path / "out", encoder=own).predict(audio)
    assert load_pipeline(tmp_path / "out", encoder=name).predict(audio) == expected
    with pytest.raises(CheckpointError, match="trained on Mine, an encoder of your own") as caught:
        load_pipeline(tmp_path / "out")
    assert "load_pipeline(folder, encoder=...)" in str(caught.value)
    with pytest.raises(CheckpointError, match="has changed since the probe was trained"):
        load_pipeline(tmp_path / "out", encoder=tmp_path / "tiny")
    record = json.loads(next((tmp_path / "out").rglob("encoder.json")).read_text())
    assert (record["source"], record["own"]) == ("Mine", True)
    assert row.encoder == "Mine"


def test_one_encoder_of_speechft_as_an_object(code: Path, tones: Corpus, tmp_path: Path) -> None:
    loaded = speechft.load_encoder(tmp_path / "tiny")
    rows = evaluated(loaded, tones, tmp_path / "one")
    assert figures(rows) == figures(evaluated(tmp_path / "tiny", tones, tmp_path / "two"))
    assert rows[0].encoder == "HuggingFaceEncoder"


def test_what_is_no_encoder_is_one_error(tones: Corpus, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="int cannot be called; expected are sampling_rate"):
        evaluated([7], tones, tmp_path)
