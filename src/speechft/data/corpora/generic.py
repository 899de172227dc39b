"""The user's own recordings: a CSV, a Hugging Face ``audiofolder``, or parquet with audio bytes."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechft.data.corpora.base import AUDIO_SUFFIXES, Draft, Scan, audio_below, read_lines
from speechft.data.corpora.build import Options, build
from speechft.data.corpora.embedded import GENERIC
from speechft.data.corpora.parquet import read_parquet
from speechft.data.issues import Issue
from speechft.data.manifest import Corpus
from speechft.errors import DataError

_NAMES = {
    "file_name": "path",
    "audio": "path",
    "transcription": "text",
    "transcript": "text",
    "sentence": "text",
    "speaker_id": "speaker",
}
"""Columns as Hugging Face datasets name them, and what they are here."""
_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "dev",
    "valid": "dev",
    "val": "dev",
    "dev": "dev",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""Names of splits in files and folders, as Hugging Face reads them."""
_METADATA = ("metadata.csv", "metadata.jsonl")
_KNOWN = ("path", "split", "start", "end", "text", "phones", "speaker")
_SPLIT_NAME = re.compile(r"\w[\w.-]*")


@dataclass
class Table:
    """Rows of recordings, wherever they came from."""

    rows: list[dict[str, str]]
    """Cells by column; ``path`` is as given."""
    audio: list[Path]
    sources: list[Path]
    root: Path
    issues: list[Issue] = field(default_factory=list)


def prepare(
    place: Path,
    folder: Path,
    options: Options | None = None,
    *,
    disjoint_speakers: bool = False,
) -> Corpus:
    """Turn one's own recordings into a corpus.

    A CSV has the columns ``path`` (relative to the CSV or absolute, any format and rate that
    libsndfile reads), ``split`` (train, dev, test), and any of ``start`` and ``end`` (seconds, for
    a segment of a longer recording), ``text``, ``phones`` (separated by spaces), ``speaker``,
    ``label``; further columns become labels of their own name. A folder is read as Hugging Face's
    ``audiofolder`` (``metadata.csv`` or ``.jsonl`` with ``file_name``, or ``split/label/*.wav``)
    or holds parquet files. Recordings that cannot be used are left out, counted, and named in
    ``issues.tsv``.

    Args:
        place: The CSV, parquet file or folder.
        folder: Where the manifests go.
        options: How recordings are inspected.
        disjoint_speakers: Refuse speakers that train shares with dev or test.

    Raises:
        DataError: The table cannot be read, lacks a column, or nothing in it can be used.
    """
    table = _read(place, folder)
    scan = _scan(table)
    if disjoint_speakers:
        scan.disjoint = (("train", "dev", "test"),)
    root = table.root.resolve()
    config = {"place": place.name, "disjoint_speakers": disjoint_speakers}
    return build(GENERIC, root, scan, folder, options, name=place.stem, config=config)


def _read(place: Path, folder: Path) -> Table:
    if place.is_dir():
        parquet = sorted(place.rglob("*.parquet"))
        return _parquet(parquet, place, folder) if parquet else _audiofolder(place)
    if place.suffix.lower() == ".parquet":
        return _parquet([place], place.parent, folder)
    rows = _read_csv(place)
    return Table(rows, [_resolve(place.parent, row["path"]) for row in rows], [place], place.parent)


