"""The verb prepare: a summary for people and for programs, clear errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechft.data.corpora import synthetic
from speechft.data.corpora.prepare import prepare, prepare_verb
from speechft.data.manifest import Corpus
from speechft.errors import ConfigError


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.1), 16_000)
    path = tmp_path / "my.csv"
    path.write_text("path,split,speaker\na.wav,train,anna\n")
    return path


def test_summary(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_verb("generic", str(csv), tmp_path / "out", as_json=False)
    text = capsys.readouterr().out
    for part in ("my", "train", "speaker", f"corpus: {tmp_path / 'out'}", "next: speechft run"):
        assert part in text


def test_json(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_verb("generic", str(csv), tmp_path / "out", as_json=True)
    content = json.loads(capsys.readouterr().out)
    assert content["folder"] == str(tmp_path / "out")
    assert content["splits"]["train"]["utterances"] == 1
    assert content["splits"]["train"]["speakers"] == 1


def test_unknown_corpus() -> None:
    with pytest.raises(ConfigError, match="unknown corpus 'genric'") as caught:
        prepare("genric", None, None)
    assert caught.value.hint == "did you mean 'generic'?"


@pytest.mark.parametrize(("root", "out"), [(None, Path("out")), ("my.csv", None)])
def test_generic_needs_csv_and_folder(root: str | None, out: Path | None) -> None:
    with pytest.raises(
        ConfigError, match=r"generic needs a CSV, .* and an output folder"
    ) as caught:
        prepare("generic", root, out)
    assert "speechft prepare generic" in (caught.value.hint or "")


def test_an_argument_without_use_is_an_error() -> None:
    for root, settings in (("/data", ()), (None, ("seed=1",))):
        with pytest.raises(ConfigError, match="takes neither ROOT nor settings"):
            prepare("synthetic", root, None, None, settings)


def test_embedded_corpus_goes_to_cache_or_out(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(synthetic, "prepare", lambda _, folder: asked.append(folder) or tones)
    monkeypatch.setenv("SPEECHFT_CACHE", str(tmp_path / "cache"))
    prepare("synthetic", None, None)
    prepare("synthetic", None, tmp_path / "out")
    assert asked[0].parent == tmp_path / "cache"
    assert asked[1] == tmp_path / "out"
