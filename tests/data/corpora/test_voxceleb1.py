"""VoxCeleb1: the identification list, label = id - 10001, verification trials."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora import issues, miniature, prepared, sizes, train
from speechft.data.labels import label_of
from speechft.errors import DataError
from speechft.tasks import find_task


@pytest.fixture
def root(tmp_path: Path) -> Path:
    miniature(tmp_path / "vox", "voxceleb1", speakers=4, shared=True)
    return tmp_path / "vox"


def test_the_archive_has_its_true_shape(root: Path) -> None:
    assert (root / "dev" / "wav" / "id10001" / "video-train" / "00001.wav").is_file()
    lines = (root / "iden_split.txt").read_text().splitlines()
    assert lines[0] == "1 id10001/video-train/00001.wav"
    assert (root / "veri_test2.txt").read_text().splitlines()[0] == (
        "1 id10003/video-train/00001.wav id10003/video-train/00002.wav"
    )


def test_counts_ids_and_one_example(root: Path) -> None:
    corpus = prepared("voxceleb1", root)
    assert sizes(corpus) == {
        "train": 12,
        "dev": 12,
        "test": 12,
        "asv-train": 18,
        "asv-test": 18,
    }
    cut = next(iter(corpus.split("test")))
    assert cut.id == "id10001-video-test-00001"
    assert (label_of(cut, "speaker"), label_of(cut, "sid")) == ("id10001", "0")
    assert {label_of(c, "speaker") for c in corpus.split("asv-train")} == {"id10001", "id10002"}
    assert corpus.task_splits("sid") == ("train", "dev", "test")
    train(corpus, find_task("sid"))


def test_the_label_is_the_id_less_10001(root: Path) -> None:
    for cut in prepared("voxceleb1", root).split("train"):
        speaker = label_of(cut, "speaker") or ""
        assert int(label_of(cut, "sid") or "") == int(speaker[2:]) - 10_001


def test_trials_name_utterances_of_the_test_speakers(root: Path) -> None:
    corpus = prepared("voxceleb1", root)
    lines = (corpus.folder / corpus.info["trials"]).read_text().splitlines()
    assert lines[0] == "1 id10003-video-train-00001 id10003-video-train-00002"
    known = {cut.id: label_of(cut, "speaker") for cut in corpus.split("asv-test")}
    for line in lines:
        same, first, second = line.split()
        assert (known[first] == known[second]) == (same == "1")
    assert {line[0] for line in lines} == {"0", "1"}


def test_s3prls_list_and_merged_folder_will_do(root: Path) -> None:
    (root / "iden_split.txt").rename(root / "veri_test_class.txt")
    (root / "veri_test2.txt").unlink()
    (root / "wav").mkdir()
    for part in ("dev", "test"):
        for speaker in (root / part / "wav").iterdir():
            speaker.rename(root / "wav" / speaker.name)
        (root / part / "wav").rmdir()
    corpus = prepared("voxceleb1", root)
    assert sizes(corpus) == {"train": 12, "dev": 12, "test": 12}
    assert "trials" not in corpus.info


def test_deleted_renamed_and_reordered(root: Path) -> None:
    before = prepared("voxceleb1", root)
    listing = root / "iden_split.txt"
    listing.write_text("\n".join(reversed(listing.read_text().splitlines())) + "\n")
    after = prepared("voxceleb1", root)
    assert [c.id for c in after.split("train")] == [c.id for c in before.split("train")]

    folder = root / "test" / "wav" / "id10003" / "video-train"
    (folder / "00001.wav").unlink()
    (folder / "00002.wav").rename(folder / "99999.wav")
    with pytest.raises(DataError, match="2 missing-audio") as caught:
        prepared("voxceleb1", root)
    assert "--allow-missing" in (caught.value.hint or "")
    less = prepared("voxceleb1", root, allow_missing=True)
    assert sizes(less)["train"] == 10
    trials = (less.folder / "trials.txt").read_text()
    assert "id10003-video-train-00001" not in trials, "a trial without audio is dropped"
    assert len(issues(root)) == 2


def test_damaged_lists_are_named(root: Path) -> None:
    with open(root / "iden_split.txt", "a") as file:
        file.write("4 id10001/video-train/00001.wav\n1 nonsense\n")
    assert sizes(prepared("voxceleb1", root))["train"] == 12
    assert [line[0] for line in issues(root)] == ["bad-label"] * 2


def test_a_recording_listed_twice_is_fatal(root: Path) -> None:
    with open(root / "iden_split.txt", "a") as file:
        file.write("3 id10001/video-train/00001.wav\n")
    with pytest.raises(DataError, match="1 duplicate-id"):
        prepared("voxceleb1", root)
    assert issues(root)[0][:4] == ["duplicate-id", "fatal", "test", "id10001-video-train-00001"]


def test_without_lists_or_folders(root: Path, tmp_path: Path) -> None:
    (root / "iden_split.txt").unlink()
    (root / "veri_test2.txt").unlink()
    with pytest.raises(DataError, match="no identification list"):
        prepared("voxceleb1", root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"neither wav nor \*/wav"):
        prepared("voxceleb1", tmp_path / "empty")
