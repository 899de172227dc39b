"""Rows that are kept as they come: found again, in the order of their last line, damage cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechft.storage.kept_lines import kept_lines


def test_rows_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with kept_lines(path, "audio") as rows:
        assert not rows
        rows.add({"id": "a", "audio": 1, "text": "ä"})
        rows.add({"id": "b", "audio": 2})
        rows.add({"id": "a", "audio": 3, "text": "new"})
        rows.sync()
        assert rows.row("b") == {"id": "b", "audio": 2}
        rows.add({"id": "c", "audio": 4})  # after something was read
    with kept_lines(path, "audio") as rows:
        assert ("a" in rows, "z" in rows, len(rows)) == (True, False, 3)
        assert (rows.remembered("a"), rows.remembered("z")) == (3, None)
        assert rows.row("a")["text"] == "new"
        assert rows.line("c") == b'{"id": "c", "audio": 4}\n'


@pytest.mark.parametrize(
    "damage", [b'{"id": "b", "au', b'{"id": "b", "audio": 1}', b"\xff\n", b"[1]\n", b'{"x": 1}\n']
)
def test_what_is_damaged_and_what_follows_is_cut_off(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    whole = b'{"id": "a", "audio": 1}\n'
    path.write_bytes(whole + damage)
    with kept_lines(path, "audio") as rows:
        assert len(rows) == 1
        rows.add({"id": "b", "audio": 2})
    assert path.read_bytes() == whole + b'{"id": "b", "audio": 2}\n'


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "rows").symlink_to("victim")
    with pytest.raises(OSError, match=r"link|loop"), kept_lines(tmp_path / "rows"):
        pass
    assert (tmp_path / "victim").read_text() == "precious"
