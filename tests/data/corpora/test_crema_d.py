"""CREMA-D: labels from names, splits and folds by actor."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora import issues, miniature, prepared, sizes, train
from speechft.data.labels import label_of
from speechft.data.manifest import Corpus
from speechft.errors import ConfigError, DataError
from speechft.tasks.label import classification


@pytest.fixture
def root(tmp_path: Path) -> Path:
    miniature(tmp_path / "crema", "crema-d", speakers=10, per_speaker=2, shared=True)
    return tmp_path / "crema"


def actors(corpus: Corpus, split: str) -> set[str | None]:
    return {label_of(cut, "speaker") for cut in corpus.split(split)}


def test_counts_ids_and_one_example(root: Path) -> None:
    assert (root / "AudioWAV" / "1001_IEO_ANG_XX.wav").is_file()
    corpus = prepared("crema-d", root)
    assert sizes(corpus) == {"train": 42, "dev": 6, "test": 12}, "6 clips of each of 10 actors"
    cuts = {c.id: c for split in corpus.statistics for c in corpus.split(split)}
    cut = cuts["1001_IEO_FEA_XX"]
    expected = {
        "emotion": "fear",
        "speaker": "1001",
        "level": "xx",
        "text": "It's eleven o'clock",
    }
    assert {kind: label_of(cut, kind) for kind in expected} == expected
    assert corpus.info["notes"] == ["60 of 7442 clips", "split by actor with seed 0"]
    train(corpus, classification("er", "emotion", label="emotion"))


def test_no_actor_is_on_both_sides(root: Path) -> None:
    corpus = prepared("crema-d", root)
    parts = [actors(corpus, split) for split in ("train", "dev", "test")]
    assert [len(part) for part in parts] == [7, 1, 2]
    assert len(set.union(*parts)) == 10
    other = prepared("crema-d", root, "seed=1")
    assert actors(other, "test") != parts[2]


def test_folds(root: Path) -> None:
    corpus = prepared("crema-d", root, "folds=5")
    tested = [actors(corpus, f"fold{n}-test") for n in range(1, 6)]
    assert [len(part) for part in tested] == [2] * 5
    assert len(set.union(*tested)) == 10
    for number in range(1, 6):
        rest = actors(corpus, f"fold{number}-train") | actors(corpus, f"fold{number}-dev")
        assert not rest & tested[number - 1]
    assert corpus.task_splits("er") == ("fold1-train", "fold1-dev", "fold1-test")
    with pytest.raises(ConfigError, match="folds=1"):
        prepared("crema-d", root, "folds=1")


def test_deleted_and_renamed(root: Path) -> None:
    folder = root / "AudioWAV"
    (folder / "1001_IEO_ANG_XX.wav").unlink()
    (folder / "1001_IEO_DIS_XX.wav").rename(folder / "1001_IEO_DIZ_XX.wav")
    corpus = prepared("crema-d", root)
    assert sum(sizes(corpus).values()) == 58
    assert corpus.info["notes"][0] == "59 of 7442 clips"
    (issue,) = issues(root)
    assert issue[0] == "bad-label"
    assert issue[4] == "AudioWAV/1001_IEO_DIZ_XX.wav"


def test_a_git_lfs_pointer_is_named(root: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 70000\n"
    (root / "AudioWAV" / "1001_IEO_ANG_XX.wav").write_text(pointer)
    prepared("crema-d", root)
    (issue,) = issues(root)
    assert issue[0] == "unreadable-audio"
    assert "git lfs pull" in issue[5]


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds none of AudioWAV"):
        prepared("crema-d", tmp_path)
