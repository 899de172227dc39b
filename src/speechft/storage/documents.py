"""Text, JSON, YAML and lines of files that anybody may have written, read within limits.

Only regular files are opened: a pipe or a device would never end. What is read has a limit in
bytes, what is unpacked one beside the packed size, what is parsed one in depth and number; so that
no small file costs much, and every reader after this one gets plain values that can be written
again as UTF-8.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from speechft.storage.disk import reading

MAX_DEPTH = 64
"""Sections and lists within each other, in JSON and YAML."""
MAX_DIGITS = 300
"""Digits of a whole number: every one fits into a number of floating point."""
MAX_NODES = 100_000
"""Values of a YAML text, where what an alias stands for counts anew."""
MAX_DOCUMENT = 64 << 20
"""Bytes of a text, of JSON that is read as a whole."""
MAX_YAML = 8 << 20
"""Bytes of YAML, which takes ten times as long."""
MAX_LINE = 16 << 20
"""Bytes of one of the lines of a manifest."""
MAX_BLANK = 10_000
"""Empty lines that follow each other."""
UNPACKED = (64 << 20, 100)
"""Bytes that a packed file may unpack to: so many, and so many times its own size."""
_LARGEST = 10**MAX_DIGITS
_LONG_NUMBER = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")
_PIECE = 1 << 16
_PACKED = 1 << 16


def read_limited(path: Path | str, limit: int = MAX_DOCUMENT) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: It cannot be read, is no regular file, or has more bytes than ``limit``.
    """
    with reading(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"it has more than {limit:,} bytes")
    return data


