"""Fluent Speech Commands: intents of action, object and location."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from speechft.data.corpora.base import MAX_LABELS, Card, Draft, Scan, audio_below, need, unlabelled
from speechft.data.issues import Issue
from speechft.errors import DataError
from speechft.storage.documents import read_limited, text_of

CARD = Card(
    name="fluent-speech-commands",
    title="Fluent Speech Commands: smart-home commands with intents",
    root="the folder fluent_speech_commands_dataset (or the one that holds it)",
    licence="Fluent Speech Commands Public License: research only",
    hours="19 h",
    splits="train, dev, test",
    tasks=("ic", "asr"),
    source="fluent.ai: fluent.tar.gz",
)

SLOTS = ("action", "object", "location")
OFFICIAL = {"train": 23_132, "dev": 3_118, "test": 3_793}
_FILES = {"train": "train_data.csv", "dev": "valid_data.csv", "test": "test_data.csv"}
_COLUMNS = ("path", "speakerId", "transcription", *SLOTS)


def scan(root: Path) -> Scan:
    """Read the three tables in ``data/``.

    Args:
        root: The unpacked archive.

    Raises:
        DataError: This is not Fluent Speech Commands, or a table lacks a column.
    """
    data = need(root, "data", "fluent_speech_commands_dataset/data", what=CARD.root)
    result = Scan({})
    for split, name in _FILES.items():
        result.sources.append(data / name)
        result.splits[split] = _table(data / name, data.parent, split, result)
    drafts = [draft for split in result.splits.values() for draft in split]
    found = audio_below(data.parent / "wavs", "speakers/*/*.wav")
    result.issues += unlabelled(found, drafts, "no table of data/")
    result.disjoint = (("train", "dev", "test"),)
    result.info["notes"] = [
        f"{split}: {len(result.splits[split])} of {number} official utterances"
        for split, number in OFFICIAL.items()
        if len(result.splits[split]) != number
    ]
    return result


def _table(path: Path, base: Path, split: str, result: Scan) -> list[Draft]:
    try:
        text = text_of(read_limited(path, MAX_LABELS))
        reader = csv.DictReader(io.StringIO(text, newline=""))
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"table {path} cannot be read: {error}") from None
    if missing:
        raise DataError(f"table {path} lacks the column {', '.join(missing)}")
    drafts = []
    for number, row in enumerate(rows, 2):
        empty = [name for name in _COLUMNS if not row[name]]
        if empty:
            problem = f"line {number} has no {', '.join(empty)}"
            result.issues.append(Issue("bad-label", problem, str(path), split=split))
            continue
        audio = base / row["path"]
        labels = {"intent": "/".join(row[slot] for slot in SLOTS)}
        text, speaker = row["transcription"], row["speakerId"]
        drafts.append(Draft(f"{speaker}-{audio.stem}", audio, text, speaker, labels=labels))
    return drafts
