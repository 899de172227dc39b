"""Recordings below a folder, and the file that a table means by a path."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from speechft.console import log, warn
from speechft.data.containers import AUDIO_SUFFIXES, FOREIGN_SUFFIXES
from speechft.data.issues import ISSUES_FILE, refused_for
from speechft.data.text import composed
from speechft.errors import DataError
from speechft.runs import STAGE_FILE, outputs_of
from speechft.storage.documents import is_plain
from speechft.storage.outputs import RECORD_NAME, own_files

CORPUS_FILE = "corpus.json"
"""What a prepared corpus has; a folder with it below another holds what was made, not found."""
_RECORDS = frozenset({RECORD_NAME, STAGE_FILE})
_CACHES = frozenset({"__MACOSX", "__pycache__", "node_modules", "lost+found", "$RECYCLE.BIN"})
_BESIDE = ("clips", "wavs", "wav", "audio")
"""Folders beside a table that its paths may be relative to, as in Common Voice and LJSpeech."""


_SYSTEM = frozenset({"/proc", "/sys", "/dev"})
MAX_FILES = 10_000_000
"""Files below a folder of recordings, all kinds counted."""


@dataclass
class Below:
    """What lies below a folder."""

    audio: list[Path] = field(default_factory=list)
    """Everything that is called as a recording, also what cannot be read: it will be named."""
    others: list[Path] = field(default_factory=list)
    """All other files."""
    unnamed: list[Path] = field(default_factory=list)
    """Files whose path is not UTF-8: no manifest could name them."""
    passed: list[Path] = field(default_factory=list)
    """Recordings in hidden folders and caches, which are not read."""


def look_below(folder: Path) -> Below:
    """Find all files below a folder, sorted; links to folders are followed once.

    A link is not followed to what the folder lies in, such as ``/``, nor to where the system shows
    itself, such as ``/proc``. What commands of ours wrote is no data that was found.

    Raises:
        DataError: There are more than `MAX_FILES`.
    """
    found, visited, count = Below(), set(), 0
    own: set[Path] = set()
    whole = os.path.realpath(folder)
    for top, names, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(top)
        count += len(files)
        if count > MAX_FILES:
            raise DataError(
                f"{folder} holds more than {MAX_FILES:,} files, counted up to {top}",
                hint="give a folder below it, or a table of the recordings that are meant",
            )
        if real in visited or (real != whole and _holds(real, whole)) or real in _SYSTEM:
            names.clear()
            continue
        visited.add(real)
        relative = Path(top).relative_to(folder).parts
        hidden = any(part.startswith(".") or part in _CACHES for part in relative)
        made = top != str(folder) and (CORPUS_FILE in files or _is_refused(Path(top), files))
        if made:
            names.clear()
        if not _RECORDS.isdisjoint(files):
            outputs = outputs_of(Path(top))
            names[:] = [name for name in names if name not in outputs]
            own |= {Path(top, name) for name in (*outputs, *_RECORDS)} | own_files(Path(top))
        for name in files:
            path = Path(top, name)
            if not is_plain(str(path)):
                found.unnamed.append(path)
                continue
            if path.suffix.lower() not in AUDIO_SUFFIXES | FOREIGN_SUFFIXES:
                if not (hidden or made or path in own):
                    found.others.append(path)
            elif hidden or made or name.startswith("."):
                found.passed.append(path)
            else:
                found.audio.append(path)
    for paths in (found.audio, found.others, found.passed):
        paths.sort()
    if found.unnamed:
        warn(
            f"{len(found.unnamed)} files below {folder} are not read because their names are not "
            f"UTF-8, the first: {min(map(repr, found.unnamed))}"
        )
    if found.passed:
        log(
            f"{len(found.passed)} recordings in hidden folders, caches and prepared corpora below "
            f"{folder} are not read, the first: {found.passed[0].relative_to(folder)}"
        )
    return found


def _is_refused(folder: Path, files: list[str]) -> bool:
    return ISSUES_FILE in files and refused_for(folder) is not None


def _holds(outer: str, inner: str) -> bool:
    return os.path.commonpath([outer, inner]) == outer


def locate(folder: Path, text: str) -> Path:
    """Return the file that a table in ``folder`` means; the plain reading where there is none.

    Tried are: as it stands; composed otherwise (NFC and NFD); with the other slashes; below
    ``clips`` and its like; without its suffix.
    """
    plain = _joined(folder, text)
    if plain.exists() or plain.is_symlink():
        return plain
    texts = dict.fromkeys([text, text.removeprefix("file://"), text.replace("\\", "/")])
    places = [_joined(base, t) for base in (folder, *(folder / n for n in _BESIDE)) for t in texts]
    for place in places:
        if place.is_file():
            return place
        same = _named_alike(place)
        if same is not None:
            return same
    if plain.suffix.lower() not in AUDIO_SUFFIXES:
        for place in places:
            names = [s for s in sorted(AUDIO_SUFFIXES) if Path(f"{place}{s}").is_file()]
            if len(names) == 1:
                return Path(f"{place}{names[0]}")
    return plain


def _joined(folder: Path, text: str) -> Path:
    path = Path(os.path.expanduser(text))  # a user that is not known stays in the path
    return Path(os.path.abspath(path if path.is_absolute() else folder / path))


def _named_alike(path: Path) -> Path | None:
    """Return the file whose path is the same after composition, if there is one."""
    if str(path).isascii():
        return None
    current = Path(path.anchor)
    for part in path.parts[1:]:
        if not (current / part).exists():
            changed = current.stat().st_mtime_ns if current.is_dir() else 0
            part = _listing(current, changed).get(composed(part), "")
            if not part:
                return None
        current /= part
    return current if current.is_file() else None


@lru_cache(maxsize=1024)
def _listing(folder: Path, changed: int) -> dict[str, str]:
    try:
        return {composed(name): name for name in os.listdir(folder)}
    except OSError:
        return {}
