"""Scored items on disk: one JSON line an item, sorted by id; a result row names its file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechft.errors import DataError
from speechft.results import ResultRow
from speechft.storage.documents import parse_json, read_lines
from speechft.storage.files import atomic_write
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
        return [_item(parse_json(line)) for line in read_lines(path)]
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"predictions {path} cannot be read: {reason}",
            hint="copy the folder evaluation beside results.jsonl, or evaluate that encoder again",
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
    place = Path(row.predictions)
    if place.is_absolute() or ".." in place.parts:
        raise DataError(
            f"the row of {row.encoder} on {row.task} names predictions outside its folder: {place}"
        )
    return read_items(folder / place)


def _item(content: Any) -> Item:
    """Return the item that a JSON value describes.

    Raises:
        ValueError: A field is of another type.
        TypeError: It has other fields.
    """
    item = Item(**content)
    for name in ("id", "prediction", "reference", "group", "searched"):
        if not isinstance(getattr(item, name), str):
            raise ValueError(f"{name} of an item is no text")
    if not isinstance(item.counts, Mapping):
        raise ValueError("counts of an item are no section")
    for value in (item.amount, item.total, *item.counts.values()):
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e15:
            raise ValueError(f"{value!r} is no amount")
    if type(item.fold) is not int or not 0 <= item.fold < 1 << 31:
        raise ValueError(f"{item.fold!r} is no number of a fold")
    return item
