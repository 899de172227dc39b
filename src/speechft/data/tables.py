"""The one reader of tables of recordings: CSV, TSV, semicolons, JSON lines, however quoted.

The separator is the one that makes most of the first line's names known. A row whose number of
cells differs from the first line's is a problem with its line; so that no text is ever cut at a
comma that nobody quoted.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechft.commands import shell
from speechft.data.columns import KNOWN, PLAIN, Naming, as_cells, renamed, require, unusable
from speechft.data.kept_items import KeptItems, kept_rows
from speechft.data.places import MAX_BYTES
from speechft.errors import DataError
from speechft.storage.disk import reading
from speechft.storage.documents import parse_json, read_lines
from speechft.storage.scratch import Column

SUFFIXES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json")
"""What is read as a table, with `.parquet`, which has a reader of its own."""
_SEPARATORS = (",", "\t", ";", "|")
_JSON = (".jsonl", ".ndjson", ".json")
_TIMES = ("start", "end", "duration")


@dataclass
class RowTable:
    """The rows of a table and what is wrong with it."""

    path: Path
    naming: Naming = PLAIN
    """What its columns mean."""
    rows: KeptItems[dict[str, str]] = field(default_factory=kept_rows)
    """Cells by column as ``naming`` has it."""
    lines: Column = field(default_factory=Column)
    """The line of each row."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(path cell, problem) of rows that cannot be used."""
    columns: list[str] = field(default_factory=list)
    """All columns, by their names here."""
    dropped: list[str] = field(default_factory=list)
    """Columns without name or text, or in whose place another was chosen, which are not read."""
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


def read_table(
    path: Path, required: tuple[str, ...] = ("path",), naming: Naming = PLAIN
) -> RowTable:
    """Read a table.

    Args:
        path: The file.
        required: Columns that it must have.
        naming: What its columns mean.

    Raises:
        DataError: It is missing, is no text, its quotes do not close, it lacks a column, two of its
            columns contradict each other, or it has no rows.
    """
    table = RowTable(path, naming)
    if path.suffix.lower() in _JSON:
        _read_json(table, required)
    else:
        _read_cells(table, required)
    if not table.rows and not table.problems:
        raise DataError(f"corpus table {path} has no rows")
    return table


