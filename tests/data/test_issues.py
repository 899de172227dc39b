"""The list of what is wrong with a corpus, as it is written and read."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechft.data.issues import ISSUES_FILE, Issue, read_issues, write_issues
from speechft.errors import DataError


def test_issues_come_back(tmp_path: Path) -> None:
    assert read_issues(tmp_path / ISSUES_FILE) == []
    issue = Issue("missing-audio", "does not exist", "é.wav", "a", "train", "left out")
    write_issues(tmp_path / ISSUES_FILE, [issue])
    assert read_issues(tmp_path / ISSUES_FILE) == [issue]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"head\n\xff\n", "line 2, byte 1 is not UTF-8"),
        (b"head\nonly one\n", "is not what prepare"),
    ],
)
def test_a_damaged_list_is_one_message(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / ISSUES_FILE).write_bytes(data)
    with pytest.raises(DataError, match=why):
        read_issues(tmp_path / ISSUES_FILE)
