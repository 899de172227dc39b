"""Rows of a data set of the hub as rows of a table: which column is what, where the audio goes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechft.console import log
from speechft.data.columns import KNOWN, Naming, as_cells, meaning, renamed, unusable
from speechft.data.containers import AUDIO_SUFFIXES
from speechft.data.corpora.generic import Table
from speechft.data.corpora.parquet import audio_file
from speechft.data.corpora.splits import plain_split, split_of, wanted_splits
from speechft.data.issues import Issue
from speechft.errors import DataError

_PACKED = re.compile(r"(?:zip|tar|gzip|bz2|xz|zstd)://[^:]*")
"""What stands before ``::`` in the address of a file within an archive of a data set."""
_NOT_GUESSED = ("path", "split", "start", "end", "channel")
"""Columns that would cut or move recordings: on the hub they speak of where these came from."""


@dataclass
class Columns:
    """Which column is what."""

    audio: str
    naming: Naming
    """What the others mean."""
    classes: dict[str, list[str]] = field(default_factory=dict)
    """Names of the values of a ``ClassLabel``."""


def splits_of(there: Sequence[str], wanted: str) -> dict[str, list[str]]:
    """Return the data set's splits by ours.

    Raises:
        ConfigError: One that is asked for does not exist.
    """
    found = wanted_splits(wanted, there)
    if found:
        return found
    for theirs in there:
        guessed = split_of(theirs)
        if guessed is not None:
            found.setdefault(guessed, []).append(theirs)
    if not found:
        return {plain_split(theirs): [theirs] for theirs in there}
    joined = [f"{ours} from {' and '.join(n)}" for ours, n in found.items() if n != [ours]]
    if joined:
        log(f"splits: {'; '.join(joined)}")
    if passed := [name for name in there if split_of(name) is None]:
        log(f"splits that are not read: {', '.join(passed)} (--set splits=... chooses)")
    return found


def columns_of(
    data: str, features: Any, row: Mapping[str, Any], chosen: Mapping[str, str]
) -> Columns:
    """Return what the columns of a data set mean.

    Args:
        data: Its name, for errors.
        features: As `datasets` tells them.
        row: Its first.
        chosen: Columns by what they mean, as the user said.

    Raises:
        DataError: It has no audio, or lacks a column that was named.
    """
    names = list(row)
    naming, kinds = Naming(chosen), dict(features or {})
    naming.check(data, names)
    named = [name for name in names if "audio" in naming.of(name)]
    typed = [name for name, kind in kinds.items() if type(kind).__name__ == "Audio"]
    likely = [name for name in names if f".{name.lower()}" in AUDIO_SUFFIXES]
    meant = [name for name in names if meaning(name) == "path"]
    candidates = named or [n for n in (*typed, "audio", *likely, *meant) if n in names]
    if not candidates:
        raise DataError(
            f"{data} holds no audio that is known as such; its columns: {', '.join(names)}",
            hint="name it: --set audio=COLUMN, or ?audio=COLUMN behind its name",
        )
    classes = {n: list(k.names) for n, k in kinds.items() if type(k).__name__ == "ClassLabel"}
    others = {meant: column for meant, column in chosen.items() if meant != "audio"}
    return Columns(candidates[0], Naming(others, _NOT_GUESSED), classes)


def add_row(
    table: Table,
    row: Mapping[str, Any],
    columns: Columns,
    split: str,
    number: int,
    folder: Path,
    origin: str,
) -> None:
    """Add a row: its audio as a file, its other cells by what they mean."""
    where = f"{split}, row {number + 1}"
    value = row[columns.audio]
    try:
        audio = audio_file(_fetched(value, origin), number, folder, folder)
    except (OSError, ValueError) as error:
        table.issues.append(Issue("unreadable-audio", str(error), where))
        return
    rest = {n: v for n, v in row.items() if n != columns.audio and not n.startswith("__")}
    for column, known in columns.classes.items():
        value = rest.get(column)
        if isinstance(value, int) and 0 <= value < len(known):
            rest[column] = known[value]
    cells, dropped = as_cells({n: v for n, v in rest.items() if not isinstance(v, bytes)})
    dropped += columns.naming.passed(cells)
    cells = renamed(cells, where, columns.naming)
    table.dropped |= dict.fromkeys(dropped)
    if problem := unusable({**cells, "path": str(audio)}):
        table.issues.append(Issue("bad-label", problem, where))
        return
    table.labels |= {name: None for name in cells if name not in KNOWN and name != "label"}
    table.add({**cells, "split": split, "path": str(audio)}, audio)


def _fetched(value: Any, origin: str) -> Any:
    """Return the audio of a row with its bytes, read from the data set itself and nowhere else.

    Raises:
        ValueError: It lies elsewhere: on this machine, or on another server.
        OSError: It cannot be read.
    """
    place = value.get("path") if isinstance(value, Mapping) else value
    held = isinstance(value, Mapping) and (value.get("bytes") or value.get("array") is not None)
    if held or not isinstance(place, str) or not place:
        return value
    packed, _, inner = place.rpartition("::")
    if "://" not in inner and not inner.startswith("/"):
        place = inner = f"{origin}/{inner}"
    if not inner.startswith((f"{origin}/", f"{origin.partition('@')[0]}/")) or (
        ".." in inner or (packed and not _PACKED.fullmatch(packed))
    ):
        raise ValueError("its audio is no file of the data set, and nothing else is read")
    import fsspec

    with fsspec.open(place, "rb") as file:
        return {"bytes": file.read(), "path": inner}
