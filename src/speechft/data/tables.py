"""The one reader of tables of recordings: CSV, TSV, semicolons, JSON lines, however quoted.

The separator is the one that makes most of the first line's names known. A row whose number of
cells differs from the first line's is a problem with its line; so that no text is ever cut at a
comma that nobody quoted.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechft.commands import shell
from speechft.data.columns import KNOWN, as_cells, meaning, renamed, require, unusable
from speechft.data.kept_items import KeptItems, kept_rows
from speechft.data.places import MAX_BYTES
from speechft.documents import parse_json, read_limited, read_lines
from speechft.errors import DataError
from speechft.scratch import Column

SUFFIXES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json")
"""What is read as a table, with `.parquet`, which has a reader of its own."""
_SEPARATORS = (",", "\t", ";", "|")
_JSON = (".jsonl", ".ndjson", ".json")
_TIMES = ("start", "end", "duration")


@dataclass
class RowTable:
    """The rows of a table and what is wrong with it."""

    path: Path
    rows: KeptItems[dict[str, str]] = field(default_factory=kept_rows)
    """Cells by column as `speechft.data.columns.meaning` names it."""
    lines: Column = field(default_factory=Column)
    """The line of each row."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(path cell, problem) of rows that cannot be used."""
    columns: list[str] = field(default_factory=list)
    """All columns, by their names here."""
    dropped: list[str] = field(default_factory=list)
    """Columns without name or text, which are not read."""
    decimal_commas: bool = False
    """Whether times are written so: where semicolons separate, they mostly are."""

    @property
    def labels(self) -> list[str]:
        """Return the columns that become labels of their own name."""
        return [name for name in self.columns if name not in KNOWN and name != "label"]


def is_table(path: Path) -> bool:
    """Return whether a file is called as a table is; JSON lines of lhotse are manifests."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    return path.suffix.lower() not in _JSON or not is_manifest(path)


def is_manifest(path: Path) -> bool:
    """Return whether JSON lines are cuts, recordings or supervisions as lhotse writes them."""
    try:
        first = parse_json(next(read_lines(path), b"null"))
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and (
        {"sources", "sampling_rate"} <= first.keys()
        or "recording" in first
        or {"id", "recording_id", "start"} <= first.keys()
        or first.get("type") in ("MonoCut", "MultiCut", "MixedCut", "PaddingCut")
    )


def read_table(path: Path, required: tuple[str, ...] = ("path",)) -> RowTable:
    """Read a table.

    Args:
        path: The file.
        required: Columns that it must have.

    Raises:
        DataError: It is missing, is no text, its quotes do not close, it lacks a column, two of its
            columns contradict each other, or it has no rows.
    """
    text = _text(path)
    table = RowTable(path)
    if path.suffix.lower() in _JSON:
        _read_json(table, text, required)
    else:
        _read_cells(table, text, required)
    if not table.rows and not table.problems:
        raise DataError(f"corpus table {path} has no rows")
    return table


def _text(path: Path) -> str:
    try:
        data = read_limited(path, MAX_BYTES)
    except FileNotFoundError:
        raise DataError(f"corpus table {path} does not exist") from None
    except OSError as error:
        raise DataError(f"corpus table {path} cannot be read: {error}") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):  # what Excel calls Unicode text
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise DataError(f"corpus table {path} cannot be read: {error}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise DataError(
            f"corpus table {path} cannot be read: line {line}, byte {column} is not UTF-8",
            hint=f"if it is Latin-1: {_iconv('WINDOWS-1252', path)}",
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(
            f"corpus table {path} cannot be read: line {line} holds a zero byte",
            hint=f"if it is UTF-16: {_iconv('UTF-16LE', path)}",
        )
    return text


def _iconv(encoding: str, path: Path) -> str:
    return f"{shell('iconv', ['-f', encoding, '-t', 'UTF-8', path.name])} > new.csv"


def _read_cells(table: RowTable, text: str, required: tuple[str, ...]) -> None:
    first = next((line for line in text.splitlines() if line.strip()), "")
    if first.lower().startswith("sep=") and len(first) == 5:  # Excel's way to say it
        separator, text = first[4], text[text.index(first) + len(first) :].lstrip("\r\n")
    else:
        separator = _separator(first, table.path)
    table.decimal_commas = separator == ";"
    lines = _tabbed(text) if separator == "\t" else _quoted(text, separator, table.path)
    header: list[str] = []
    for number, cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = _header(table, cells, required)
            continue
        _add_row(table, header, number, cells)
    if not header:
        require(table.path, (), (), required)


def _separator(first: str, path: Path) -> str:
    """Return what separates the cells of the first line."""
    if path.suffix.lower() in (".tsv", ".tab") and "\t" in first:
        return "\t"

    def score(separator: str) -> tuple[int, int]:
        names = [meaning(name.strip().strip('"')) for name in first.split(separator)]
        return sum(name in KNOWN for name in names), len(names)

    return max(_SEPARATORS, key=score)


def _header(table: RowTable, cells: list[str], required: tuple[str, ...]) -> list[str]:
    """Return the names of the columns as given; empty where a column has none."""
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    unnamed = [name.lower().startswith("unnamed:") or not name for name in names]
    table.dropped = [f"column {n}" for n, empty in enumerate(unnamed, 1) if empty]
    names = ["" if empty else name for name, empty in zip(names, unnamed, strict=True)]
    table.columns = list(dict.fromkeys(meaning(name) for name in names if name))
    twice = {name for name, count in Counter(names).items() if name and count > 1}
    if twice:
        raise DataError(
            f"corpus table {table.path} has the column {', '.join(sorted(twice)[:10])} twice",
            hint="rename one of them",
        )
    require(table.path, table.columns, [name for name in names if name], required)
    return names


def _add_row(table: RowTable, header: list[str], number: int, cells: list[str]) -> None:
    while len(cells) > len(header) and not cells[-1].strip():
        cells.pop()
    pairs = {name: cell for name, cell in zip(header, cells, strict=False) if name}
    given, wanted = len(cells), len(header)
    if given == wanted:
        _keep(table, renamed(pairs, f"corpus table {table.path}, line {number}"), number)
        return
    place = next((cell.strip() for name, cell in pairs.items() if meaning(name) == "path"), "")
    if given > wanted:
        problem = f"line {number} has {given} cells, the first line {wanted}: quote texts with "
        problem += "separators in them"
    else:
        missing = [meaning(name) for name in header[given:] if name]
        problem = f"line {number} has {given} of {wanted} cells: the {', '.join(missing)} is empty"
    table.problems.append((place, problem))


def _keep(table: RowTable, row: dict[str, str], number: int) -> None:
    """Keep a row, or say what is wrong with its cells."""
    if problem := unusable(row):
        name = ascii(row.get("path", "")[:80])[1:-1]
        table.problems.append((name, f"line {number}: {problem}"))
    else:
        if table.decimal_commas:
            times = {name: row[name] for name in _TIMES if name in row}
            row |= {n: re.sub(r"^(\d+),(\d+)$", r"\1.\2", text) for n, text in times.items()}
        table.rows.append(row)
        table.lines.add(number)


def _tabbed(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield lines of cells between tabs: quotes are part of the text, as Common Voice has them.

    What was quoted by a program, its inner quotes doubled, is taken out of its quotes.
    """
    for number, line in enumerate(text.splitlines() if "\n" not in text else text.split("\n"), 1):
        yield number, [_unquoted(cell) for cell in line.rstrip("\r").split("\t")]


