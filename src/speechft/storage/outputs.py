"""Outputs: put in place in one step, never in the place of somebody else's.

What a command wrote it knows again by ``.speechft.json``: in a folder that it made, or beside a
file that it made. It holds a fingerprint of every file. Whatever has no such record, or is not as
it was written, belongs to somebody else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from speechft.errors import CheckpointError, RunError
from speechft.storage.disk import reading, remove, sweep
from speechft.storage.files import read_json, write_beside, write_json, write_text
from speechft.storage.locks import LOCK_NAME, lock, make_scratch

RECORD_NAME = ".speechft.json"
_WHOLE = 1 << 20
"""Files up to this size are digested whole; of larger ones this much, spread over them."""

_NOTHING = f"0-{hashlib.sha256().hexdigest()}"
"""Fingerprint of an empty file."""
OTHERS = "choose another --out, move it away, or replace it with --overwrite"
"""What to do about somebody else's files in the place of ours."""

_overwrite: ContextVar[bool] = ContextVar("overwrite", default=False)


@contextlib.contextmanager
def overwriting(allowed: bool) -> Iterator[None]:
    """Let commands replace what they did not write, if ``allowed``."""
    token = _overwrite.set(allowed or _overwrite.get())
    try:
        yield
    finally:
        _overwrite.reset(token)


def is_overwriting() -> bool:
    """Return whether commands may replace what they did not write, see `overwriting`."""
    return _overwrite.get()


