"""What the columns of a table of recordings mean, however they are called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from speechft.commands import command
from speechft.data.text import composed
from speechft.errors import DataError
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


def meaning(column: str) -> str:
    """Return what a column is called here: ``File Name`` is ``path``; others keep their name."""
    plain = composed(column).strip().strip("\ufeff")
    folded = re.sub(r"[\s.-]+", "_", plain.lower())
    if folded in (*KNOWN, "label", "language"):
        return folded
    return _MEANING.get(folded, plain)


def renamed(row: Mapping[str, str], where: str) -> dict[str, str]:
    """Return a row by the names of columns here.

    Args:
        row: Cells by column as the table has them.
        where: Table and line, for the error.

    Raises:
        DataError: Two columns mean the same and differ.
    """
    cells: dict[str, str] = {}
    given: dict[str, str] = {}
    for column, value in row.items():
        name = meaning(column)
        text = composed(value).strip()
        differ = name in cells and text and cells[name] and text != cells[name]
        if differ and name == "language":  # English beside en: two labels
            name = composed(column).strip()
        elif differ:
            raise DataError(
                f"{where}: the columns {given[name]!r} and {column!r} both mean {name}, but hold "
                f"{cells[name]!r} and {text!r}",
                hint="rename the one that is not meant, or take it out",
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

    Lists are joined by spaces; sections are left out, and columns whose name no file can hold.
    """
    cells, dropped = {}, []
    for name, value in row.items():
        if isinstance(value, Mapping) or name is None or not is_plain(str(name)):
            text = str(name)
            dropped.append(text if is_plain(text) else ascii(text)[1:-1])
        elif value is not None:
            is_list = isinstance(value, list)
            cells[str(name)] = " ".join(map(str, value)) if is_list else str(value)
    return cells, dropped


def require(path: Any, columns: Iterable[str], given: Iterable[str], names: Iterable[str]) -> None:
    """Refuse a table without columns that are needed.

    Raises:
        DataError: Names what it lacks and what it has.
    """
    has = set(columns)
    missing = [name for name in names if name not in has]
    if missing:
        hint = (
            "columns are path, split and any of start, end, channel, text, phones, speaker, label; "
            "the first line names them"
        )
        if missing == ["split"]:
            drawn = command("prepare", "generic", path, set_="draw=recordings", out="corpora/drawn")
            hint = f"add it with train, dev and test, or have it drawn: {drawn} (or draw=speakers)"
        raise DataError(
            f"corpus table {path} lacks the column {', '.join(missing)}; "
            f"it has: {', '.join(given)}",
            hint=hint,
        )
