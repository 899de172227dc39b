"""Look through a pickle before it is loaded: nothing is built of one that would never end."""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any

from speechft.storage.disk import reading

MAX_PICKLE_BYTES = 16 << 20
"""Of the structure of a checkpoint, beside its numbers; that of a large one takes 1 MB."""

MAX_OPCODES = 2_000_000
MAX_TUPLE = 10_000
"""Elements of a tuple with those of tuples in it, counted as often as they occur."""

MAX_KEY = 64
"""The same of a tuple that is a key: its hash goes over all of them."""

MAX_DEPTH = 200
"""Marks that are open at once."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PICKLES = 4
"""What follows the magic number: protocol, system, objects, keys of storages."""

_REFUSED = ("builtins bytearray", "__builtin__ bytearray")
"""Names that torch allows and that take memory by a number."""


def scan(path: Path) -> None:
    """Refuse a torch file, of either kind, whose structure is larger than it looks.

    Raises:
        ValueError: Says what is wrong.
        OSError: It cannot be read.
    """
    with reading(path) as file:
        if file.read(4) == b"PK\x03\x04":
            _scan_zip(path)
            return
        file.seek(0)
        limited: Any = _Limited(file, path.stat().st_size)
        if _scan_pickle(limited) == _LEGACY_MAGIC:
            for _ in range(_LEGACY_PICKLES):
                _scan_pickle(limited)


def _scan_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            items = archive.infolist()
            names = {item.filename for item in items}
            if len(names) != len(items):
                raise ValueError("a name occurs twice in the archive")
            if any(item.compress_type != zipfile.ZIP_STORED for item in items):
                raise ValueError("it is compressed, which torch never does")
            if sum(item.file_size for item in items) > path.stat().st_size:
                raise ValueError("its members are larger than the file")
            found = [item for item in items if item.filename.endswith("/data.pkl")]
            if len(found) != 1:
                raise ValueError("it is an archive without data.pkl")
            if found[0].file_size > MAX_PICKLE_BYTES:
                raise ValueError(f"its pickle has {found[0].file_size} bytes")
            data = archive.read(found[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"the archive is damaged: {error}") from None
    _scan_pickle(io.BytesIO(data))


class _Limited:
    """A file of which no more is asked for than there is."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size

    def read(self, count: int) -> bytes:
        """Read at most what is left, and at most what a pickle may have."""
        return self._file.read(max(0, min(count, self._size - self.tell(), MAX_PICKLE_BYTES)))

    def readline(self) -> bytes:
        """Read a line of limited length."""
        return self._file.readline(1 << 16)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()


_MARK = -1


def _scan_pickle(file: Any) -> Any:
    """Go through one pickle with the sizes of tuples in the place of objects.

    Returns:
        Its only constant, if it has one.

    Raises:
        ValueError: It is malformed or too large.
    """
    stack: list[int] = []
    memo: dict[Any, int] = {}
    constants: list[Any] = []
    start = file.tell()
    count = 0
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > MAX_OPCODES or file.tell() - start > MAX_PICKLE_BYTES:
                raise ValueError("its structure is too large")
            if opcode.name in ("GLOBAL", "INST") and argument in _REFUSED:
                raise ValueError(f"it asks for {argument}")
            if opcode.name == "LONG1":
                constants.append(argument)
            _step(opcode, argument, stack, memo)
    except (IndexError, KeyError, UnicodeError, OverflowError, TypeError, RecursionError) as error:
        raise ValueError(f"its pickle is malformed: {type(error).__name__}") from None
    return constants[0] if len(constants) == 1 and count < 4 else None


def _step(opcode: Any, argument: Any, stack: list[int], memo: dict[Any, int]) -> None:
    name = opcode.name
    if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        return
    if name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
        return
    if name == "MARK":
        stack.append(_MARK)
        if stack.count(_MARK) > MAX_DEPTH:
            raise ValueError("it is nested too deep")
        return
    if name == "DUP":
        stack.append(stack[-1])
        return
    taken: list[int] = []
    before = list(opcode.stack_before)
    if pickletools.markobject in before:
        while (size := stack.pop()) != _MARK:
            taken.insert(0, size)
        before = before[: before.index(pickletools.markobject)]
        _check_keys(name, taken)
        for _ in before:
            stack.pop()
    else:
        taken = [stack.pop() for _ in before][::-1]
        _check_keys(name, taken[1:])
    size = 1
    if name.startswith("TUPLE") or name in ("REDUCE", "NEWOBJ"):
        size += sum(taken)
    if size > MAX_TUPLE and name.startswith("TUPLE"):
        raise ValueError(f"it has a tuple of {size} elements")
    stack.extend([size] * len(opcode.stack_after))


def _check_keys(name: str, pairs: list[int]) -> None:
    if name in ("SETITEM", "SETITEMS", "DICT") and any(size > MAX_KEY for size in pairs[::2]):
        raise ValueError("a key is a tuple of many elements")