def fingerprint(path: Path) -> str:
    """Return size and SHA-256 of a file; of a large one both ends and 14 places between count."""
    with reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256()
        if size <= _WHOLE:
            digest.update(file.read())
        else:
            part = _WHOLE // 16
            for number in range(16):
                file.seek((size - part) * number // 15)
                digest.update(file.read(part))
    return f"{size}-{digest.hexdigest()}"


def fingerprints(path: Path) -> dict[str, str]:
    """Return the fingerprint of a file, or of all in a folder by their path in it.

    Hidden names in a folder are left out: they are notes of programs, not outputs. What is no
    regular file has the fingerprint of nothing.
    """
    if not path.is_dir() or path.is_symlink():
        return {"": _fingerprint(path)}
    return {
        str(item.relative_to(path)): _fingerprint(item)
        for item in sorted(path.rglob("*"))
        if (item.is_symlink() or not item.is_dir()) and not _is_hidden(item.relative_to(path))
    }


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _fingerprint(path: Path) -> str:
    try:
        return fingerprint(path)
    except OSError:
        return "unreadable"


def foreign(path: Path, known: Mapping[str, Any], new: Path | None = None) -> list[str]:
    """Return what lies at a place and was not written by us.

    Args:
        path: A file or a folder.
        known: Fingerprints that we wrote, one or several a file.
        new: What is to take its place: files that are equal to it need no record.
    """
    if not os.path.lexists(path):
        return []
    found = fingerprints(path)
    if path.is_dir() and not path.is_symlink() and (strange := _hidden_files(path)):
        return strange
    made = None if new is None else fingerprints(new)
    return [
        str(path / name) if name else str(path)
        for name, print_ in found.items()
        if print_ == "unreadable"
        or (
            (print_ not in listed(known.get(name)) and (made is None or made.get(name) != print_))
            and not (print_ == _NOTHING and known.get(name))
        )  # emptied: nobody loses anything
    ]


def _hidden_files(folder: Path) -> list[str]:
    """Return hidden things that no program of ours leaves in an output."""
    return [
        str(item)
        for item in sorted(folder.rglob(".*"))
        if item.name not in (RECORD_NAME, LOCK_NAME, ".DS_Store")
        and not item.name.startswith((".nfs", "._"))
        and not item.name.endswith(".tmp")
    ]


def listed(known: Any) -> list[Any]:
    """Return fingerprints of a file as a list; a record has one or several."""
    return known if isinstance(known, list) else [known]


def refuse(names: list[str], out: Path | None = None, by: str = "this command") -> None:
    """Refuse to replace what is not ours, unless the user allowed it.

    Args:
        names: What would be replaced or removed.
        out: The folder that all of them lie in, where it is to be named.
        by: Who did not write it.

    Raises:
        RunError: There is something, and `overwriting` is off.
    """
    if names and not _overwrite.get():
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        listed = f"{', '.join(names[:4])}{more} already exists and"
        if out is not None and out.is_dir():
            inside = [name.removeprefix(f"{out}{os.sep}") for name in names[:4]]
            listed = f"{out} already holds {', '.join(inside)}{more}, which"
        raise RunError(
            f"{listed} was not written by {by}",
            hint=OTHERS,
        )


def check_own(path: Path, *, earlier: Callable[[], bool] | None = None) -> None:
    """Refuse to replace a file or folder that no command of ours wrote.

    Args:
        path: What is to be written.
        earlier: Tells whether a version that kept no record wrote it.

    Raises:
        RunError: It is somebody else's, see `overwriting`.
    """
    _check(Path(os.path.abspath(path)), None, earlier)


def _check(path: Path, new: Path | None, earlier: Callable[[], bool] | None) -> None:
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    known = written_at(path)
    strange = [] if is_overwriting() else foreign(path, known, new)
    if strange and not (not known and earlier is not None and earlier()):
        refuse(strange, path)


def written_at(path: Path) -> dict[str, Any]:
    """Return the fingerprints of what we wrote at a place."""
    inside = path.is_dir() and not path.is_symlink()
    content = _read(path / RECORD_NAME if inside else path.parent / RECORD_NAME)
    return content if inside else {"": content.get(path.name)} if path.name in content else {}


def own_files(folder: Path) -> set[Path]:
    """Return the files that commands wrote into a folder, as they wrote them."""
    known = {folder / name: prints for name, prints in written_at(folder).items() if name}
    return {path for path, prints in known.items() if not foreign(path, {"": prints})}


def _read(record: Path) -> dict[str, Any]:
    with contextlib.suppress(CheckpointError):
        content = read_json(record)
        if isinstance(content, dict) and isinstance(content.get("written"), dict):
            return dict(content["written"])
    return {}


def _note(path: Path, new: Path) -> None:
    """Record what is about to stand at ``path``: in the new folder, or beside the file."""
    if path.is_dir() and not new.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if new.is_dir():
        write_json(new / RECORD_NAME, {"written": fingerprints(new)})
        return
    with _alone(path.parent):
        sweep(path.parent, name=RECORD_NAME)
        known = _read(path.parent / RECORD_NAME)
        known = {name: prints for name, prints in known.items() if (path.parent / name).exists()}
        before = [print_ for print_ in listed(known.get(path.name)) if print_]
        known[path.name] = list(dict.fromkeys([*before[-1:], fingerprint(new)]))
        write_json(path.parent / RECORD_NAME, {"written": known})


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others off the record of a folder for a moment, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def publish(out: Path, *, earlier: Callable[[], bool] | None = None) -> Iterator[Path]:
    """Give a hidden path to write a file or a folder to; at the end it takes the place of ``out``.

    It lies in a folder beside ``out`` that is locked meanwhile, so that two processes cannot mix
    their work, and the next one clears away what a killed one left and puts back what that one had
    moved out of the way, see `write_beside`.

    Args:
        out: The final name.
        earlier: Tells whether a version that kept no record wrote what is there.

    Raises:
        RunError: ``out`` is somebody else's, is being written by another process, or cannot be
            written.
    """
    out = Path(os.path.abspath(out))
    place = out.with_name(f".{out.name}.partial")
    interrupted = (place / LOCK_NAME).is_file() or os.path.lexists(place / out.name)
    make_scratch(place)
    if not interrupted and any(path.name != LOCK_NAME for path in place.iterdir()):
        raise RunError(
            f"{place} is in the way, and no scratch folder of ours",
            hint="look what it holds, remove it, or choose another --out",
        )
    with lock(place):
        hidden = place / out.name
        try:
            _tidy(out, place, interrupted)
            _check(out, None, earlier)  # before any work
            with write_beside(out, hidden):
                yield hidden
                _check(out, hidden, earlier)
                _note(out, hidden)
        finally:
            if os.path.lexists(out) or not (place / f"{out.name}.old").exists():
                remove(place)  # else the next run puts back what could not be put back now


def _tidy(out: Path, place: Path, interrupted: bool) -> None:
    """Clear away what a killed process left, and put back what it had moved out of the way."""
    before = out.with_name(f".{out.name}.old")  # where versions up to 2026-11 moved it
    ours = interrupted or (before / RECORD_NAME).is_file()
    for old in (place / f"{out.name}.old", *([before] if ours else [])):
        if old.is_dir() and not old.is_symlink():
            if os.path.lexists(out):
                remove(old)
            else:
                os.replace(old, out)
    for path in place.iterdir():
        if path.name != LOCK_NAME:
            remove(path)


@contextlib.contextmanager
def replacing(path: Path, *, earlier: Callable[[], bool] | None = None) -> Iterator[Path]:
    """Give a hidden path beside a file of a locked folder that takes its place, if it is ours.

    Args:
        path: The file.
        earlier: Tells whether a version that kept no record wrote it.

    Raises:
        RunError: It is somebody else's, or cannot be written.
    """
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    sweep(path.parent, name=path.name)
    with write_beside(path, hidden):
        yield hidden
        _check(path, hidden, earlier)
        _note(path, hidden)


def put_text(path: Path, text: str, *, earlier: Callable[[], bool] | None = None) -> None:
    """Write a text in the place of an earlier one of ours, see `replacing`."""
    with replacing(path, earlier=earlier) as hidden:
        write_text(hidden, text)
