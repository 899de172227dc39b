"""AISHELL-3: Mandarin read by 218 speakers, characters and pinyin."""

from __future__ import annotations

import hashlib
from pathlib import Path

from speechft.data.corpora.base import Card, Draft, Scan, need, read_lines, unlabelled
from speechft.data.issues import Issue

CARD = Card(
    name="aishell3",
    title="AISHELL-3: Mandarin read by 218 speakers",
    root="the folder data_aishell3 (or the one that holds it)",
    licence="Apache 2.0",
    hours="85 h",
    splits="train, dev (5 % of the official train, by hash), test",
    tasks=("asr", "sid", "pretrain"),
    source="OpenSLR 93: data_aishell3.tgz",
    hub="AISHELL/AISHELL-3",
)

DEV_SHARE = 0.05


def scan(root: Path) -> Scan:
    """Read ``content.txt``: ``file.wav<tab>character pinyin character pinyin ...`` a line.

    Args:
        root: The unpacked archive.

    Raises:
        DataError: This is not AISHELL-3.
    """
    train = need(root, "train/content.txt", "data_aishell3/train/content.txt", what=CARD.root)
    base = train.parent.parent
    result = Scan({"train": [], "dev": [], "test": []}, sample_rate=44_100)
    speakers = _speakers(base / "spk-info.txt", result)
    for draft in _part(base / "train", speakers, result):
        result.splits["dev" if _in_dev(draft.id) else "train"].append(draft)
    result.splits["test"] = _part(base / "test", speakers, result)
    result.info = {
        "notes": ["dev is 5 % of the official train, by the hash of the id"],
        "language": "zh",
    }
    return result


def _in_dev(name: str) -> bool:
    """Return whether an utterance is in dev: the same whatever else is there."""
    digest = hashlib.sha1(name.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4], "big") < DEV_SHARE * 2**32


def _speakers(path: Path, result: Scan) -> dict[str, dict[str, str]]:
    """Return age, gender and accent by speaker: ``SSB0005 B female north``."""
    if not path.is_file():
        return {}
    result.sources.append(path)
    rows = [line.split() for line in read_lines(path) if line.strip() and line[0] != "#"]
    return {
        row[0]: dict(zip(("age", "gender", "accent"), row[1:4], strict=True))
        for row in rows
        if len(row) >= 4
    }


def _part(folder: Path, speakers: dict[str, dict[str, str]], result: Scan) -> list[Draft]:
    content = folder / "content.txt"
    result.sources.append(content)
    drafts = []
    for number, line in enumerate(read_lines(content), 1):
        if not line.strip():
            continue
        file, tab, rest = line.partition("\t")
        tokens = rest.split()
        name, speaker = file.removesuffix(".wav"), file[:7]
        if not tab or not tokens or len(tokens) % 2:
            problem = f"line {number} is not 'file.wav<tab>character pinyin ...'"
            result.issues.append(Issue("bad-label", problem, str(content), name, folder.name))
            continue
        labels = {
            "pinyin": " ".join(tokens[1::2]),
            "language": "zh",
            **speakers.get(speaker, {}),
        }
        path = folder / "wav" / speaker / f"{name}.wav"
        drafts.append(Draft(name, path, "".join(tokens[::2]), speaker, labels=labels))
    found = sorted((folder / "wav").glob("*/*.wav"))
    result.issues += unlabelled(found, drafts, f"{folder.name}/content.txt")
    return drafts