def _read_csv(path: Path, required: tuple[str, ...] = ("path", "split")) -> list[dict[str, str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = [{k.strip(): (v or "").strip() for k, v in row.items() if k} for row in reader]
            columns = [name.strip() for name in reader.fieldnames or [] if name]
    except FileNotFoundError:
        raise DataError(f"corpus table {path} does not exist") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"corpus table {path} cannot be read: {error}") from None
    named = [
        _NAMES.get(name, name) if _NAMES.get(name) not in columns else name for name in columns
    ]
    _require(path, named, columns, required)
    if not rows:
        raise DataError(f"corpus table {path} has no rows")
    new = dict(zip(columns, named, strict=True))
    return [{new[k]: v for k, v in row.items()} for row in rows]


def _require(
    path: Path, columns: Iterable[str], given: Iterable[str], required: tuple[str, ...]
) -> None:
    missing = [name for name in required if name not in columns]
    if missing:
        raise DataError(
            f"corpus table {path} lacks the column {', '.join(missing)}; "
            f"it has: {', '.join(given)}",
            hint="columns are path, split and any of start, end, text, phones, speaker, label",
        )


def _resolve(folder: Path, text: str) -> Path:
    path = Path(text).expanduser()
    return (path if path.is_absolute() else folder / path).resolve()


def split_of(name: str) -> str | None:
    """Return the split that a file or folder name stands for, as Hugging Face guesses it."""
    for word in re.split(r"[^a-z]+", name.lower()):
        if word in _SPLITS:
            return _SPLITS[word]
    return None


def _audiofolder(root: Path) -> Table:
    """Read Hugging Face's audiofolder: metadata beside the audio, or labels as folder names."""
    metadata = [path for name in _METADATA for path in sorted(root.rglob(name))]
    table = Table([], [], metadata, root)
    for path in metadata:
        for row in _metadata_rows(path):
            split = row.get("split") or _split_by_folder(path, row["path"], root)
            table.rows.append({**row, "split": split or "train"})
            table.audio.append(_resolve(path.parent, row["path"]))
    if metadata:
        known = set(table.audio)
        for audio in audio_below(root):
            if audio.resolve() not in known:
                problem = f"{metadata[0].name} does not mention it"
                table.issues.append(Issue("no-label", problem, str(audio), audio.stem))
        return table
    for audio in audio_below(root):
        place = audio.relative_to(root)
        split = _split_of(place)
        row = {"path": str(place), "split": split or "train"}
        if place.parent.name and split_of(place.parent.name) is None:
            row["label"] = place.parent.name
        table.rows.append(row)
        table.audio.append(audio.resolve())
    if not table.rows:
        known_suffixes = ", ".join(AUDIO_SUFFIXES)
        raise DataError(
            f"folder {root} holds no recordings ({known_suffixes}), no {' or '.join(_METADATA)} "
            "and no parquet"
        )
    return table


def _split_by_folder(metadata: Path, text: str, root: Path) -> str | None:
    """Return the split that the folder of a recording names, or that of its metadata."""
    top, place = (Path(os.path.abspath(path)) for path in (root, metadata.parent / text))
    inside = place.is_relative_to(top) and _split_of(place.relative_to(top))
    return inside or _split_of(metadata.relative_to(root))


def _split_of(place: Path) -> str | None:
    return next((s for part in place.parts[:-1] if (s := split_of(part))), None)


def _metadata_rows(path: Path) -> list[dict[str, str]]:
    if path.suffix == ".csv":
        return _read_csv(path, required=("path",))
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not JSON: {error}") from None
        rows.append(as_cells(row))
        _require(path, rows[-1], row, ("path",))
    return rows


def as_cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row of a Hugging Face dataset as text, columns named as here."""
    cells = {}
    for name, value in row.items():
        if value is not None and not isinstance(value, dict):
            text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            cells[_NAMES.get(name, name)] = text
    return cells


def _parquet(paths: list[Path], root: Path, folder: Path) -> Table:
    table = Table([], [], paths, root)
    for path in paths:
        split = _split_of(path.relative_to(root) / "x") or split_of(path.stem) or "train"
        place = folder / "audio" / path.relative_to(root).with_suffix("")
        for row, audio in read_parquet(path, place, root):
            table.rows.append({"split": split, **as_cells(row), "path": str(audio)})
            table.audio.append(audio)
    return table


def _scan(table: Table) -> Scan:
    scan = Scan({}, list(table.issues), sources=table.sources, sample_rate=None)
    scan.missing_allowed = True
    for draft, split in _drafts(table, scan.issues):
        scan.splits.setdefault(split, []).append(draft)
    return scan


def _drafts(table: Table, issues: list[Issue]) -> Iterator[tuple[Draft, str]]:
    seen: set[tuple[Path, float | None, float | None]] = set()
    for number, (row, path) in enumerate(zip(table.rows, table.audio, strict=True)):
        try:
            start, end = _seconds(row, "start"), _seconds(row, "end")
            problem = _row_problem(row, start, end)
        except ValueError as error:
            start, end, problem = None, None, str(error)
        if problem is None and (path, start, end) in seen:
            issues.append(Issue("listed-twice", "listed twice", row["path"]))
        elif problem is not None:
            issues.append(Issue("bad-label", problem, row["path"]))
        else:
            seen.add((path, start, end))
            yield (
                Draft(
                    id=f"{number:07d}-{path.stem}",
                    path=path,
                    text=row.get("text") or None,
                    speaker=row.get("speaker") or None,
                    phones=[(phone, 0.0, 0.0) for phone in row.get("phones", "").split()],
                    labels={k: v for k, v in row.items() if v and k not in _KNOWN},
                    start=start,
                    end=end,
                ),
                _SPLITS.get(row["split"], row["split"]),
            )


def _seconds(row: Mapping[str, str], column: str) -> float | None:
    text = row.get(column, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"the {column} {text!r} is not a number of seconds")
    return value


def _row_problem(row: Mapping[str, str], start: float | None, end: float | None) -> str | None:
    if not row["path"]:
        return "the path is empty"
    if not row.get("split"):
        return "the split is empty"
    if not _SPLIT_NAME.fullmatch(row["split"]):
        return f"the split {row['split']!r} is not a plain name such as train, dev, test"
    if end is not None and end <= (start or 0.0):
        return f"the end, {end:g} s, is not after the start, {start or 0.0:g} s"
    return None
