"""LibriSpeech: read English books, FLAC and transcripts by chapter; phones through a lexicon."""

from __future__ import annotations

from pathlib import Path

from speechft.data.corpora.base import (
    ENGLISH,
    Card,
    Draft,
    Drafts,
    Scan,
    need,
    read_lines,
    unlabelled,
)
from speechft.data.issues import Issue

CARD = Card(
    name="librispeech",
    title="LibriSpeech: read English books",
    root="the folder LibriSpeech (or the one that holds it)",
    licence="CC BY 4.0",
    hours="982 h",
    splits="train-clean-100, train-clean-360, train-other-500, dev-clean, dev-other, test-clean, "
    "test-other",
    tasks=("asr", "pr"),
    source="OpenSLR 12: train-clean-100.tar.gz ...; lexicon: OpenSLR 11",
    hub="openslr/librispeech_asr",
)

PARTS = (
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
)
OFFICIAL = {
    "train-clean-100": 28_539,
    "train-clean-360": 104_014,
    "train-other-500": 148_688,
    "dev-clean": 2_703,
    "dev-other": 2_864,
    "test-clean": 2_620,
    "test-other": 2_939,
}
"""Utterances of the official parts."""
LEXICON = "librispeech-lexicon.txt"
UNKNOWN_WORD = "SPN"
"""Phone of a word that no lexicon holds, as in Kaldi; PR leaves it out."""


def scan(root: Path, *, lexicon: str = "") -> Scan:
    """Read the transcripts of every part that is there.

    Args:
        root: The unpacked archives.
        lexicon: One or several lexicons, separated by commas (``WORD  PH1 PH2 ...`` a line; the
            first pronunciation of the first lexicon that has the word counts). Empty:
            ``librispeech-lexicon.txt`` in ROOT where it is there.

    Raises:
        DataError: This is not LibriSpeech, or a lexicon cannot be read.
    """
    marker = need(root, *PARTS, "LibriSpeech", what=CARD.root)
    base = root if marker.name in PARTS else marker
    result = Scan({}, alphabet=ENGLISH)
    for part in PARTS:
        if (base / part).is_dir():
            result.splits[part] = _part(base / part, result)
    places = [Path(p.strip()).expanduser() for p in lexicon.split(",") if p.strip()]
    found = [p for p in (base / LEXICON, root / LEXICON) if p.is_file()][:1]
    result.info["notes"] = _complete(result.splits)
    if places or found:
        _add_phones(result, places or found)
    else:
        hint = f"no phones: put {LEXICON} (OpenSLR 11) into ROOT, or --set lexicon=FILE"
        result.info["notes"].append(hint)
    train = next((part for part in PARTS[:3] if part in result.splits), PARTS[0])
    clean = (train, "dev-clean", "test-clean")
    result.info |= {"task_splits": {"*": clean}, "tuning_splits": clean[:2]}
    result.disjoint = (tuple(result.splits),)
    return result


def _part(folder: Path, result: Scan) -> list[Draft]:
    drafts = []
    for file in sorted(folder.glob("*/*/*.trans.txt")):
        result.sources.append(file)
        speaker = file.parent.parent.name
        for number, line in enumerate(read_lines(file), 1):
            name, _, text = line.partition(" ")
            if not text.strip():
                if line.strip():
                    problem = f"line {number} is not 'ID TEXT'"
                    issue = Issue("bad-label", problem, str(file), name, folder.name)
                    result.issues.append(issue)
                continue
            drafts.append(Draft(name, file.parent / f"{name}.flac", text.strip(), speaker))
    result.issues += unlabelled(sorted(folder.glob("*/*/*.flac")), drafts, "its .trans.txt")
    return drafts


def _complete(splits: dict[str, Drafts]) -> list[str]:
    return [
        f"{part}: {len(drafts)} of {OFFICIAL[part]} official utterances"
        for part, drafts in splits.items()
        if len(drafts) != OFFICIAL[part]
    ]


def _add_phones(result: Scan, places: list[Path]) -> None:
    pronunciations: dict[str, list[str]] = {}
    for place in places:
        result.sources.append(place)
        for line in read_lines(place):
            cells = line.split()
            if len(cells) > 1:
                pronunciations.setdefault(cells[0].upper(), cells[1:])
    unknown: dict[str, int] = {}
    for drafts in result.splits.values():
        for draft in drafts:
            for word in (draft.text or "").split():
                if word not in pronunciations:
                    unknown[word] = unknown.get(word, 0) + 1
                for phone in pronunciations.get(word, [UNKNOWN_WORD]):
                    draft.phones.append((phone, 0.0, 0.0))
    if unknown:
        shown = ", ".join(sorted(unknown)[:5])
        result.info["notes"].append(
            f"{len(unknown)} words ({sum(unknown.values())} times) are in no lexicon and became "
            f"{UNKNOWN_WORD}: {shown}"
        )
