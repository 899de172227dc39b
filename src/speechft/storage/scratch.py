"""What would fill memory, in files without a name: rows of bytes, columns of numbers, names.

The first bytes stay in memory, so that what is small never makes a file. A file lies in the folder
that `scratch_in` names, else where temporary files go (``TMPDIR``); the system removes it when the
process ends, however that happens. Pages that are read belong to the system, not to the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import struct
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from speechft.errors import RunError
from speechft.storage.disk import open_regular

Buffer = bytes | bytearray | memoryview

_PENDING = 1 << 18
"""Bytes that are held until they are written in one go."""
_FIRST = 1 << 10
"""Places in the table of new names."""

_PACKED = {"i2": "h", "i4": "i", "i8": "q", "f8": "d"}
"""What ``struct`` calls the kinds of numbers."""

_place: ContextVar[Path | None] = ContextVar("scratch", default=None)


@contextlib.contextmanager
def scratch_in(folder: Path) -> Iterator[None]:
    """Put the files of this thread into a folder, or above it while it is not there.

    Args:
        folder: One that may not be written is not used.
    """
    token = _place.set(folder)
    try:
        yield
    finally:
        _place.reset(token)


def scratch_folder() -> Path:
    """Return where files go."""
    place = _place.get()
    there = (
        None if place is None else next((p for p in (place, *place.parents) if p.is_dir()), None)
    )
    usable = there is not None and os.access(there, os.W_OK | os.X_OK)
    return there if there is not None and usable else Path(tempfile.gettempdir())


def free_bytes() -> int:
    """Return the room where files go."""
    return shutil.disk_usage(scratch_folder()).free


class Bytes:
    """Bytes that are only ever added at the end.

    Each process that got them by a fork, or by pickling, reads what was there then.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._pending = bytearray()
        self._written = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return self._written + len(self._pending)

    def add(self, data: Buffer) -> None:
        """Add bytes; they come to the disk together.

        Raises:
            RunError: The disk is full, or does not take them.
        """
        self._pending += data
        if len(self._pending) > _PENDING:
            self._write()

    def read(self, start: int, size: int) -> bytearray:
        """Return bytes, as far as there are any."""
        first = start - self._written
        if first >= 0:
            return self._pending[first : first + size]
        assert self._file is not None
        found = bytearray(min(size, -first))
        view, done = memoryview(found), 0
        while done < len(found):
            done += os.preadv(self._file.fileno(), [view[done:]], start + done)
        return found if done == size else found + self._pending[: size - done]

    def mapped(self, kind: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return all bytes as an array that is not held in memory, unless it is small."""
        if self._file is None:
            return np.frombuffer(bytes(self._pending), kind)
        self._write()
        return np.asarray(np.memmap(self._file, np.uint8, "r", shape=(self._written,))).view(kind)

    def _write(self) -> None:
        if self._file is None:
            self._hold(_open())
        assert self._file is not None
        view, done = memoryview(self._pending), 0
        try:  # to a place: a child process that writes the same again changes nothing
            while done < len(view):
                done += os.pwrite(self._file.fileno(), view[done:], self._written + done)
        except OSError as error:
            raise _refused(error) from None
        self._written += done
        self._pending = bytearray()

    def _hold(self, file: IO[bytes]) -> None:
        """Keep a file as long as this lives."""
        self._file = file
        weakref.finalize(self, file.close)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process of this machine opens the same file by."""
        if self._file is not None:
            self._write()
        place = None if self._file is None else f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        return {"place": place, "pending": bytes(self._pending), "written": self._written}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file of another process."""
        self._file = None
        if state["place"] is not None:
            self._hold(os.fdopen(open_regular(state["place"], os.O_RDONLY), "rb"))
        self._pending, self._written = bytearray(state["pending"]), state["written"]


class Column:
    """Numbers of one kind, added at the end.

    Args:
        kind: As numpy calls it, such as ``<i8``.
    """

    def __init__(self, kind: str = "<i8") -> None:
        self._kind = np.dtype(kind)
        letter = _PACKED[self._kind.str[1:]]
        self._pack = struct.Struct(f"<{letter}").pack
        self._unpack = struct.Struct(f"<{letter}").unpack
        self._unpack_two = struct.Struct(f"<2{letter}").unpack
        self._bytes, self._count = Bytes(), 0
        self._seen: npt.NDArray[Any] = np.empty(0, self._kind)

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    def __getitem__(self, number: int) -> Any:
        """Return one of them."""
        if number < len(self._seen):
            return self._seen[number].item()
        size = self._kind.itemsize
        return self._unpack(self._bytes.read(size * number, size))[0]

    def pair(self, number: int) -> tuple[Any, Any]:
        """Return one of them and the next."""
        size = self._kind.itemsize
        one, other = self._unpack_two(self._bytes.read(size * number, 2 * size))
        return one, other

    def add(self, value: float) -> None:
        """Add a number."""
        self._bytes.add(self._pack(value))
        self._count += 1

    def extend(self, values: npt.ArrayLike) -> None:
        """Add numbers."""
        added = np.asarray(values, self._kind)
        self._bytes.add(added.tobytes())
        self._count += added.size

    def values(self) -> npt.NDArray[Any]:
        """Return all as an array, not to be changed."""
        if len(self._seen) != len(self):
            self._seen = self._bytes.mapped(self._kind)
        return self._seen

    def __getstate__(self) -> dict[str, Any]:
        """Return what is needed to read it elsewhere."""
        return {"kind": self._kind.str, "bytes": self._bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read what another process has added."""
        self.__init__(state["kind"])  # type: ignore[misc]
        self._bytes = state["bytes"]
        self._count = len(self._bytes) // self._kind.itemsize


class Rows:
    """Rows of bytes of any length, added at the end and read by their number."""

    def __init__(self) -> None:
        self._bytes, self._ends = Bytes(), Column()
        self._end = self._count = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    def add(self, row: Buffer) -> int:
        """Add a row; return its number."""
        self._bytes.add(row)
        self._end += memoryview(row).nbytes
        self._ends.add(self._end)
        self._count += 1
        return self._count - 1

    def __getitem__(self, number: int) -> bytearray:
        """Return a row."""
        if number:
            start, end = self._ends.pair(number - 1)
        else:
            start, end = 0, self._ends[0]
        return self._bytes.read(start, end - start)

    def __iter__(self) -> Iterator[bytearray]:
        """Yield the rows in their order."""
        return (self[number] for number in range(self._count))

    def matrix(self, kind: npt.DTypeLike) -> npt.NDArray[Any] | None:
        """Return all rows as a matrix that is not held in memory; None if they differ in size."""
        ends = self._ends.values()
        size = int(ends[0]) if len(ends) else 0
        if not size or not np.array_equal(ends, np.arange(1, len(ends) + 1) * size):
            return None
        return self._bytes.mapped(kind).reshape(len(ends), -1)


class Names:
    """Different texts, numbered in the order in which they came.

    A table of open addressing (Knuth, The Art of Computer Programming 3, 6.4) leads from the hash
    of a text to its number; the text itself is compared, so that equal hashes do no harm.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = Rows()
        self._table = _table(_FIRST)
        for name in names:
            self.add(name)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        """Yield them in their order."""
        return (name.decode() for name in self._names)

    def __contains__(self, name: object) -> bool:
        """Return whether a text is there."""
        return isinstance(name, str) and self.number(name) is not None

    def name(self, number: int) -> str:
        """Return the text of a number."""
        return self._names[number].decode()

    def number(self, name: str) -> int | None:
        """Return the number of a text; None where it is not there."""
        data = name.encode()
        found = self._table[self._place(data, _hash(data))][0].item()
        return None if found < 0 else found

    def add(self, name: str) -> int:
        """Return the number of a text, a new one where it was not there."""
        data = name.encode()
        key = _hash(data)
        place = self._place(data, key)
        if (known := self._table[place][0].item()) >= 0:
            return int(known)
        if 2 * len(self) >= len(self._table):
            self._widen()
            place = self._place(data, key)
        self._table[place] = len(self), key
        return self._names.add(data)

    def _place(self, data: bytes, key: int) -> int:
        """Return where in the table a text is, or would be."""
        last = len(self._table) - 1
        place = key & last
        while (entry := self._table[place])[0] >= 0:
            if entry[1] == key and self._names[entry[0].item()] == data:
                break
            place = (place + 1) & last
        return place

    def _widen(self) -> None:
        old, self._table = self._table, _table(4 * len(self._table))
        last = len(self._table) - 1
        for start in range(0, len(old), _FIRST):
            part = old[start : start + _FIRST]
            for number, key in part[part[:, 0] >= 0].tolist():
                place = key & last
                while self._table[place, 0] >= 0:
                    place = (place + 1) & last
                self._table[place] = number, key


def _table(places: int) -> npt.NDArray[np.int64]:
    """Return an empty table of numbers and hashes; a large one is mapped."""
    size = 16 * places
    table: npt.NDArray[np.int64]
    if size <= _PENDING:
        table = np.empty((places, 2), np.int64)
    else:
        with _open() as file:
            try:  # all its room: a full disk is not told through memory
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise _refused(error) from None
            table = np.asarray(np.memmap(file, np.int64, "r+", shape=(places, 2)))
    table[:, 0] = -1
    return table


def _hash(data: bytes) -> int:
    """Return 63 bits."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


def _open() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(buffering=0, dir=scratch_folder())
    except OSError as error:
        raise _refused(error) from None


def _refused(error: OSError) -> RunError:
    place = scratch_folder()
    return RunError(
        f"{place} does not take what does not fit into memory: {error.strerror or error}",
        hint="make room there; what has no folder of its own goes where TMPDIR says",
    )
