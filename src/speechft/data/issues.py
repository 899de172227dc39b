"""What is wrong with the recordings of a corpus: kinds of damage, their outcome, ``issues.tsv``."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from speechft.errors import DataError
from speechft.storage.documents import read_limited, read_lines, text_of
from speechft.storage.files import write_text

ISSUES_FILE = "issues.tsv"
COLUMNS = ("kind", "outcome", "split", "id", "path", "problem")

Outcome = Literal["fatal", "left out", "kept"]

KINDS: dict[str, Outcome] = {
    "missing-audio": "fatal",
    "duplicate-id": "fatal",
    "speaker-overlap": "fatal",
    "bad-label": "left out",
    "no-label": "left out",
    "listed-twice": "left out",
    "unreadable-audio": "left out",
    "cut-off": "left out",
    "zero-length": "left out",
    "too-short": "left out",
    "segment-outside": "left out",
    "not-a-number": "left out",
    "silence": "left out",
    "no-channel": "left out",
    "channels-cancel": "left out",
    "characters": "left out",
    "text-too-long": "left out",
    "bracketed-text": "kept",
    "no-words": "kept",
    "unseen-characters": "kept",
    "looks-missing": "kept",
    "spelt-twice": "kept",
    "length-differs": "kept",
    "clipping": "kept",
    "rate-mismatch": "kept",
    "channel-mismatch": "kept",
}
"""Every kind of damage and what becomes of the utterance: ``fatal`` stops the preparation, ``left
out`` drops the utterance, ``kept`` keeps it (other rates are resampled, channels averaged)."""

HINTS = {
    "missing-audio": "complete the corpus, or go on without these files with --allow-missing",
    "duplicate-id": "give every utterance an id of its own, or remove the copies",
    "speaker-overlap": "move each speaker to one side of the split",
}
"""What to do about the fatal kinds."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One damaged utterance, file or line."""

    kind: str
    """Key in `KINDS`."""
    problem: str
    """In words, with the numbers."""
    path: str = ""
    """The audio or label file."""
    id: str = ""
    """The utterance, where it has an id."""
    split: str = ""
    outcome: Outcome | Literal[""] = ""
    """What became of it, where that differs from `KINDS`."""

    def resolved(self) -> Outcome:
        """Return what became of the utterance."""
        return self.outcome or KINDS[self.kind]

    def line(self) -> str:
        """Return the line of ``issues.tsv``."""
        cells = (self.kind, self.resolved(), self.split, self.id, self.path, self.problem)
        return "\t".join(" ".join(cell.split()) for cell in cells)


def write_issues(path: Path, issues: Iterable[Issue]) -> None:
    """Write ``issues.tsv``: one line an issue, fatal ones first, in the order of `KINDS`."""
    kinds = list(KINDS)
    ordered = sorted(
        issues, key=lambda i: (i.resolved() != "fatal", kinds.index(i.kind), i.split, i.path, i.id)
    )
    write_text(path, "\n".join(["\t".join(COLUMNS), *(issue.line() for issue in ordered)]) + "\n")


def read_issues(path: Path) -> list[Issue]:
    """Return what `write_issues` wrote; nothing where there is no such file.

    Raises:
        DataError: It holds something else.
    """
    if not path.is_file():
        return []
    found = []
    try:
        for line in text_of(read_limited(path)).split("\n")[1:-1]:
            kind, outcome, split, name, place, problem = line.split("\t")
            found.append(Issue(kind, problem, place, name, split, outcome))  # type: ignore[arg-type]
    except ValueError as error:
        raise DataError(
            f"{path} is not what prepare wrote: {error}", hint="prepare the corpus again"
        ) from None
    return found


def refused_for(folder: Path) -> str | None:
    """Return the kind of damage that the last preparation of a folder stopped at, if it did.

    An older corpus that is still there is then of other data.
    """
    with contextlib.suppress(OSError, ValueError):
        first, second = itertools.islice(read_lines(folder / ISSUES_FILE), 2)
        kind, outcome, *_ = second.decode().split("\t")
        if first.decode().split() == [*COLUMNS] and outcome == "fatal" and kind in HINTS:
            return kind
    return None


def check_not_refused(folder: Path) -> None:
    """Refuse a folder whose last preparation was refused.

    Raises:
        DataError: It was.
    """
    if (kind := refused_for(folder)) is not None:
        raise DataError(
            f"{folder} is no corpus: its preparation was refused ({kind}), see "
            f"{folder / ISSUES_FILE}",
            hint=f"{HINTS[kind]}; then prepare it again",
        )


def count(issues: Iterable[Issue]) -> dict[str, int]:
    """Return how many issues there are of each kind, in the order of `KINDS`."""
    found = Counter(issue.kind for issue in issues)
    return {kind: found[kind] for kind in KINDS if found[kind]}


def by_name(issues: Iterable[Issue]) -> dict[str, str]:
    """Return the problems by path, or by id where there is none; a recording may have several."""
    found: dict[str, list[str]] = {}
    for issue in issues:
        found.setdefault(issue.path or issue.id, []).append(issue.problem)
    return {name: "; ".join(problems) for name, problems in found.items()}


def summary(issues: Sequence[Issue], root: Path, shown: int = 3) -> str:
    """Return one line: counts by kind, the first few by name, and what missing paths start from.

    Args:
        issues: At least one.
        root: Folder that their paths are relative to.
        shown: So many are named.
    """
    counts = ", ".join(f"{number} {kind}" for kind, number in count(issues).items())
    named = "; ".join(f"{i.path or i.id}: {i.problem}" for i in issues[:shown])
    missing = any(i.kind == "missing-audio" and not Path(i.path).is_absolute() for i in issues)
    where = f" (paths are relative to {root})" if missing else ""
    return f"{counts}: {named}" + ("; ..." if len(issues) > shown else "") + where