@contextlib.contextmanager
def _lines_of(path: Path, newline: str = "\n") -> Iterator[Iterator[str]]:
    """Open a table; give its lines with their ends, of which memory holds few.

    Args:
        path: The file: UTF-8, or UTF-16 that says so, as what Excel calls Unicode text does.
        newline: What ends a line, as `open` takes it.

    Raises:
        DataError: It is missing, is no text, or is too large.
    """
    try:
        with reading(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise OSError(f"it has more than {MAX_BYTES:,} bytes")
            marked = file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
            encoding = "utf-16" if marked else "utf-8-sig"
            with io.TextIOWrapper(file, encoding, newline=newline) as lines:
                yield _without_zeros(lines, path)
    except FileNotFoundError:
        raise DataError(f"corpus table {path} does not exist") from None
    except UnicodeDecodeError:
        if marked:
            raise DataError(
                f"corpus table {path} cannot be read: it is not UTF-16, as its first bytes say"
            ) from None
        raise _not_utf8(path) from None
    except OSError as error:
        raise DataError(f"corpus table {path} cannot be read: {error}") from None


def _without_zeros(lines: Iterable[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise DataError(
                f"corpus table {path} cannot be read: line {number} holds a zero byte",
                hint=f"if it is UTF-16: {_iconv('UTF-16LE', path)}",
            )
        yield line


def _not_utf8(path: Path) -> DataError:
    """Return what says where a table is not UTF-8."""
    with reading(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                place = f"line {number}, byte {error.start + 1}"
                break
    return DataError(
        f"corpus table {path} cannot be read: {place} is not UTF-8",
        hint=f"if it is Latin-1: {_iconv('WINDOWS-1252', path)}",
    )


def _iconv(encoding: str, path: Path) -> str:
    return f"{shell('iconv', ['-f', encoding, '-t', 'UTF-8', path.name])} > new.csv"


def _read_cells(table: RowTable, required: tuple[str, ...]) -> None:
    with _lines_of(table.path, "") as lines:
        before, first = next(((n, x) for n, x in enumerate(lines) if x.strip()), (0, ""))
    said = len(first.strip()) == 5 and first.lower().startswith("sep=")  # Excel's way to say it
    separator = first[4] if said else _separator(first.rstrip("\r\n"), table)
    table.decimal_commas = separator == ";"
    tabs = separator == "\t"
    # quotes of tables with tabs are text, and so is what other systems end a line by
    with _lines_of(table.path, "\n" if tabs and not first.endswith("\r") else "") as lines:
        skipped = before + 1 if said else 0
        rest = itertools.islice(lines, skipped, None)
        rows = _tabbed(rest) if tabs else _quoted(rest, separator, table.path)
        _read_rows(table, required, ((skipped + number, cells) for number, cells in rows))


def _read_rows(
    table: RowTable, required: tuple[str, ...], lines: Iterable[tuple[int, list[str]]]
) -> None:
    header: list[str] = []
    for number, cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = _header(table, cells, required)
            continue
        _add_row(table, header, number, cells)
    if not header:
        require(table.path, (), (), required, table.naming)


def _separator(first: str, table: RowTable) -> str:
    """Return what separates the cells of the first line."""
    if table.path.suffix.lower() in (".tsv", ".tab") and "\t" in first:
        return "\t"

    def score(separator: str) -> tuple[int, int]:
        names = first.split(separator)
        meant = table.naming.all_of(name.strip().strip('"') for name in names)
        return sum(name in KNOWN for name in meant), len(names)

    return max(_SEPARATORS, key=score)


def _header(table: RowTable, cells: list[str], required: tuple[str, ...]) -> list[str]:
    """Return the names of the columns as given; empty where a column has none."""
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    unnamed = [name.lower().startswith("unnamed:") or not name for name in names]
    table.dropped = [f"column {n}" for n, empty in enumerate(unnamed, 1) if empty]
    names = ["" if empty else name for name, empty in zip(names, unnamed, strict=True)]
    named = [name for name in names if name]
    table.columns = table.naming.all_of(named)
    table.dropped += table.naming.passed(named)
    twice = {name for name, count in Counter(names).items() if name and count > 1}
    if twice:
        raise DataError(
            f"corpus table {table.path} has the column {', '.join(sorted(twice)[:10])} twice",
            hint="rename one of them",
        )
    table.naming.check(f"corpus table {table.path}", named)
    require(table.path, table.columns, named, required, table.naming)
    return names


def _add_row(table: RowTable, header: list[str], number: int, cells: list[str]) -> None:
    while len(cells) > len(header) and not cells[-1].strip():
        cells.pop()
    pairs = {name: cell for name, cell in zip(header, cells, strict=False) if name}
    given, wanted = len(cells), len(header)
    if given == wanted:
        where = f"corpus table {table.path}, line {number}"
        _keep(table, renamed(pairs, where, table.naming), number)
        return
    meant = table.naming.of
    place = next((cell.strip() for name, cell in pairs.items() if "path" in meant(name)), "")
    if given > wanted:
        problem = f"line {number} has {given} cells, the first line {wanted}: quote texts with "
        problem += "separators in them"
    else:
        missing = table.naming.all_of(name for name in header[given:] if name)
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


def _tabbed(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield lines of cells between tabs: quotes are part of the text, as Common Voice has them.

    What was quoted by a program, its inner quotes doubled, is taken out of its quotes.
    """
    for number, line in enumerate(lines, 1):
        yield number, [_unquoted(cell) for cell in line.rstrip("\r\n").split("\t")]


def _unquoted(cell: str) -> str:
    inner = cell[1:-1]
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _quoted(lines: Iterable[str], separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield lines of cells by the rules of CSV.

    Raises:
        DataError: A quote does not close, or closes lines later over what looks like rows.
    """
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
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


def _read_json(table: RowTable, required: tuple[str, ...]) -> None:
    dropped: dict[str, None] = {}
    columns: dict[str, None] = {}
    there: dict[str, None] = {}
    for number, row in _json_rows(table.path):
        where = f"{table.path}, line {number}"
        if not isinstance(row, dict):
            raise DataError(f"{where} is {type(row).__name__}, expected an object")
        cells, without = as_cells(row)
        dropped |= dict.fromkeys([*without, *table.naming.passed(cells)])
        new = renamed(cells, where, table.naming)
        columns |= dict.fromkeys(new)
        if not table.rows:
            table.naming.check(where, row, required)
            require(table.path, new, row, required, table.naming)
        there |= dict.fromkeys(row)
        missing = [name for name in required if not new.get(name)]
        if missing:
            problem = f"line {number}: the {', '.join(missing)} is empty"
            table.problems.append((new.get("path", ""), problem))
        else:
            _keep(table, new, number)
    if there:
        table.naming.check(f"corpus table {table.path}", there)
    table.columns, table.dropped = list(columns), list(dropped)


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with _lines_of(path) as lines:
        head = []
        for line in lines:
            head.append(line)
            if line.strip():
                break
        if head and head[-1].lstrip().startswith("["):  # one array: read as a whole
            try:
                rows = parse_json("".join([*head, *lines]), plain=False)
            except ValueError as error:
                raise DataError(f"{path} is not JSON: {error}") from None
            yield from enumerate(rows, 1)
            return
        for number, line in enumerate(itertools.chain(head, lines), 1):
            if line.strip():
                try:
                    row = parse_json(line, plain=False)
                except ValueError as error:
                    raise DataError(f"{path}, line {number} is not JSON: {error}") from None
                yield number, row
