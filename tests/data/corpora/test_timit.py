"""TIMIT: phones in samples, SA left out, core test and dev speakers, folded phone sets."""

from __future__ import annotations

from pathlib import Path

import pytest
from lhotse.recipes.timit import get_phonemes, get_speakers

from corpora import issues, miniature, prepared, sizes, train
from speechft.data.corpora.timit import CORE_TEST, DEV, fold
from speechft.data.labels import label_of, phones_of
from speechft.errors import ConfigError, DataError
from speechft.tasks import find_task


@pytest.fixture
def root(tmp_path: Path) -> Path:
    miniature(tmp_path / "timit", "timit")
    return tmp_path / "timit"


def test_the_archive_has_its_true_shape(root: Path) -> None:
    speaker = root / "data" / "TRAIN" / "DR1" / "MAAZ0"
    assert (speaker / "SA1.WAV").read_bytes().startswith(b"NIST_1A")
    assert (speaker / "SX1.PHN").read_text().splitlines()[:2] == ["0 1920 h#", "1920 3840 g"]
    assert (speaker / "SX1.TXT").read_text() == "0 9600 go on\n"


def test_counts_ids_and_one_example(root: Path) -> None:
    corpus = prepared("timit", root)
    assert sizes(corpus) == {"train": 6, "dev": 6, "test": 6}, "three of each, without SA"
    cut = next(iter(corpus.split("train")))
    assert cut.id == "maaz0-sx1"
    assert (label_of(cut, "text"), label_of(cut, "dialect")) == ("go on", "dr1")
    phones = [(phone, round(start, 4), round(end, 4)) for phone, start, end in phones_of(cut)]
    assert phones == [
        ("sil", 0.0, 0.12),
        ("g", 0.12, 0.24),
        ("ow", 0.24, 0.36),
        ("aa", 0.36, 0.48),
        ("n", 0.48, 0.6),
    ]
    train(corpus, find_task("pr"))


def test_other_speakers_of_test_are_in_no_set(root: Path) -> None:
    (root / "data" / "TEST" / "DR1" / "FADG0").rename(root / "data" / "TEST" / "DR1" / "MXYZ0")
    corpus = prepared("timit", root)
    assert sizes(corpus)["dev"] == 3
    assert corpus.info["notes"] == ["39 phones; 1 speakers of TEST are in no set"]


def test_speakers_and_phone_sets_are_lhotses() -> None:
    dev, test = get_speakers()
    assert (set(dev), set(test)) == (DEV, CORE_TEST)
    for size in (48, 39):
        for phone, folded in get_phonemes(size).items():
            assert (fold(phone, str(size)) or "") == folded, (phone, size)
    assert {fold(phone, "61") for phone in get_phonemes(39)} == set(get_phonemes(39))


def test_smaller_sets_and_unknown_ones(root: Path) -> None:
    file = root / "data" / "TRAIN" / "DR1" / "MAAZ0" / "SX1.PHN"
    file.write_text("0 1920 h#\n1920 3840 q\n3840 9600 zh\n")
    for size, expected in (("61", ["h#", "q", "zh"]), ("39", ["sil", "sh"])):
        cut = next(iter(prepared("timit", root, f"phones={size}").split("train")))
        assert [phone for phone, _, _ in phones_of(cut)] == expected
    with pytest.raises(ConfigError, match="unknown phone set '40'"):
        prepared("timit", root, "phones=40")


def test_lower_case_names_will_do(root: Path) -> None:
    for path in sorted(root.rglob("*"), key=lambda p: -len(p.parts)):
        path.rename(path.with_name(path.name.lower()))
    assert sizes(prepared("timit", root)) == {"train": 6, "dev": 6, "test": 6}


def test_deleted_renamed_and_reordered(root: Path) -> None:
    speaker = root / "data" / "TRAIN" / "DR1" / "MAAZ0"
    (speaker / "SX1.WAV").unlink()
    (speaker / "SX2.PHN").rename(speaker / "SX9.PHN")
    with pytest.raises(DataError, match="2 missing-audio"):
        prepared("timit", root)
    assert sizes(prepared("timit", root, allow_missing=True))["train"] == 4
    assert [(line[0], line[3]) for line in issues(root)] == [
        ("missing-audio", "maaz0-sx1"),
        ("missing-audio", "maaz0-sx9"),
        ("no-label", "maaz0-sx2"),
    ]
    lines = (speaker / "SX3.PHN").read_text().splitlines()
    (speaker / "SX3.PHN").write_text("\n".join(reversed(lines)))
    cut = next(c for c in prepared("timit", root, allow_missing=True).split("train"))
    assert [p for p, _, _ in phones_of(cut)] == ["n", "aa", "ow", "g", "sil"]


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no TRAIN"):
        prepared("timit", tmp_path)
