"""Places of audio and manifests: which of those that a file names are read, and their bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speechft.errors import AbsentError, DataError
from speechft.storage.disk import reading
from speechft.storage.documents import is_plain
from speechft.storage.remote import SCHEMES_VARIABLE, is_address, is_asked, joined, read

MAX_BYTES = 1 << 30
"""Bytes of one file, or of the part of one, that are read into memory."""
_PART = "#bytes="


def check_source(kind: str, source: Any, home: str = "") -> str:
    """Refuse what is neither a file nor bytes in memory, nor asked for: the one place that decides.

    Args:
        kind: Type of a source of lhotse.
        source: What it holds.
        home: Address of the folder of the manifest, where it lies at one.

    Returns:
        The address where it lies; empty for a file of this machine and for bytes.

    Raises:
        ValueError: Says what it is and what is read.
    """
    if kind == "memory" and isinstance(source, bytes):
        return ""
    named = kind in ("file", "url") and isinstance(source, str) and is_plain(source) and source
    if named and not source.startswith("pipe:"):
        if is_address(source):
            if is_asked(source) or (home and source.startswith(f"{home}/") and _inside(source)):
                return str(source)
        elif kind == "file" and not home:
            return ""
        elif kind == "file" and not source.startswith("/") and _inside(source):
            return joined(home, source)
    told = repr(source[:80]) if isinstance(source, str) else type(source).__name__
    raise ValueError(
        f"a source of type {kind!r} ({told}) is not read; expected is a file"
        + (f" below {home}" if home else "")
        + ": nothing that a manifest names is run, or fetched unless the environment variable "
        f"{SCHEMES_VARIABLE} names its scheme"
    )


def _inside(name: str) -> bool:
    return ".." not in name.split("/") and "#" not in name


def read_bytes(place: str, start: int = 0, size: int | None = None) -> bytes:
    """Read a file, or ``size`` bytes of it from ``start`` on, of a folder or an address.

    Raises:
        DataError: It is not there, cannot be read, is shorter than asked for, or passes
            `MAX_BYTES`.
        RemoteError: The server cannot be asked: what is there is not known.
    """
    if start < 0 or (size is not None and not 0 <= size <= MAX_BYTES):
        raise DataError(f"{place} cannot be read: {size} bytes from {start} on are no part of it")
    try:
        if is_address(place):
            data = read(place, start, size, most=MAX_BYTES)
        else:
            data = _read_file(Path(place), start, size)
    except AbsentError as error:
        raise DataError(error.message, hint=error.hint) from None
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise DataError(f"{place} cannot be read: it has more than {MAX_BYTES:,} bytes")
    if size is not None and len(data) != size:
        raise DataError(f"{place} cannot be read: it ends {size - len(data)} bytes too early")
    return data


def below(place: str, name: str) -> str:
    """Return the file of a folder or an address."""
    return joined(place, name) if is_address(place) else f"{place}/{name}"


def part_of(place: str, start: int = 0, size: int | None = None) -> str:
    """Return how a recording names the bytes of a file, or of a part of a larger one.

    No manifest can name anything so: it stands for what was found to be allowed.
    """
    return f"{place}{_PART}" + ("" if size is None else f"{start}+{size}")


def is_part(named: str) -> bool:
    """Return whether a text is what `part_of` returns."""
    return _PART in named


def file_of(part: str) -> str:
    """Return the file of what `part_of` returns; any other text as it is."""
    return part.rpartition(_PART)[0] or part


def read_part(part: str) -> bytes:
    """Return the bytes that `part_of` names; raises what `read_bytes` does."""
    place, _, where = part.rpartition(_PART)
    return read_bytes(place, *map(int, where.split("+"))) if where else read_bytes(place)


def _read_file(path: Path, start: int, size: int | None) -> bytes:
    with reading(path) as file:
        file.seek(start)
        return file.read(MAX_BYTES + 1 if size is None else size)
