"""Speech Commands v0.01: twelve classes, s3prl's split by the hash of the speaker."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from corpora import WORDS, miniature, prepared, sizes, train
from speechft.data.corpora.speech_commands import which_split
from speechft.data.labels import label_of
from speechft.errors import DataError
from speechft.tasks.label import classification

VERSION = "speech_commands_v0.01"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    words = (*WORDS[:2], "bird")
    label = lambda split, who, number: {"word": words[number]}  # noqa: E731
    miniature(tmp_path / "ks", "speech-commands", labels=label)
    return tmp_path / "ks"


def test_the_archive_has_its_true_shape(root: Path) -> None:
    names = sorted(path.name for path in (root / VERSION).iterdir())
    assert names == ["_background_noise_", "bird", "go", "on"]
    test = root / "speech_commands_test_set_v0.01"
    assert sorted(path.name for path in test.iterdir()) == ["_silence_", "_unknown_", "go", "on"]
    assert all(re.fullmatch(r"[0-9a-f]{8}_nohash_0\.wav", p.name) for p in test.glob("go/*"))


def test_counts_ids_and_one_example(root: Path) -> None:
    corpus = prepared("speech-commands", root)
    # six words of two speakers, and both noises (whole) as silence
    assert sizes(corpus) == {"train": 8, "dev": 8, "test": 8}
    for split in ("train", "dev", "test"):
        found = [label_of(cut, "keyword") for cut in corpus.split(split)]
        assert sorted(map(str, found)) == sorted(["go", "on", "_unknown_", "_silence_"] * 2)
    silence = [c for c in corpus.split("train") if label_of(c, "keyword") == "_silence_"]
    assert [cut.id for cut in silence] == [
        "train-_silence_-running_tap",
        "train-_silence_-white_noise",
    ]
    assert silence[0].duration == 5.0
    bird = next(c for c in corpus.split("dev") if c.id.startswith("bird-"))
    assert label_of(bird, "keyword") == "_unknown_"
    assert bird.id == f"bird-{label_of(bird, 'speaker')}_nohash_2"
    train(corpus, classification("ks", "keywords", label="keyword"))


def test_the_split_rule(root: Path) -> None:
    shares = {"train": 0, "dev": 0, None: 0}
    for number in range(3_000):
        name = f"{number:08x}_nohash_{number % 3}.wav"
        digest = hashlib.sha1(f"{number:08x}".encode()).hexdigest()
        share = (int(digest, 16) % 2**27) * 100.0 / (2**27 - 1)
        expected = "dev" if share < 10 else None if share < 20 else "train"
        assert which_split(name) == expected
        shares[expected] += 1
    assert shares["dev"] / 3_000 == pytest.approx(0.1, abs=0.02)
    assert shares[None] / 3_000 == pytest.approx(0.1, abs=0.02)
    assert which_split("0000a_nohash_0.wav") == which_split("0000a_nohash_7.wav")


def test_deleted_and_renamed(root: Path) -> None:
    before = prepared("speech-commands", root)
    train_ids = [cut.id for cut in before.split("train") if cut.id.startswith("go-")]
    folder = root / VERSION / "go"
    (folder / f"{train_ids[0].removeprefix('go-')}.wav").unlink()
    other = folder / f"{train_ids[1].removeprefix('go-')}.wav"
    dropped = next(n for n in range(999) if which_split(f"{n:08x}_nohash_0.wav") is None)
    other.rename(folder / f"{dropped:08x}_nohash_0.wav")
    after = prepared("speech-commands", root)
    assert sizes(after) == {"train": 6, "dev": 8, "test": 8}
    assert "train: 6 of 51094 examples of the official archives" in after.info["notes"]


def test_a_hash_that_moves_into_test_is_a_shared_speaker(root: Path) -> None:
    corpus = prepared("speech-commands", root)
    speaker = next(s for c in corpus.split("train") if (s := label_of(c, "speaker")))
    path = next((root / "speech_commands_test_set_v0.01" / "go").iterdir())
    path.rename(path.with_name(f"{speaker}_nohash_5.wav"))
    with pytest.raises(DataError, match=f"speaker-overlap.*speaker {speaker} is in train"):
        prepared("speech-commands", root)


def test_the_test_archive_may_lie_elsewhere(root: Path, tmp_path: Path) -> None:
    (root / "speech_commands_test_set_v0.01").rename(tmp_path / "tests")
    with pytest.raises(DataError, match="holds no speech_commands_test_set") as caught:
        prepared("speech-commands", root)
    assert "test_root=DIR" in (caught.value.hint or "")
    assert sizes(prepared("speech-commands", root, f"test_root={tmp_path / 'tests'}"))["test"] == 8
