"""IEMOCAP: emotions of acted dialogues, five leave-one-session-out folds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from speechft.data.corpora.base import Card, Draft, Scan, need, read_lines
from speechft.data.issues import Issue
from speechft.errors import CheckpointError, DataError
from speechft.storage.documents import read_limited
from speechft.storage.files import read_json

CARD = Card(
    name="iemocap",
    title="IEMOCAP: acted emotional dialogues",
    root="the folder IEMOCAP_full_release with Session1 to Session5",
    licence="on request, for research; no redistribution",
    hours="12 h (7 h in four classes)",
    splits="foldN-train, foldN-dev, foldN-test for N = 1 to 5",
    tasks=("er",),
    source="sail.usc.edu/iemocap: IEMOCAP_full_release.tar.gz, on request",
)

SESSIONS = (1, 2, 3, 4, 5)
CLASSES = {"neu": "neu", "hap": "hap", "exc": "hap", "ang": "ang", "sad": "sad"}
"""The four classes of SUPERB; excited counts as happy."""
DEV_SHARE = 0.2
_LINE = re.compile(r"\[(?P<start>[\d.]+) - (?P<end>[\d.]+)\]\t(?P<id>\S+)\t(?P<label>\S+)\t")


def scan(root: Path, *, metadata: str = "") -> Scan:
    """Read the emotion labels of every session and cut the five folds.

    Fold N tests session N; of the rest, a fifth is drawn for dev by ``torch.randperm`` with seed 0,
    which is s3prl's draw where the order is s3prl's.

    Args:
        root: The unpacked archive.
        metadata: Folder with ``SessionN/train_meta_data.json`` and ``test_meta_data.json`` as
            s3prl ships them: they fix the order before the draw, so that dev is exactly s3prl's.
            Empty: sorted by id.

    Raises:
        DataError: This is not IEMOCAP, or a metadata file cannot be read.
    """
    base = root if (root / "Session1").is_dir() else root / "IEMOCAP_full_release"
    for number in SESSIONS:
        need(base, f"Session{number}/dialog/EmoEvaluation", what=CARD.root)
    result = Scan({})
    sessions = {n: _session(base / f"Session{n}", result) for n in SESSIONS}
    folds = []
    for number in SESSIONS:
        test = sessions[number]
        rest = [draft for n in SESSIONS if n != number for draft in sessions[n]]
        if metadata:
            folder = Path(metadata).expanduser() / f"Session{number}"
            rest = _ordered(rest, folder / "train_meta_data.json", base, result)
            test = _ordered(test, folder / "test_meta_data.json", base, result)
        train, dev = _draw(rest)
        names = tuple(f"fold{number}-{part}" for part in ("train", "dev", "test"))
        result.splits |= dict(zip(names, (train, dev, test), strict=True))
        result.disjoint += ((names[0], names[2]), (names[1], names[2]))
        folds.append(names)
    order = f"the order of {Path(metadata).name}" if metadata else "sorted ids (not s3prl's order)"
    result.info = {
        "folds": {"er": folds},
        "task_splits": {"*": folds[0], "er": folds[0]},
        "tuning_splits": folds[0][:2],
        "notes": [f"dev is drawn from {order}; exc counts as hap"],
    }
    return result


def _session(folder: Path, result: Scan) -> list[Draft]:
    """Return the utterances of a session in one of the four classes, sorted by id."""
    drafts: dict[str, Draft] = {}
    files = [p for p in (folder / "dialog" / "EmoEvaluation").glob("*.txt") if p.name[0] != "."]
    for file in sorted(files):
        result.sources.append(file)
        for number, line in enumerate(read_lines(file), 1):
            if not line.startswith("["):
                continue
            match = _LINE.match(line)
            if match is None:
                if not line.startswith("[START_TIME"):
                    problem = f"line {number} is not '[start - end] id label [V, A, D]'"
                    result.issues.append(Issue("bad-label", problem, str(file)))
                continue
            name, label = match["id"], match["label"]
            if label in CLASSES:
                audio = folder / "sentences" / "wav" / name.rpartition("_")[0] / f"{name}.wav"
                draft = Draft(name, audio, speaker=name[:5] + name.rpartition("_")[2][0])
                draft.labels["emotion"] = CLASSES[label]
                drafts[name] = draft
    for name, text in _texts(folder).items():
        if name in drafts:
            drafts[name].text = text
    return [drafts[name] for name in sorted(drafts)]


def _lenient_lines(file: Path) -> list[str]:
    try:
        return read_limited(file).decode("utf-8", "replace").splitlines()
    except OSError as error:
        raise DataError(f"transcript {file} cannot be read: {error}") from None


def _texts(folder: Path) -> dict[str, str]:
    """Return the transcripts of a session, where they are there: ``id [start-end]: text``."""
    texts = {}
    for file in sorted((folder / "dialog" / "transcriptions").glob("*.txt")):
        if file.name[0] != ".":
            for line in _lenient_lines(file):
                head, colon, text = line.partition("]: ")
                if colon:
                    texts[head.split(" ")[0]] = text.strip()
    return texts


def _ordered(drafts: list[Draft], file: Path, base: Path, result: Scan) -> list[Draft]:
    """Return the drafts that a metadata file names, in its order, with its labels."""
    try:
        content: dict[str, Any] = read_json(file)
        rows = [(row["path"], row["label"]) for row in content["meta_data"]]
    except CheckpointError as error:
        raise DataError(f"metadata: {error.message}") from None
    except (KeyError, TypeError) as error:
        raise DataError(f"metadata {file} lacks {error}") from None
    if file not in result.sources:
        result.sources.append(file)
    known = {draft.id: draft for draft in drafts}
    ordered = []
    for path, label in rows:
        name = Path(path).stem
        draft = known.get(name)
        if draft is None:
            problem = f"{file.parent.name}/{file.name} names it, no label file does"
            result.issues.append(Issue("bad-label", problem, str(base / path), name))
        else:
            draft.labels["emotion"] = CLASSES.get(label, label)
            ordered.append(draft)
    return ordered


def _draw(drafts: list[Draft]) -> tuple[list[Draft], list[Draft]]:
    """Split as ``torch.utils.data.random_split`` does after ``torch.manual_seed(0)``."""
    import torch

    size = int((1 - DEV_SHARE) * len(drafts))
    order = torch.randperm(len(drafts), generator=torch.Generator().manual_seed(0)).tolist()
    return [drafts[i] for i in order[:size]], [drafts[i] for i in order[size:]]
