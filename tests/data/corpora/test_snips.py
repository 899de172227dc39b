"""Audio SNIPS: slots in IOB beside the text, voices by split."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora import issues, miniature, prepared, sizes, train
from speechft.data.labels import label_of
from speechft.errors import DataError
from speechft.tasks import find_task


@pytest.fixture
def root(tmp_path: Path) -> Path:
    slots = {"slots": "O B-playlist", "intent": "AddToPlaylist"}
    miniature(tmp_path / "snips", "snips", labels=lambda *_: slots)
    return tmp_path / "snips"


def label_file(root: Path) -> Path:
    return root / "SNIPS" / "all.iob.snips.txt"


def test_the_archive_has_its_true_shape(root: Path) -> None:
    assert (root / "SNIPS" / "valid" / "Aditi-snips-valid-0000.wav").is_file()
    assert label_file(root).read_text().splitlines()[0] == (
        "Ivy-snips-train-0000 BOS go on EOS\tO O B-playlist AddToPlaylist"
    )


def test_counts_ids_and_one_example(root: Path) -> None:
    corpus = prepared("snips", root)
    assert sizes(corpus) == {"train": 6, "dev": 6, "test": 6}
    cut = next(iter(corpus.split("dev")))
    assert cut.id == "Aditi-snips-valid-0000"
    expected = {
        "text": "go on",
        "slots": "O B-playlist",
        "intent": "AddToPlaylist",
        "speaker": "Aditi",
    }
    assert {kind: label_of(cut, kind) for kind in expected} == expected
    train(corpus, find_task("asr"))


def test_other_voices_of_a_folder_do_not_count(root: Path) -> None:
    with open(label_file(root), "a") as file:
        file.write("Salli-snips-test-7 BOS go EOS\tO O AddToPlaylist\n")
    corpus = prepared("snips", root)
    assert sizes(corpus)["test"] == 6
    assert corpus.info["filtered"] == {"test, other voices": 1}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("Ivy-snips-train-1 BOS go EOS\tO O O AddToPlaylist", "3 words, BOS and EOS included, but"),
        ("Ivy-snips-train-1 go\tO O AddToPlaylist", "not 'uid BOS text EOS"),
        ("Ivy-snips-train-1 BOS go EOS\tO B-city GetWeather", "slots.txt does not hold B-city"),
        ("Ivy-train-1 BOS go EOS\tO O GetWeather", "is not VOICE-snips-train|valid|test-N"),
    ],
)
def test_damaged_labels_are_named(root: Path, line: str, problem: str) -> None:
    with open(label_file(root), "a") as file:
        file.write(line + "\n")
    assert sizes(prepared("snips", root))["train"] == 6
    (issue,) = issues(root)
    assert issue[0] == "bad-label"
    assert problem in issue[5]


def test_mp3_will_do(root: Path) -> None:
    import soundfile

    path = root / "SNIPS" / "test" / "Brian-snips-test-0000.wav"
    samples, rate = soundfile.read(path)
    soundfile.write(path.with_suffix(".mp3"), samples, rate)
    path.unlink()
    corpus = prepared("snips", root)
    assert sizes(corpus)["test"] == 6


def test_deleted_renamed_and_reordered(root: Path) -> None:
    before = prepared("snips", root)
    file = label_file(root)
    file.write_text("\n".join(reversed(file.read_text().splitlines())) + "\n")
    assert prepared("snips", root).split("train") == before.split("train")

    folder = root / "SNIPS" / "train"
    (folder / "Ivy-snips-train-0000.wav").unlink()
    (folder / "Ivy-snips-train-0001.wav").rename(folder / "Ivy-snips-train-77.wav")
    with pytest.raises(DataError, match="2 missing-audio"):
        prepared("snips", root)
    assert sizes(prepared("snips", root, allow_missing=True))["train"] == 4
    assert [line[0] for line in issues(root)] == ["missing-audio", "missing-audio", "no-label"]
