"""Fluent Speech Commands: intents of three slots, tables with paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora import issues, miniature, prepared, sizes, train
from speechft.data.labels import label_of
from speechft.errors import DataError
from speechft.tasks import find_task

BASE = Path("fluent_speech_commands_dataset")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    actions = ("activate", "deactivate", "increase")
    label = lambda split, who, number: {"intent": f"{actions[number]}/lights/kitchen"}  # noqa: E731
    miniature(tmp_path / "fsc", "fluent-speech-commands", labels=label)
    return tmp_path / "fsc"


def test_the_archive_has_its_true_shape(root: Path) -> None:
    assert (root / BASE / "wavs" / "speakers" / "train0" / "train-0-0.wav").is_file()
    assert (root / BASE / "data" / "valid_data.csv").read_text().splitlines()[:2] == [
        ",path,speakerId,transcription,action,object,location",
        "0,wavs/speakers/dev0/dev-0-0.wav,dev0,go on,activate,lights,kitchen",
    ]


def test_counts_ids_and_one_example(root: Path) -> None:
    corpus = prepared("fluent-speech-commands", root)
    assert sizes(corpus) == {"train": 6, "dev": 6, "test": 6}
    cut = next(iter(corpus.split("dev")))
    assert cut.id == "dev0-dev-0-0"
    expected = {"intent": "activate/lights/kitchen", "text": "go on", "speaker": "dev0"}
    assert {kind: label_of(cut, kind) for kind in expected} == expected
    assert "train: 6 of 23132 official utterances" in corpus.info["notes"]
    train(corpus, find_task("ic"))


def test_deleted_renamed_and_reordered(root: Path) -> None:
    before = prepared("fluent-speech-commands", root)
    table = root / BASE / "data" / "train_data.csv"
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *reversed(rows)]) + "\n")
    assert prepared("fluent-speech-commands", root).split("train") == before.split("train")

    folder = root / BASE / "wavs" / "speakers" / "train0"
    (folder / "train-0-0.wav").unlink()
    (folder / "train-0-1.wav").rename(folder / "new.wav")
    with pytest.raises(DataError, match="2 missing-audio"):
        prepared("fluent-speech-commands", root)
    assert sizes(prepared("fluent-speech-commands", root, allow_missing=True))["train"] == 4
    assert [line[0] for line in issues(root)] == ["missing-audio", "missing-audio", "no-label"]


def test_damaged_tables(root: Path) -> None:
    table = root / BASE / "data" / "test_data.csv"
    text = table.read_text()
    table.write_text(text.replace(",lights,", ",,", 1))
    assert sizes(prepared("fluent-speech-commands", root))["test"] == 5
    assert issues(root)[0][0] == "bad-label"
    assert "line 2 has no object" in issues(root)[0][5]
    table.write_text(text.replace("location", "place", 1))
    with pytest.raises(DataError, match="lacks the column location"):
        prepared("fluent-speech-commands", root)
    table.unlink()
    with pytest.raises(DataError, match=r"test_data\.csv"):
        prepared("fluent-speech-commands", root)
