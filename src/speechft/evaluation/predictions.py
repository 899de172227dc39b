"""Scored items on disk: one JSON line an item, sorted by id; a result row names its file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from speechft.errors import DataError
from speechft.files import atomic_write
from speechft.results import ResultRow
from speechft.tasks.measures import Item


def write_items(path: Path, items: Sequence[Item]) -> None:
    """Write items as JSON lines, atomically."""
    with atomic_write(path) as file:
        for item in items:
            line = asdict(item)
            if not item.searched:
                del line["searched"]
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


def read_items(path: Path) -> list[Item]:
    """Read items from JSON lines.

    Raises:
        DataError: The file cannot be read, or a line is not an item.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return [Item(**json.loads(line)) for line in lines if line]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"predictions {path} cannot be read: {error}", hint="evaluate that encoder again"
        ) from None


def dev_file(predictions: str) -> str:
    """Return the file with the items of dev that lies beside one with those of test."""
    place = Path(predictions)
    return str(place.with_name(place.name.replace("predictions", "dev", 1)))


def items_of(row: ResultRow, folder: Path) -> list[Item]:
    """Return the scored items of a row.

    Args:
        row: A figure of one seed.
        folder: Of the file that holds the row.

    Raises:
        DataError: The row names no file (older versions), or it cannot be read.
    """
    if row.predictions is None:
        raise DataError(
            f"the row of {row.encoder} on {row.task} names no predictions: an older version wrote "
            "it",
            hint="evaluate that encoder again",
        )
    return read_items(folder / row.predictions)