def _unquoted(cell: str) -> str:
    inner = cell[1:-1]
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _quoted(text: str, separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield lines of cells by the rules of CSV.

    Raises:
        DataError: A quote does not close, or closes lines later over what looks like rows.
    """
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
    )
    before, width = 0, 0
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"corpus table {path} cannot be read: the quotes in line {before + 1} are wrong "
                f"({error})",
                hint='a text with quotes is written as "she said ""no"""',
            ) from None
        if cells is None:
            return
        width = width or len(cells)
        for cell in cells:
            more = cell.splitlines()[1:]
            if width > 1 and any(line.count(separator) >= width - 1 for line in more):
                raise DataError(
                    f"corpus table {path} cannot be read: a quote in line {before + 1} closes "
                    f"only in line {reader.line_num}, and rows lie between",
                    hint="close the quote, or take it out",
                )
        yield before + 1, cells
        before = reader.line_num


def _read_json(table: RowTable, text: str, required: tuple[str, ...]) -> None:
    dropped: dict[str, None] = {}
    columns: dict[str, None] = {}
    for number, row in _json_rows(table.path, text):
        if not isinstance(row, dict):
            raise DataError(
                f"{table.path}, line {number} is {type(row).__name__}, expected an object"
            )
        cells, without = as_cells(row)
        dropped |= dict.fromkeys(without)
        new = renamed(cells, f"{table.path}, line {number}")
        columns |= dict.fromkeys(new)
        if not table.rows:
            require(table.path, new, row, required)
        missing = [name for name in required if not new.get(name)]
        if missing:
            problem = f"line {number}: the {', '.join(missing)} is empty"
            table.problems.append((new.get("path", ""), problem))
        else:
            _keep(table, new, number)
    table.columns, table.dropped = list(columns), list(dropped)


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    if text.lstrip().startswith("["):
        try:
            yield from enumerate(parse_json(text, plain=False), 1)
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}") from None
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = parse_json(line, plain=False)
            except ValueError as error:
                raise DataError(f"{path}, line {number} is not JSON: {error}") from None
            yield number, row
