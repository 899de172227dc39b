"""Files of a sweep: put in place in one step, never in the place of somebody else's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from speechft.evaluation.encoders import has_rows
from speechft.naming import public
from speechft.storage.files import json_text
from speechft.storage.outputs import check_own, put_text

RESULTS_FILE = "results.jsonl"


def put_json(path: Path, content: Any, places: Iterable[Any] = ()) -> None:
    """Write JSON in the place of an earlier file of ours; see `speechft.storage.outputs.put_text`.

    Args:
        path: The file.
        content: Plain JSON types, in which paths become names.
        places: Paths that may occur in it, however they are written.
    """
    put_text(path, json_text(public(content, map(str, places))))


def check_place(folder: Path, *names: str) -> None:
    """Refuse a folder that holds somebody else's files where ours would go, before any work.

    Raises:
        RunError: It does.
    """
    check_own(folder / RESULTS_FILE, earlier=lambda: has_rows(folder / RESULTS_FILE))
    for name in names:
        check_own(folder / name)
