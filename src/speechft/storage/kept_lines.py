"""Rows of JSON that are kept as they come, a line each, so that work which was stopped goes on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from speechft.storage.disk import open_regular
from speechft.storage.documents import parse_json


class KeptLines:
    """Rows in a file, by their ``id``; the last one of a name counts.

    What a killed process wrote of a line, and whatever follows a damaged one, is cut off.

    Args:
        file: Open for reading and writing.
        key: Name of a field that is remembered of every row, in memory; None for none.
    """

    def __init__(self, file: BinaryIO, key: str | None = None) -> None:
        self._file, self._key = file, key
        self._places: dict[str, tuple[int, int]] = {}
        self._remembered: dict[str, Any] = {}
        self._end = 0
        for line in file:
            try:
                row = parse_json(line)
                name, known = str(row["id"]), None if key is None else row[key]
            except (ValueError, TypeError, KeyError):
                break
            if not line.endswith(b"\n"):
                break
            self._note(name, known, len(line))
        file.truncate(self._end)

    def _note(self, name: str, known: Any, size: int) -> None:
        self._places[name] = self._end, size
        if self._key is not None:
            self._remembered[name] = known
        self._end += size

    def __contains__(self, name: str) -> bool:
        """Return whether there is a row of a name."""
        return name in self._places

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._places)

    def remembered(self, name: str) -> Any:
        """Return what is remembered of a row; None where there is none."""
        return self._remembered.get(name)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        self._file.seek(self._end)
        self._file.write(line)
        self._note(str(row["id"]), None if self._key is None else row[self._key], len(line))

    def sync(self) -> None:
        """Have all rows so far on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def line(self, name: str) -> bytes:
        """Return a row as it stands in the file, its end of line included."""
        start, size = self._places[name]
        self._file.seek(start)
        return self._file.read(size)

    def row(self, name: str) -> dict[str, Any]:
        """Return a row."""
        found: dict[str, Any] = parse_json(self.line(name))
        return found


@contextlib.contextmanager
def kept_lines(path: Path, key: str | None = None) -> Iterator[KeptLines]:
    """Open a file of rows, which is made where there is none; links are not followed.

    Args:
        path: The file, in a folder that this process holds.
        key: See `KeptLines`.
    """
    place = open_regular(path, os.O_RDWR | os.O_CREAT, follow=False)
    with os.fdopen(place, "r+b") as file:
        yield KeptLines(file, key)
