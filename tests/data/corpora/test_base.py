"""What the readers of all corpora share."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechft.data.corpora.base import read_lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("a", ["a"]),
        ("a\n\nb\n", ["a", "", "b"]),
        ("\ufeffa\r\nb\r\n", ["a", "b"]),
        ("a\u2028b\nc\x0cd\x85e\n", ["a\u2028b", "c\x0cd\x85e"]),
    ],
)
def test_only_line_ends_end_lines(text: str, lines: list[str], tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(text.encode())
    assert read_lines(tmp_path / "labels.txt") == lines
