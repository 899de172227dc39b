"""Corpora by name: embedded, a CSV, a prepared folder, or one clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechft.data.corpora import ARCHIVES, cache_folder, cards, find_corpus, synthetic
from speechft.data.manifest import Corpus
from speechft.errors import DataError


def test_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEECHFT_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("SPEECHFT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "speechft"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "speechft"


def test_every_corpus_has_a_card() -> None:
    assert set(cards()) == {*synthetic.SPECS, *ARCHIVES, "generic", "hf"}
    for name, card in cards().items():
        assert card.name == name
        empty = {field for field, value in vars(card).items() if not value}
        assert empty <= {"hub"}, f"{name} has an empty field"
        assert "\n" not in card.line()


def test_an_archive_has_to_be_prepared_first(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="librispeech has to be prepared first") as caught:
        find_corpus("librispeech", tmp_path)
    assert "speechft prepare librispeech ROOT" in (caught.value.hint or "")


def test_an_embedded_corpus_lies_in_the_cache_by_digest(
    tmp_path: Path, tones: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Path]] = []

    def prepare(spec: synthetic.SyntheticSpec, folder: Path) -> Corpus:
        asked.append((spec.name, folder))
        return tones

    monkeypatch.setenv("SPEECHFT_CACHE", str(tmp_path))
    monkeypatch.setattr(synthetic, "prepare", prepare)
    assert find_corpus("synthetic", tmp_path / "work") is tones
    folder = tmp_path / f"synthetic-{synthetic.DEMO.digest()[:12]}"
    assert asked == [("synthetic", folder)]


def test_a_prepared_folder_is_opened(tones: Corpus, tmp_path: Path) -> None:
    assert find_corpus(str(tones.folder), tmp_path).digest == tones.digest


def test_a_csv_is_prepared_in_the_work_folder(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.1), 16_000)
    (tmp_path / "MINE.CSV").write_text("path,split\na.wav,train\n")
    corpus = find_corpus(str(tmp_path / "MINE.CSV"), tmp_path / "work")
    assert corpus.folder == tmp_path / "work"
    assert [cut.duration for cut in corpus.split("train")] == [1.0]


def test_an_audiofolder_is_prepared_in_the_work_folder(tmp_path: Path) -> None:
    (tmp_path / "mine" / "test" / "cat").mkdir(parents=True)
    soundfile.write(tmp_path / "mine" / "test" / "cat" / "a.wav", np.full(16_000, 0.1), 16_000)
    corpus = find_corpus(str(tmp_path / "mine"), tmp_path / "work")
    assert corpus.folder == tmp_path / "work"
    assert [cut.duration for cut in corpus.split("test")] == [1.0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no recordings"):
        find_corpus(str(tmp_path / "empty"), tmp_path / "other")
    assert not (tmp_path / "other").exists(), "nothing half-written"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("syntetic", "did you mean 'synthetic'?"), ("/nowhere/at/all", "speechft prepare")],
)
def test_no_such_corpus(name: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no corpus '{name}'") as caught:
        find_corpus(name, tmp_path / "work")
    assert "synthetic-pretrain" in caught.value.message
    assert hint in (caught.value.hint or "")
    assert not (tmp_path / "work").exists(), "nothing half-written"
