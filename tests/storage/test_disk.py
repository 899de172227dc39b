"""Files of others are opened in one way, which waits for no pipe and follows no planted link."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from speechft.storage.disk import open_regular, reading

SOURCE = Path(__file__).parents[2] / "src" / "speechft"
OWN = {
    "data/corpora/parquet.py",  # what it wrote itself, beside the table
    "data/corpora/synthetic/__init__.py",  # shards that it has just spoken
    "data/corpora/synthetic/material.py",
    "data/shar.py",
    "encoders/user_code.py",  # Python that the user typed the name of
    "evaluation/miniature_score.py",  # of the package
}
"""Files that read nothing but what this package made; the user's own code aside."""


def _reads(path: Path) -> list[int]:
    """Return the lines on which a file is opened to read, in Python's own ways."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", None)
        attribute = getattr(node.func, "attr", None)
        owner = getattr(getattr(node.func, "value", None), "id", None)
        modes = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)]
        is_written = any(set("wxa") & set(str(mode)) for mode in modes)
        is_corpus = attribute == "read_text" and len(node.args) > 0  # a method of a corpus
        if (name == "open" and not is_written) or (
            attribute in ("read_text", "read_bytes") and owner != "self" and not is_corpus
        ):
            found.append(node.lineno)
    return found


def test_nothing_opens_a_file_of_others_beside_disk() -> None:
    strange = {
        f"{path.relative_to(SOURCE)}:{line}"
        for path in SOURCE.rglob("*.py")
        if str(path.relative_to(SOURCE)) not in {*OWN, "storage/disk.py"}
        for line in _reads(path)
    }
    assert not strange, (
        "use speechft.storage.disk.reading or speechft.storage.documents.read_limited"
    )


def test_pipes_folders_and_names_that_no_file_has_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, kind in (
        (tmp_path / "pipe", OSError),
        (tmp_path, IsADirectoryError),
        ("a\0b", OSError),
        ("\ud800", OSError),
    ):
        with pytest.raises(kind):
            reading(place)
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    with reading(tmp_path / "link") as file:
        assert file.read() == b"x"
    with pytest.raises(OSError, match=r"link|loop"):
        open_regular(tmp_path / "link", follow=False)
