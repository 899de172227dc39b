"""Audio SNIPS: spoken commands with slots in IOB, voices of Amazon Polly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from speechft.data.corpora.base import Card, Draft, Scan, need, read_lines
from speechft.data.issues import Issue

CARD = Card(
    name="snips",
    title="Audio SNIPS: synthesised voice commands with slots",
    root="the folder SNIPS (or the one that holds it)",
    licence="CC0 1.0 (texts); voices by Amazon Polly",
    hours="127 h",
    splits="train (8 voices), dev (4), test (4)",
    tasks=("sf", "asr"),
    source="s3prl's preprocessing of audio_slu_v3.zip and aws-lex-noisy-spoken-language-"
    "understanding",
)

LABEL_FILE = "all.iob.snips.txt"
SPEAKERS = {
    "train": ("Ivy", "Joanna", "Joey", "Justin", "Kendra", "Kimberly", "Matthew", "Salli"),
    "valid": ("Aditi", "Amy", "Geraint", "Nicole"),
    "test": ("Brian", "Emma", "Raveena", "Russell"),
}
"""Voices that SUPERB uses of each folder."""
_SPLITS = {"train": "train", "valid": "dev", "test": "test"}
_EDGES = ("BOS", "EOS")


def scan(root: Path) -> Scan:
    """Read ``all.iob.snips.txt``: ``uid BOS text EOS<tab>O iob ... intent`` a line.

    Args:
        root: The unpacked archive.

    Raises:
        DataError: This is not Audio SNIPS.
    """
    labels = need(root, LABEL_FILE, f"SNIPS/{LABEL_FILE}", what=CARD.root)
    base = labels.parent
    result = Scan({split: [] for split in _SPLITS.values()}, sources=[labels])
    slots = _slot_names(base / "slots.txt", result)
    on_disk = {
        folder: {path.stem: path for path in (base / folder).glob("*.*")} for folder in _SPLITS
    }
    others: Counter[str] = Counter()
    listed: set[str] = set()
    for number, line in enumerate(read_lines(labels), 1):
        if not line.strip():
            continue
        name = line.split(" ", 1)[0]
        speaker, _, rest = name.partition("-snips-")
        folder = rest.split("-")[0]
        listed.add(name)
        if folder not in SPEAKERS:
            problem = f"line {number}: {name!r} is not VOICE-snips-train|valid|test-N"
            result.issues.append(Issue("bad-label", problem, str(labels), name))
        elif speaker not in SPEAKERS[folder]:
            others[folder] += 1
        else:
            path = on_disk[folder].get(name, base / folder / f"{name}.wav")
            draft = Draft(name, path, speaker=speaker)
            wrong = _read_labels(line, draft, slots)
            if wrong:
                issue = Issue("bad-label", f"line {number}: {wrong}", str(labels), name)
                result.issues.append(issue)
            else:
                result.splits[_SPLITS[folder]].append(draft)
    for folder, paths in on_disk.items():
        for name, path in sorted(paths.items()):
            if name not in listed and name.split("-")[0] in SPEAKERS[folder]:
                problem = f"{LABEL_FILE} does not mention it"
                result.issues.append(Issue("no-label", problem, str(path), name, _SPLITS[folder]))
    result.disjoint = (("train", "dev", "test"),)
    result.info = {"filtered": {f"{k}, other voices": n for k, n in sorted(others.items())}}
    return result


def _slot_names(path: Path, result: Scan) -> frozenset[str]:
    """Return the IOB labels of ``slots.txt`` (its first line counts for nothing, as in s3prl)."""
    if not path.is_file():
        return frozenset()
    result.sources.append(path)
    return frozenset(line.strip() for line in read_lines(path)[1:] if line.strip())


def _read_labels(line: str, draft: Draft, slots: frozenset[str]) -> str | None:
    """Fill in text, slots and intent; return what is wrong."""
    text, tab, iob = line.strip().partition("\t")
    words, labels = text.split()[1:], iob.split()
    if not tab or len(words) < 3 or (words[0], words[-1]) != _EDGES:
        return "not 'uid BOS text EOS<tab>O iob ... intent'"
    if len(labels) != len(words):
        return f"{len(words)} words, BOS and EOS included, but {len(labels)} labels"
    strange = sorted({label for label in labels[1:-1] if slots and label not in slots} - {"O"})
    if strange:
        return f"slots.txt does not hold {', '.join(strange)}"
    draft.text = " ".join(words[1:-1])
    draft.labels = {"slots": " ".join(labels[1:-1]), "intent": labels[-1]}
    return None
