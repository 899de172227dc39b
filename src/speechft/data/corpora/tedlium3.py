"""TED-LIUM 3: talks as SPHERE files, segments and transcripts as STM (legacy splits)."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Literal

from speechft.data.corpora.base import ENGLISH, Card, Draft, Drafts, Scan, need, read_lines
from speechft.data.issues import Issue
from speechft.errors import ConfigError, unknown_choice

CARD = Card(
    name="tedlium3",
    title="TED-LIUM 3: English talks",
    root="the folder TEDLIUM_release-3 (or the one that holds it)",
    licence="CC BY-NC-ND 3.0: not for commercial use",
    hours="452 h",
    splits="train, dev, test (legacy)",
    tasks=("asr",),
    source="OpenSLR 51: TEDLIUM_release-3.tgz",
    hub="LIUM/tedlium",
)

SUBSET_SECONDS = 36_000.0
"""Length of the 10-hour subsets: utterances are taken until this is exceeded."""
SHORTEST, LONGEST = 1.0, 60.0
"""Seconds of the utterances that the official fine-tuning keeps."""

Text = Literal["official", "mended"]
_IGNORED = "ignore_time_segment_in_scoring"
_TAG = re.compile(r"<[^>]*>|\{[^}]*\}|\[[^\]]*\]")
_CLITIC = re.compile(r" '(S|T|D|M|LL|RE|VE|N)(?= |$)")


def scan(root: Path, *, text: str = "mended", subset: str = "all", seed: int = 0) -> Scan:
    """Read the STM files of all legacy splits.

    Utterances shorter than 1 s or longer than 60 s, with ``<unk>``, or marked to be ignored in
    scoring are filtered, as the official fine-tuning does.

    Args:
        root: The unpacked archive.
        text: ``official`` (the normalisation of the released code, which keeps the word NOISE of
            ``{NOISE}``) or ``mended`` (tags removed, accents folded, only true clitics joined).
        subset: ``all``, ``first-10h`` (the official one: in file order until 36,000 s are
            exceeded) or ``random-10h`` (a seeded draw of the same length), of train.
        seed: Of ``random-10h``.

    Raises:
        ConfigError: An option is unknown.
        DataError: This is not TED-LIUM.
    """
    if text not in ("official", "mended"):
        raise unknown_choice("text normalisation", text, ("official", "mended"))
    if subset not in ("all", "first-10h", "random-10h"):
        raise unknown_choice("subset", subset, ("all", "first-10h", "random-10h"))
    legacy = need(root, "legacy", "TEDLIUM_release-3/legacy", what=CARD.root)
    result = Scan({}, alphabet=ENGLISH)
    filtered: Counter[str] = Counter()
    for split in ("train", "dev", "test"):
        files = sorted((legacy / split / "stm").glob("*.stm"))
        drafts = [
            draft for file in files for draft in _segments(file, text, filtered, result.issues)
        ]
        result.splits[split] = drafts
        result.sources += files
        talks = {file.stem for file in files}
        for audio in sorted((legacy / split / "sph").glob("*.sph")):
            if audio.stem not in talks:
                problem = f"{split}/stm holds no {audio.stem}.stm"
                result.issues.append(Issue("no-label", problem, str(audio), audio.stem, split))
    if subset != "all":
        result.splits["train"] = _ten_hours(result.splits["train"], subset, seed)
    result.info = {
        "filtered": dict(sorted(filtered.items())),
        "notes": [
            f"train: {subset}, files sorted by name; text: {text}",
            "filtered by rule: "
            + (", ".join(f"{n} {why}" for why, n in sorted(filtered.items())) or "none"),
        ],
    }
    return result


def _segments(stm: Path, text: str, filtered: Counter[str], issues: list[Issue]) -> list[Draft]:
    """Return the segments of one talk, in file order."""
    audio = stm.parent.parent / "sph" / f"{stm.stem}.sph"
    drafts = []
    for number, line in enumerate(read_lines(stm), 1):
        if not line.strip() or line.startswith(";;"):
            continue
        try:
            talk, _, speaker, first, last, _, *words = line.split()
            start, end = float(first), float(last)
        except ValueError:
            problem = f"line {number} is not 'talk channel speaker start end <label> words'"
            issues.append(Issue("bad-label", problem, str(stm), stm.stem))
            continue
        reason = _filter(start, end, words)
        normal = normalise(" ".join(words), text)
        if reason or not normal:
            filtered[reason or "without text"] += 1
            continue
        name = f"{talk}-{round(start * 100):07d}-{round(end * 100):07d}"
        drafts.append(Draft(name, audio, normal, speaker, start=start, end=end))
    return drafts


def _filter(start: float, end: float, words: list[str]) -> str | None:
    if words == [_IGNORED]:
        return "ignored in scoring"
    if "<unk>" in " ".join(words):
        return "with <unk>"
    if not SHORTEST <= end - start <= LONGEST:
        return "shorter than 1 s or longer than 60 s"
    return None


def normalise(text: str, how: str) -> str:
    """Return a transcript in upper case with A to Z, apostrophe and space only.

    Args:
        text: As the STM file has it.
        how: ``official`` or ``mended``, see `scan`.
    """
    if how == "official":
        text = text.upper().replace(" '", "'").replace("-", " ")
        return " ".join(re.sub(r"[^A-Z' ]", "", text).split())
    if how != "mended":
        raise ConfigError(f"unknown normalisation {how!r}")
    text = unicodedata.normalize("NFKD", _TAG.sub(" ", text)).replace("’", "'").upper()
    text = _CLITIC.sub(r"'\1", re.sub(r"[-_/]", " ", text))
    return " ".join(re.sub(r"[^A-Z' ]", "", text).split())


def _ten_hours(drafts: Drafts, subset: str, seed: int) -> list[Draft]:
    """Take utterances, in order or shuffled, until `SUBSET_SECONDS` are exceeded."""
    order = list(range(len(drafts)))
    if subset == "random-10h":
        import numpy as np  # here: `speechft corpora` needs only the card

        order = np.random.default_rng(seed).permutation(len(drafts)).tolist()
    total, chosen = 0.0, []
    for index in order:
        draft = drafts[index]
        chosen.append(draft)
        total += (draft.end or 0.0) - (draft.start or 0.0)
        if total > SUBSET_SECONDS:
            break
    return chosen
