"""Merges are measured on what the encoder was tuned on, unless the user says otherwise."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import speechft
from speechft.data.found_again import CORPORA_FILE, write_corpora
from speechft.data.manifest import Corpus
from speechft.errors import DataError
from speechft.runs import stage
from speechft.sweeping.corpora import corpora_of, tell_corpora


@pytest.fixture
def work(tuned: Path, tones: Corpus, tmp_path: Path) -> Path:
    """A folder as a fine-tuning leaves it, so deep that other tests' corpora are not around it."""
    out = tmp_path / "at" / "home" / "work"
    config: dict[str, Any] = {"finetuning": {"task": "sid"}, "seed": 0}
    with stage(out, name="finetune", config=config, inputs={"corpus": tones.digest}) as here:
        shutil.copytree(tuned, here.scratch / "encoder")
        write_corpora(here.scratch / CORPORA_FILE, [tones], out)
    return out


def test_what_was_tuned_on_is_read_and_named(
    base: Path, work: Path, tones: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {"alphas": "1", "tasks": "sid", "protocol": "quick"}
    found = speechft.sweep(base, work / "encoder", out=tmp_path / "o", **given)
    told = speechft.sweep(base, work / "encoder", out=tmp_path / "p", corpus=tones.folder, **given)
    assert found.rows == told.rows
    said = capfd.readouterr().err
    assert said.count(f"corpus: {tones.told}") == 2
    assert "is not what the encoder was tuned on" not in said


def test_another_corpus_is_said(
    work: Path, tones: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = Corpus(tmp_path, "other", "f" * 64, {}, {})
    tell_corpora([work / "encoder"], [tones, other])
    assert capfd.readouterr().err == (
        "corpus other is not what the encoder was tuned on: that was "
        f"{tones.name} (digest {tones.digest[:12]})\n"
    )
    assert corpora_of([work / "encoder"], ["x"]) == ["x"]


def test_where_nothing_tells_the_embedded_one_is_taken_and_said(
    tuned: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert corpora_of([tuned], []) == ["synthetic"]
    assert "synthetic is read (--corpus says otherwise)" in capfd.readouterr().err


def test_a_corpus_that_is_gone_is_asked_for(work: Path) -> None:
    (work / CORPORA_FILE).write_text(
        (work / CORPORA_FILE).read_text().replace("/", "/gone/").replace("..", "gone")
    )
    with pytest.raises(DataError, match=r"was tuned on .* \(digest .*not found") as caught:
        corpora_of([work / "encoder"], [])
    assert "--corpus" in str(caught.value.hint)