def text_of(data: bytes) -> str:
    """Return the text of bytes in UTF-8, without the mark that some programs put first.

    Raises:
        ValueError: They are not UTF-8; says where.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before, newline = error.object[: error.start], b"\n"
        line = f"line {before.count(newline) + 1}, " if newline in error.object else ""
        place = len(before) - before.rfind(newline)
        raise ValueError(f"{line}byte {place} is not UTF-8") from None


def parse_json(text: str | bytes, *, unique: bool = False, plain: bool = True) -> Any:
    """Return what JSON holds.

    Args:
        text: The JSON.
        unique: Refuse a key that occurs twice in one object.
        plain: Refuse texts with zero bytes or halves of characters.

    Raises:
        ValueError: It is no JSON, is nested deeper than `MAX_DEPTH`, or holds such a text or key,
            or a whole number of more than `MAX_DIGITS`.
    """
    try:
        text = text if isinstance(text, str) else text_of(text)
        value = json.loads(text, object_pairs_hook=_once if unique else None)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    brackets = text.count("[") + text.count("{")
    if "\\u" in text or brackets > MAX_DEPTH or _LONG_NUMBER.search(text):
        _check_value(value, plain)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        double = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {double!r} occurs twice")
    return content


def _check_value(value: Any, plain: bool) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
            elif plain and isinstance(item, str) and not is_plain(item):
                raise ValueError(f"{item!r} holds a zero byte or half a character")
            elif type(item) is int and abs(item) >= _LARGEST:
                raise ValueError(f"a whole number has more than {MAX_DIGITS} digits")
        if depth > MAX_DEPTH and below:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        level = below


def is_plain(text: str) -> bool:
    """Return whether a text can be written as UTF-8 and be part of a path."""
    return "\0" not in text and re.search("[\ud800-\udfff]", text) is None


def parse_yaml(text: str, *, typed: bool = True, unique: bool = True) -> Any:
    """Return what a text is by the core schema of YAML 1.2, which has no dates and no octals.

    Args:
        text: The YAML.
        typed: False leaves every part a text.
        unique: Refuse a section that has a key twice, as YAML 1.2 does; else the last one counts.

    Raises:
        YAMLError: It is no YAML, holds the tag of an object, a text with a zero byte or half a
            character or a number of more than `MAX_DIGITS`, is nested deeper than `MAX_DEPTH`, or
            has more than `MAX_NODES` values when its aliases are written out.
    """
    import yaml

    loader = _loader(typed, unique)
    try:
        if len(text) > MAX_YAML:
            raise yaml.YAMLError(f"it has more than {MAX_YAML:,} characters")
        _check_events(text, loader)
        value = yaml.load(text, Loader=loader)
        _check_value(value, plain=True)
        return value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise yaml.YAMLError(f"{where}{error.problem or error.context}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise yaml.YAMLError(f"a value cannot be used: {error}") from None


def _loader(typed: bool, unique: bool) -> Any:
    """Return a loader of YAML 1.2 or of texts alone, which reads a key of a section once."""
    import yaml

    base: Any = _core_loader() if typed else yaml.BaseLoader

    def construct_mapping(self: Any, node: Any, deep: bool = False) -> Any:
        known: set[str] = set()
        for key, _ in node.value if unique else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in known:
                    problem = f"the key {key.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                known.add(key.value)
        return base.construct_mapping(self, node, deep)

    return type("Loader", (base,), {"construct_mapping": construct_mapping})


def _check_events(text: str, loader: Any) -> None:
    """Count values and depth without building any."""
    import yaml

    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = count - before
            continue
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise yaml.YAMLError(f"the alias *{event.anchor} stands for nothing, or for itself")
            count += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            if event.anchor is not None:
                sizes.pop(event.anchor, None)
            open_nodes.append((event.anchor, count))
            count += 1
        if len(open_nodes) > MAX_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {MAX_DEPTH} deep")
        if count > MAX_NODES:
            raise yaml.YAMLError(f"it has more than {MAX_NODES:,} values, aliases written out")


@cache
def _core_loader() -> Any:
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML has it: 10 times
    loader: Any = type("CoreLoader", (base,), {"yaml_implicit_resolvers": {}})
    signs = list("-+0123456789")
    for tag, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?(0|[1-9][0-9]*)", signs),
        (
            "float",
            r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)"
            r"|\.(nan|NaN|NAN)",
            [*signs, "."],
        ),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("merge", r"<<", ["<"]),
    ):
        whole = re.compile(f"^(?:{pattern})$")
        loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", whole, first)
    return loader


def unpack(data: bytes) -> bytes:
    """Return bytes, unpacked where they are gzip.

    Raises:
        ValueError: They are damaged, or unpack to more than `UNPACKED` allows.
    """
    return b"".join(_pieces(_parts(data), len(data)))


def read_lines(source: Path | bytes) -> Iterator[bytes]:
    """Yield the lines of a file that hold something, packed by gzip or not; memory stays flat.

    Args:
        source: The file, or its bytes.

    Raises:
        OSError: It cannot be read, or is no regular file.
        ValueError: It is damaged, or passes a limit.
    """
    return (line for _, line in numbered_lines(source))


def numbered_lines(source: Path | bytes) -> Iterator[tuple[int, bytes]]:
    """Yield what `read_lines` does with the number of each line, from 1, empty ones counted."""
    if isinstance(source, bytes):
        yield from _lines(_pieces(_parts(source), len(source)))
        return
    with reading(source) as file:
        size = os.fstat(file.fileno()).st_size
        yield from _lines(_pieces(iter(lambda: file.read(_PACKED), b""), size))


def _parts(data: bytes) -> Iterator[bytes]:
    return (data[place : place + _PACKED] for place in range(0, len(data), _PACKED))


def _lines(pieces: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    rest, blank, number = b"", 0, 0
    for piece in pieces:
        if b"\n" not in piece:
            rest += piece
            if len(rest) > MAX_LINE:
                raise ValueError(f"a line has more than {MAX_LINE:,} bytes")
            continue
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            number += 1
            blank = 0 if line.strip() else blank + 1
            if blank > MAX_BLANK:
                raise ValueError(f"it has more than {MAX_BLANK:,} empty lines on end")
            if not blank:
                yield number, line
    if rest.strip():
        yield number + 1, rest


def _pieces(packed: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield the content of gzip, or of what is not gzip, piece by piece."""
    first = next(packed, b"")
    if first[:2] != b"\x1f\x8b":
        yield first
        yield from packed
        return
    allowed, given = UNPACKED[0] + UNPACKED[1] * size, 0
    machine, data = zlib.decompressobj(zlib.MAX_WBITS | 16), first
    try:
        while True:
            piece = machine.decompress(data, _PIECE)
            given += len(piece)
            if given > allowed:
                raise ValueError(f"it unpacks to more than {allowed:,} bytes")
            if piece:
                yield piece
            data = machine.unconsumed_tail
            if machine.eof:  # another member may follow, or zeros that fill a block
                data = machine.unused_data.lstrip(b"\0")
                while not data:
                    if not (more := next(packed, b"")):
                        return
                    data = more.lstrip(b"\0")
                machine = zlib.decompressobj(zlib.MAX_WBITS | 16)
            elif not data and len(piece) < _PIECE and not (data := next(packed, b"")):
                raise ValueError("its end is missing")
    except zlib.error as error:
        raise ValueError(f"it is damaged: {error}") from None
