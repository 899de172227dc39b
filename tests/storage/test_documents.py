"""Limits of what is read, unpacked and parsed; what passes them is refused before it costs much."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from pathlib import Path

import pytest
import yaml

from speechft.storage import documents
from speechft.storage.disk import reading
from speechft.storage.documents import (
    parse_json,
    parse_yaml,
    read_limited,
    read_lines,
    text_of,
    unpack,
)

BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b}\n  <<: [{','.join(['*' + a] * 10)}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        MERGES,
        "&a [*a]",
        "*a",
        "[" * 10_000,
        "- " * 10_000,
        "{a: " * 200,
        "!!python/object/apply:os.system [touch SEEN]",
        "!!timestamp never",
        "!!bool perhaps",
        "!!int x",
        "!!binary '\u00e9'",
        "? [a]\n: b",
        "9" * 5_000,
        "\ud800",
        "a\0b",
    ],
)
def test_yaml_that_costs_or_means_something_else_is_refused(text: str) -> None:
    for typed in (True, False):
        if typed or not text.startswith(("!!", "9", "?")):
            with pytest.raises(yaml.YAMLError):
                parse_yaml(text, typed=typed)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' is given twice"),
        ("a:\n  - {x: 1, 'x': 2}", "line 2, column 12: the key 'x' is given twice"),
        ("a: {<<: {x: 1}, <<: {y: 2}}", "the key '<<' is given twice"),
        ("a: 1\n\tb: 2", "line 2, column 1: found a tab character"),
        ("a: [1", "line 2, column 1: did not find expected"),
        ("a: !!set {x}\nb: 'c", "line 2, column "),
    ],
)
def test_what_is_wrong_with_yaml_is_told_by_line(text: str, where: str) -> None:
    with pytest.raises(yaml.YAMLError, match=re.escape(where)):
        parse_yaml(text)


def test_a_key_that_a_section_overrides_or_others_wrote_twice_stays() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, x: 2}")["b"] == {"x": 2}
    assert parse_yaml("a: 1\na: 2", unique=False) == {"a": 2}


def test_aliases_that_are_few_stay() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a]") == {
        "a": {"x": 1},
        "b": {"x": 1, "y": 2},
        "c": [{"x": 1}],
    }


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * 70 + "]" * 70,
        '{"a":' * 900 + "1" + "}" * 900,
        '"\\ud800"',
        '["\\u0000"]',
        '{"\\udfff": 1}',
        "9" * 5_000,
        "",
        "{",
        "\ud800",
        "nan",
    ],
)
def test_json_that_is_deep_or_no_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"\x1f\x8b\x08", "byte 2"),
        (b"\xef\xbb\xbfa\xff", "byte 2"),
        (b"one\ntwo\nth\xc3\n", "line 3, byte 3"),
        ("é\n".encode() + b"\xe9", "line 2, byte 1"),
    ],
)
def test_what_is_not_utf_8_is_told_by_its_place(data: bytes, where: str) -> None:
    for read in (text_of, parse_json):
        with pytest.raises(ValueError, match=f"^{where} is not UTF-8$"):
            read(data)
    assert text_of(b"\xef\xbb\xbf\xc3\xa9") == "é"


def test_json_of_usual_depth_stays() -> None:
    assert parse_json("[" * 60 + "]" * 60) is not None
    assert parse_json(b"\xef\xbb\xbf" + b'{"a": "\\u00e9\\ud83d\\ude00"}') == {
        "a": "\u00e9\U0001f600"
    }


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a").write_bytes(b"abc")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "none"):
        with pytest.raises(OSError):
            reading(path)
    for name in ("a\0b", "\ud800", "x" * 5_000):
        with pytest.raises(OSError):
            reading(name)
    assert read_limited(tmp_path / "a", 3) == b"abc"
    with pytest.raises(OSError, match="more than 2 bytes"):
        read_limited(tmp_path / "a", 2)


def test_gzip_is_unpacked_within_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"one\n\ntwo\n" + b"x" * 300_000 + b"\nlast"
    packed = gzip.compress(text[:100]) + gzip.compress(text[100:]) + bytes(1_000)
    assert unpack(packed) == unpack(text) == text
    (tmp_path / "a.gz").write_bytes(packed)
    lines = [line for line in text.split(b"\n") if line]
    assert list(read_lines(tmp_path / "a.gz")) == list(read_lines(packed)) == lines
    assert list(read_lines(text)) == lines
    for damaged in (packed[:50], packed[:60] + b"?" + packed[61:], gzip.compress(text)[:-9]):
        with pytest.raises(ValueError):
            list(read_lines(damaged))
    monkeypatch.setattr(documents, "UNPACKED", (1_000, 10))
    with pytest.raises(ValueError, match="unpacks to more than"):
        unpack(zlib.compress(bytes(1 << 20), 9, zlib.MAX_WBITS | 16))


@pytest.mark.parametrize("content", [b"\n" * 20_000, b"x" * (1 << 20)])
def test_lines_have_limits(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_LINE", 1 << 19)
    with pytest.raises(ValueError, match="line"):
        list(read_lines(content))


@pytest.mark.parametrize("text", ['out: "a\\0b"', '[["\\0"]]'])
def test_yaml_holds_no_text_that_no_path_could_be(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="zero byte or half a character"):
        parse_yaml(text)
