"""What a corpus is to `speechft prepare`: its card, and what a look at its folder finds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from speechft.data.issues import Issue
from speechft.errors import DataError
from speechft.storage.documents import read_limited, text_of

if TYPE_CHECKING:
    from speechft.data.kept_items import KeptItems

ENGLISH = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")
"""Characters of upper-case English transcripts."""


@dataclass(frozen=True)
class Card:
    """What `speechft corpora` says about a corpus."""

    name: str
    title: str
    root: str
    """What ROOT is."""
    licence: str
    hours: str
    splits: str
    tasks: tuple[str, ...]
    """Keys of the tasks that it serves."""
    source: str
    """Where to get it."""
    hub: str = ""
    """Its id among the data sets of the Hugging Face hub, where its owners put it there."""

    def line(self) -> str:
        """Return title, size, splits, tasks and licence on one line."""
        tasks = ", ".join(self.tasks)
        return (
            f"{self.title}; {self.hours}; splits: {self.splits}; tasks: {tasks}; "
            f"licence: {self.licence}; {self.source}"
        )

    def info(self) -> dict[str, Any]:
        """Return the fields that ``corpus.json`` keeps: licence, source and title."""
        return {"licence": self.licence, "source": self.source, "title": self.title}


@dataclass(slots=True)
class Draft:
    """One utterance as label files describe it, before its audio has been looked at."""

    id: str
    path: Path
    text: str | None = None
    speaker: str | None = None
    phones: list[tuple[str, float, float]] = field(default_factory=list)
    """(phone, start, end) in seconds; start = end = 0 throughout where times are not known."""
    words: list[tuple[str, float, float]] = field(default_factory=list)
    """(word, start, end) in seconds, where times are known."""
    labels: dict[str, str] = field(default_factory=dict)
    start: float | None = None
    """First second, for a segment of a longer recording."""
    end: float | None = None
    channel: int | None = None
    """The channel that counts; None for the mean of all."""


Drafts: TypeAlias = "list[Draft] | KeptItems[Draft]"


def kept_drafts() -> KeptItems[Draft]:
    """Return utterances of a corpus of any size, none yet."""
    from speechft.data.kept_items import KeptItems  # with numpy, which lists of corpora do without

    return KeptItems(_plain, _draft)


def _plain(draft: Draft) -> list[Any]:
    from speechft.data.kept_items import as_values

    return [draft.id, str(draft.path), *as_values(draft)[2:]]


def _draft(values: list[Any]) -> Draft:
    name, path, text, speaker, phones, words, *others = values
    heard, said = ([(s, a, b) for s, a, b in part] for part in (phones, words))
    return Draft(name, Path(path), text, speaker, heard, said, *others)


@dataclass(frozen=True)
class Pairs:
    """A text file beside the manifests whose lines name utterances, such as verification trials."""

    rows: list[tuple[str, ...]]
    ids: tuple[int, ...]
    """Which cells are ids of utterances: a line whose audio is left out is dropped."""
    separator: str


@dataclass
class Scan:
    """What a look at the label files of a corpus found."""

    splits: dict[str, Drafts]
    issues: list[Issue] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    """``task_splits``, ``tuning_splits``, ``folds``, and facts for the user."""
    pairs: dict[str, Pairs] = field(default_factory=dict)
    """Text files that go beside the manifests, by name, such as ``trials.txt``."""
    sources: list[Path] = field(default_factory=list)
    """Label files that were read: their contents decide whether a corpus is prepared anew."""
    disjoint: tuple[tuple[str, ...], ...] = ()
    """Groups of splits that must not share a speaker."""
    sample_rate: int | None = 16_000
    """What recordings have in the archive; None where any rate will do."""
    alphabet: frozenset[str] | None = None
    """Characters that transcripts may have; None where any will do."""
    silence_allowed: bool = False
    """Whether recordings without sound belong to the corpus."""
    missing_allowed: bool = False
    """Whether missing recordings are left out rather than fatal."""


def need(root: Path, *names: str, what: str) -> Path:
    """Return the first of several places below ``root`` that exists.

    Archives are unpacked at different depths: ROOT may be the folder that holds them or any
    below.

    Raises:
        DataError: None of them exists.
    """
    if not root.exists():
        raise DataError(f"{root} does not exist", hint=f"ROOT is {what}")
    for name in names:
        if (root / name).exists():
            return root / name
    looked = ", ".join(names)
    raise DataError(f"{root} does not look like {what}: it holds none of {looked}")


MAX_LABELS = 256 << 20
"""Bytes of a label file."""


def read_lines(path: Path) -> list[str]:
    """Return the lines of a label file, without line ends; a byte order mark is dropped.

    Only line ends end a line: transcripts may hold U+2028 and other separators.

    Raises:
        DataError: The file is missing, not UTF-8, or holds a zero byte, which no path or text has.
    """
    try:
        text = text_of(read_limited(path, MAX_LABELS))
    except FileNotFoundError:
        raise DataError(
            f"label file {path} does not exist", hint="unpack the whole archive again"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"label file {path} cannot be read: {error}") from None
    if "\0" in text:
        number = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"label file {path}, line {number} holds a zero byte",
            hint="it is damaged, or no text; unpack it again",
        )
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def audio_below(folder: Path, *patterns: str) -> list[Path]:
    """Return audio files below a folder by glob patterns, sorted."""
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def unlabelled(found: Iterable[Path], drafts: Iterable[Draft], where: str) -> Iterator[Issue]:
    """Yield an issue for every recording on disk that no label file speaks of."""
    known = {draft.path for draft in drafts}
    for path in found:
        if path not in known:
            yield Issue("no-label", f"{where} does not mention it", str(path), path.stem)
