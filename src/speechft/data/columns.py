"""What the columns of a table of recordings mean, however they are called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from speechft.commands import command, shell
from speechft.data.text import composed, written
from speechft.errors import DataError, nearest
from speechft.storage.documents import is_plain

KNOWN = ("path", "split", "start", "end", "duration", "channel", "text", "phones", "speaker")
"""Columns that are read; all others become labels of their own name."""
_OTHERS: dict[str, tuple[str, ...]] = {
    "path": (
        *("file_name", "filename", "file", "file_path", "filepath", "audio", "audio_path"),
        *("audio_file", "audio_filepath", "audiofile", "wav", "wav_path", "wav_filename"),
    ),
    "split": ("subset", "set", "partition"),
    "start": ("start_time", "offset", "begin", "segment_start", "start_seconds"),
    "end": ("end_time", "stop", "segment_end", "end_seconds"),
    "channel": ("channel_id",),
    "text": ("transcription", "transcript", "sentence", "transcripts"),
    "speaker": ("speaker_id", "spk", "spk_id", "speakerid", "client_id"),
    "language": ("locale", "lang"),
}
"""Other names, as Hugging Face, Common Voice and NeMo have them."""
_MEANING = {other: name for name, others in _OTHERS.items() for other in others}
_LONGEST_NAME, _LONGEST_PATH = 255, 4_000
"""Bytes of a part of a path, and of all, that file systems take."""


@lru_cache(4096)  # every row asks again
def meaning(column: str) -> str:
    """Return what a column is called here: ``File Name`` is ``path``; others keep their name."""
    plain = _plain(column)
    folded = re.sub(r"[\s.-]+", "_", plain.lower())
    if folded in (*KNOWN, "label", "language"):
        return folded
    return _MEANING.get(folded, plain)


@lru_cache(4096)
def _plain(column: str) -> str:
    return composed(column).strip().strip("\ufeff")


@dataclass(frozen=True)
class Naming:
    """What the columns of a table mean: as the user says, all others by what they are called."""

    chosen: Mapping[str, str] = field(default_factory=dict)
    """Column by what it means, as the user said. One column may mean several things."""
    unread: tuple[str, ...] = ()
    """Meanings that no column has by its name alone."""

    def of(self, column: str) -> tuple[str, ...]:
        """Return what a column means; nothing where it is not read, as another was chosen."""
        plain = _plain(column)
        chosen = tuple(meant for meant, name in self.chosen.items() if _plain(name) == plain)
        meant = meaning(column)
        return chosen or (() if meant in (*self.chosen, *self.unread) else (meant,))

    def all_of(self, columns: Iterable[str]) -> list[str]:
        """Return everything that columns mean, each once, in order."""
        return list(dict.fromkeys(meant for column in columns for meant in self.of(column)))

    def passed(self, columns: Iterable[str]) -> list[str]:
        """Return the columns that are not read."""
        return [column for column in columns if not self.of(column)]

    def check(self, where: Any, columns: Iterable[str], meant: Iterable[str] | None = None) -> None:
        """Refuse a column that was chosen and is not there.

        Args:
            where: What lacks it, for the error.
            columns: Those that there are.
            meant: What is looked at; everything otherwise.

        Raises:
            DataError: Names it and what there is.
        """
        has = [_plain(column) for column in columns]
        for name in (c for m, c in self.chosen.items() if meant is None or m in meant):
            if _plain(name) not in has:
                near = nearest(_plain(name), has)
                raise DataError(
                    f"{where} has no column {name!r}; it has: {', '.join(has)}",
                    hint=None if near is None else f"did you mean {near!r}?",
                )


PLAIN = Naming()
"""Columns mean what they are called."""


def renamed(row: Mapping[str, str], where: str, naming: Naming = PLAIN) -> dict[str, str]:
    """Return a row by the names of columns here.

    Args:
        row: Cells by column as the table has them.
        where: Table and line, for the error.
        naming: What columns mean.

    Raises:
        DataError: Two columns mean the same and differ.
    """
    cells: dict[str, str] = {}
    given: dict[str, str] = {}
    for column, value in row.items():
        text = composed(value).strip()
        for name in naming.of(column):
            differ = name in cells and text and cells[name] and text != cells[name]
            if differ and name == "language":  # English beside en: two labels
                name = composed(column).strip()
            elif differ:
                raise DataError(
                    f"{where}: the columns {given[name]!r} and {column!r} both mean {name}, but "
                    f"hold {cells[name]!r} and {text!r}",
                    hint="name the one that is meant behind the table, such as TABLE"
                    f"?{urlencode({name: column})}, or rename one",
                )
            if text or name not in cells:
                cells[name], given[name] = text, column
    return cells


def unusable(row: Mapping[str, str]) -> str:
    """Say why the cells of a row cannot be used; empty if they can.

    Half a character (a lone surrogate) cannot be written, and a path can hold neither zero bytes
    nor names that are longer than file systems take.
    """
    for name, cell in row.items():
        if not cell.isascii() and any("\ud800" <= c <= "\udfff" for c in cell):
            return f"the {name} holds half a character: {cell[:40]!a}"
        if "\0" in cell:
            return f"the {name} holds a zero byte: {cell[:40]!a}"
    parts = row.get("path", "").encode().split(b"/")
    if max(map(len, parts)) > _LONGEST_NAME or sum(map(len, parts)) > _LONGEST_PATH:
        return f"the path is longer than a path can be: {row['path'][:40]}..."
    return ""


def as_cells(row: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return a row of JSON or parquet as text, and the columns that are no text.

    Cells are as `written` has them; sections are left out, and columns whose name no file can hold.
    """
    cells, dropped = {}, []
    for name, value in row.items():
        if isinstance(value, Mapping) or name is None or not is_plain(str(name)):
            text = str(name)
            dropped.append(text if is_plain(text) else ascii(text)[1:-1])
        else:
            cells[str(name)] = written(value)
    return cells, dropped


def require(
    path: Any,
    columns: Iterable[str],
    given: Iterable[str],
    names: Iterable[str],
    naming: Naming = PLAIN,
) -> None:
    """Refuse a table without columns that are needed.

    Args:
        path: The table.
        columns: What its columns mean.
        given: What they are called.
        names: What is needed.
        naming: What the user said of columns.

    Raises:
        DataError: Names what it lacks and what it has.
    """
    has = set(columns)
    missing = [name for name in names if name not in has]
    if not missing:
        return
    said = [urlencode({meant: column}) for meant, column in naming.chosen.items()]
    place = f"{path}?{'&'.join(said)}" if said else path
    named = shell(f"{path}?{'&'.join([*said, *(f'{name}=COLUMN' for name in missing)])}", ())
    hint = (
        "columns are path, split and any of start, end, channel, text, phones, speaker, label; "
        f"the first line names them, or you do behind the table: {named}"
    )
    if missing == ["split"]:
        drawn = command("prepare", "generic", place, set_="draw=recordings", out="corpora/drawn")
        hint = (
            f"add it with train, dev and test, say which it is ({named}), or have it drawn: "
            f"{drawn} (or draw=speakers)"
        )
    raise DataError(
        f"corpus table {path} lacks the column {', '.join(missing)}; it has: {', '.join(given)}",
        hint=hint,
    )
