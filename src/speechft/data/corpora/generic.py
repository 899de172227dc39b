"""The user's own recordings: a CSV, a Hugging Face ``audiofolder``, or parquet with audio bytes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from speechft.commands import command
from speechft.console import log, warn
from speechft.data.columns import KNOWN, Naming, as_cells, renamed, unusable
from speechft.data.containers import AUDIO_SUFFIXES
from speechft.data.corpora.base import Draft, Scan, kept_drafts
from speechft.data.corpora.build import Options, build
from speechft.data.corpora.drawing import draw_splits
from speechft.data.corpora.embedded import GENERIC
from speechft.data.corpora.kaldi import SCP, is_of_kaldi, kaldi_files, read_kaldi
from speechft.data.corpora.parquet import read_parquet
from speechft.data.corpora.reading import Reading
from speechft.data.corpora.splits import MEANT, split_of, unread_splits, wanted_splits
from speechft.data.folders import locate, look_below
from speechft.data.issues import Issue, check_not_refused
from speechft.data.kept_items import KeptItems, kept_paths, kept_rows
from speechft.data.manifest import Corpus
from speechft.data.segments import Segment, segment_of
from speechft.data.tables import SUFFIXES, RowTable, is_manifest, is_table, read_table
from speechft.errors import ConfigError, DataError
from speechft.storage.scratch import Names

READER = 2
"""Raised whenever the same table is read otherwise, as what was prepared before is void then."""
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.tsv")
_DESCRIBED = re.compile(r"\[[^\]]*\]|<[^>]*>")
_ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_SPLIT_NAME = re.compile(r"\w[\w.-]*")


@dataclass
class Table:
    """Rows of recordings, wherever they came from."""

    sources: list[Path]
    root: Path
    rows: KeptItems[dict[str, str]] = field(default_factory=kept_rows)
    """Cells by column; ``path`` is as given."""
    audio: KeptItems[Path] = field(default_factory=kept_paths)
    issues: list[Issue] = field(default_factory=list)
    labels: dict[str, None] = field(default_factory=dict)
    """Columns that become labels."""
    dropped: dict[str, None] = field(default_factory=dict)
    """Columns and tables that are not read."""

    def add(self, row: dict[str, str], audio: Path) -> None:
        """Add a recording."""
        self.rows.append(row)
        self.audio.append(audio)

    def tell(self) -> None:
        """Say once what becomes of columns that have no meaning of their own."""
        if self.labels:
            log(f"kept as labels, which tasks may use as label:COLUMN: {', '.join(self.labels)}")
        if self.dropped:
            log(f"not read: {', '.join(self.dropped)}")


def prepare(
    place: Path,
    folder: Path,
    options: Options | None = None,
    reading: Reading | None = None,
) -> Corpus:
    """Turn one's own recordings into a corpus.

    A table (see `speechft.data.tables`) has the columns ``path`` (relative to it or absolute, any
    format and rate that libsndfile reads), ``split`` (train, dev, test), and any of ``start`` and
    ``end`` (seconds, for a segment of a longer recording), ``channel`` (from 0), ``text``,
    ``phones`` (separated by spaces), ``speaker``, ``label``; further columns become labels of their
    own name. A folder is read as Hugging Face's ``audiofolder`` (``metadata.csv`` or ``.jsonl``
    with ``file_name``, or ``split/label/*.wav``), as Common Voice's (``train.tsv`` beside
    ``clips``), as Kaldi's (``wav.scp``), or holds parquet files. Recordings that cannot be used are
    left out, counted, and named in ``issues.tsv``.

    Args:
        place: The table, parquet file or folder.
        folder: Where the manifests go.
        options: How recordings are inspected.
        reading: Which columns and splits are meant.

    Raises:
        ConfigError: A split that is wanted is not there.
        DataError: The table cannot be read, lacks a column, or nothing in it can be used.
    """
    reading = reading or Reading()
    table = read_place(place, folder, reading)
    table.tell()
    scan = scan_of(table)
    if unread := unread_splits(scan.splits):
        warn(
            f"no task reads the splits {unread}; those of tasks are called train, dev and test "
            "(splits=train:THEIRS,... says which is which)"
        )
    if reading.disjoint_speakers:
        scan.disjoint = (("train", "dev", "test"),)
    root = table.root.resolve()
    config = {"place": place.name, "reader": READER, **reading.told()}
    return build(GENERIC, root, scan, folder, options, name=place.stem, config=config)


def read_place(place: Path, folder: Path, reading: Reading) -> Table:
    """Return the recordings of a table, a parquet file or a folder.

    Args:
        place: What the user gives.
        folder: Where audio goes that has no file of its own.
        reading: Which columns and splits are meant.

    Raises:
        ConfigError: A split that is wanted is not there.
        DataError: It cannot be read, lacks a column, or its splits cannot be drawn.
    """
    table = _read(place, folder, reading)
    if reading.splits:
        _choose(table, reading.splits)
    if reading.draw:
        _draw(table, reading.draw, place)
    return table


def _read(place: Path, folder: Path, reading: Reading) -> Table:
    """Read a place; rows without a split are of train where splits are drawn."""
    if is_of_kaldi(place):
        return _kaldi([place.parent], place.parent)
    if place.is_dir():
        if place.resolve() != folder.resolve():  # in place, what was refused is tried again
            check_not_refused(place)
        others = look_below(place).others
        kaldi = [path.parent for path in others if path.name == SCP]
        if kaldi and not any(path.name in _METADATA for path in others):
            reading.naming.check(f"{kaldi[0]}, a folder of Kaldi,", ())
            return _kaldi(kaldi, place)
        parquet = [path for path in others if path.suffix == ".parquet"]
        if parquet:
            return _parquet(parquet, place, folder, reading)
        return _audiofolder(place, reading)
    if place.suffix.lower() == ".parquet":
        return _parquet([place], place.parent, folder, reading)
    if place.suffix.lower() in SUFFIXES and place.is_file() and is_manifest(place):
        raise DataError(
            f"{place} is a lhotse manifest, not a table",
            hint=f"{command('extract', 'ENCODER', place, out='feats')} takes it as it is; as a "
            f"table, write path,split,text of its cuts to {place.stem}.csv",
        )
    named = "train" if reading.draw else split_of(place.stem)
    content = read_table(place, ("path",) if named else ("path", "split"), reading.naming)
    table = Table([place], place.parent)
    _add_rows(table, content, place.parent, lambda _: named or "")
    return table


def _kaldi(folders: list[Path], root: Path) -> Table:
    table = Table([file for folder in folders for file in kaldi_files(folder)], root)
    for folder in folders:
        named = _split_of(folder.relative_to(root) / "x") or split_of(folder.name) or "train"

        def split(_: str, named: str = named) -> str:
            return named

        _add_rows(table, read_kaldi(folder), folder, split)
    return table


def _choose(table: Table, wanted: str) -> None:
    """Keep the rows of the splits that are wanted, called as they are here.

    Raises:
        ConfigError: One that is wanted is not there, or is wanted twice.
    """
    there = Counter(row["split"] for row in table.rows)
    ours: dict[str, str] = {}
    for name, several in wanted_splits(wanted, there).items():
        for theirs in several:
            if ours.setdefault(theirs, name) != name:
                raise ConfigError(
                    f"splits={wanted}: {theirs} is wanted as {ours[theirs]} and as {name}",
                    hint="recordings are of one split; draw=recordings parts them",
                )
    rows, audio = kept_rows(), kept_paths()
    for row, path in zip(table.rows, table.audio, strict=True):
        if row["split"] in ours:
            rows.append({**row, "split": ours[row["split"]]})
            audio.append(path)
    table.rows, table.audio = rows, audio
    others = {split or "no split": count for split, count in there.items() if split not in ours}
    table.dropped |= {f"{count} rows of {split}": None for split, count in others.items()}


def _draw(table: Table, what: str, place: Path) -> None:
    """Draw the dev and test rows that there are none of from those of train.

    Raises:
        DataError: There are dev and test, or no train.
    """
    meant = [MEANT.get(row["split"].lower(), row["split"]) for row in table.rows]
    has = set(meant)
    parts = [part for part in ("test", "dev") if part not in has]
    if not parts or "train" not in has:
        known = ", ".join(sorted(has - {""})[:10])
        raise DataError(
            f"{place} has rows of {known}: drawn are dev and test where there are none, from train",
            hint="leave draw out, or the column split",
        )
    trained = (row for row, split in zip(table.rows, meant, strict=True) if split == "train")
    drawn = iter(draw_splits(trained, what, place.name, parts))
    rows = kept_rows()
    for row, split in zip(table.rows, meant, strict=True):
        rows.append({**row, "split": next(drawn)} if split == "train" else row)
    table.rows = rows


def _add_rows(table: Table, content: RowTable, folder: Path, split: Callable[[str], str]) -> None:
    """Add the rows of a table.

    Args:
        table: Where they go.
        content: The rows.
        folder: What paths are relative to.
        split: From the path of a row without a split to its split.
    """
    for row in content.rows:
        chosen = row.get("split", "") or ("" if "split" in content.columns else split(row["path"]))
        table.add({**row, "split": chosen}, resolve(folder, row["path"]))
    table.issues += [Issue("bad-label", problem, path) for path, problem in content.problems]
    table.labels |= dict.fromkeys(content.labels)
    table.dropped |= {f"{name} of {content.path.name}": None for name in content.dropped}


def resolve(folder: Path, text: str) -> Path:
    """Return the file that a table in ``folder`` means, links followed where they lead to one."""
    found = locate(folder, text)
    return found.resolve() if found.exists() else found


def _audiofolder(root: Path, reading: Reading) -> Table:
    """Read a folder: by its tables, or by the names of its folders."""
    below = look_below(root)
    naming = reading.naming
    chosen, unread = _tables_of(root, below.others, naming)
    table = Table(chosen, root)
    table.dropped |= {str(path.relative_to(root)): None for path in unread}
    for path in chosen:
        named = split_of(path.stem)

        def split(text: str, path: Path = path, named: str | None = named) -> str:
            return named or _split_by_folder(path, text, root) or "train"

        _add_rows(table, read_table(path, naming=naming), path.parent, split)
    if chosen:
        known = set(table.audio)
        for audio in below.audio:
            if audio.resolve() not in known:
                problem = f"{chosen[0].name} does not mention it"
                table.issues.append(Issue("no-label", problem, str(audio), audio.stem))
        return table
    naming.check(f"folder {root} holds no table of recordings, so that it", ())
    for audio in below.audio:
        place = audio.relative_to(root)
        row = {"path": str(place), "split": _split_of(place) or "train"}
        if place.parent.name and split_of(place.parent.name) is None:
            row["label"] = place.parent.name
        table.add(row, audio.resolve() if audio.exists() else audio)
    if not table.rows:
        known_suffixes = ", ".join(sorted(AUDIO_SUFFIXES))
        raise DataError(
            f"folder {root} holds no recordings ({known_suffixes}), no {' or '.join(_METADATA)} "
            "and no parquet"
        )
    return table


def _tables_of(root: Path, files: list[Path], naming: Naming) -> tuple[list[Path], list[Path]]:
    """Return the tables of a folder that are read, and those that are not.

    ``metadata.*`` counts first; then tables that are called after splits (``train.tsv`` of Common
    Voice); then one table alone.

    Raises:
        DataError: Several tables name recordings, and nothing says which is meant.
    """
    metadata = [path for path in files if path.name in _METADATA]
    others = [path for path in files if path not in metadata and is_table(path)]
    if metadata:
        return metadata, others
    speaking = [path for path in others if _names_recordings(path, naming)]
    splits = [path for path in speaking if split_of(path.stem)]
    if splits:
        return splits, [path for path in others if path not in splits]
    if len(speaking) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in speaking)
        raise DataError(
            f"folder {root} holds several tables of recordings: {names}",
            hint="give the one that is meant instead of the folder",
        )
    return speaking, [path for path in others if path not in speaking]


def _names_recordings(path: Path, naming: Naming) -> bool:
    try:
        return bool(read_table(path, naming=naming).rows)
    except DataError:
        return False


def _split_by_folder(metadata: Path, text: str, root: Path) -> str | None:
    """Return the split that the folder of a recording names, or that of its metadata."""
    top, place = (Path(os.path.abspath(path)) for path in (root, metadata.parent / text))
    inside = place.is_relative_to(top) and _split_of(place.relative_to(top))
    return inside or _split_of(metadata.relative_to(root))


def _split_of(place: Path) -> str | None:
    return next((s for part in place.parts[:-1] if (s := split_of(part))), None)


def _parquet(paths: list[Path], root: Path, folder: Path, reading: Reading) -> Table:
    table, naming = Table(paths, root), reading.naming
    for path in paths:
        split = _split_of(path.relative_to(root) / "x") or split_of(path.stem) or "train"
        place = folder / "audio" / path.relative_to(root).with_suffix("")
        for number, (row, audio) in enumerate(read_parquet(path, place, root, naming), 1):
            where = f"{path.name}, row {number}"
            if isinstance(audio, str):
                table.issues.append(
                    Issue("unreadable-audio", f"{where}: {audio}", where, split=split)
                )
                continue
            cells, dropped = as_cells(row)
            dropped += naming.passed(cells)
            table.dropped |= {f"{name} of {path.name}": None for name in dropped}
            cells = {name: cell for name, cell in cells.items() if "path" not in naming.of(name)}
            cells = renamed(cells, f"{path}, row {number}", naming)
            if problem := unusable({**cells, "path": str(audio)}):
                table.issues.append(Issue("bad-label", f"{where}: {problem}", where))
                continue
            table.labels |= {k: None for k in cells if k not in KNOWN and k != "label"}
            table.add({"split": split, **cells, "path": str(audio)}, audio)
    return table


def scan_of(table: Table) -> Scan:
    """Return the utterances of a table by split, and what is wrong with its rows."""
    scan = Scan({}, list(table.issues), sources=table.sources, sample_rate=None)
    scan.missing_allowed = True
    for draft, split in _drafts(table, scan.issues):
        if split not in scan.splits:
            scan.splits[split] = kept_drafts()
        scan.splits[split].append(draft)
    return scan


def _drafts(table: Table, issues: list[Issue]) -> Iterator[tuple[Draft, str]]:
    seen = Names()
    for number, (row, path) in enumerate(zip(table.rows, table.audio, strict=True)):
        name = f"{number:07d}-{path.stem}"
        try:
            part = segment_of(row)
            problem = _row_problem(row, part)
        except ValueError as error:
            part, problem = Segment(), str(error)
        key = f"{path}\n{part.start} {part.end} {part.channel}"
        if problem is None and key in seen:
            issues.append(Issue("listed-twice", "listed twice", row["path"]))
        elif problem is not None:
            issues.append(Issue("bad-label", problem, row["path"]))
        else:
            seen.add(key)
            split = MEANT.get(row["split"].lower(), row["split"])
            text = row.get("text", "")
            if described := _DESCRIBED.findall(text):
                shown = " ".join(described[:3])
                whole = not _DESCRIBED.sub("", text).strip()
                what = "it describes a sound and is left out" if whole else "it is read as words"
                problem = f"the text holds {shown}: {what}"
                issues.append(Issue("bracketed-text", problem, row["path"], name, split))
                text = "" if whole else text
            yield (
                Draft(
                    id=name,
                    path=path,
                    text=text or None,
                    speaker=row.get("speaker") or None,
                    phones=[(phone, 0.0, 0.0) for phone in row.get("phones", "").split()],
                    labels={k: v for k, v in row.items() if v and _is_label(k, part)},
                    start=part.start,
                    end=part.end,
                    channel=part.channel,
                ),
                split,
            )


def _is_label(column: str, part: Segment) -> bool:
    """Return whether a column is kept as a label: a duration too, where it cuts no segment."""
    return column not in KNOWN or (column == "duration" and part.end is None)


def _row_problem(row: Mapping[str, str], part: Segment) -> str | None:
    start, end = part.start or 0.0, part.end
    if not row["path"]:
        return "the path is empty"
    if _ADDRESS.match(row["path"]):
        return "the path is an address: download it and give the file"
    if not row.get("split"):
        return "the split is empty"
    if not _SPLIT_NAME.fullmatch(row["split"]):
        return f"the split {row['split']!r} is not a plain name such as train, dev, test"
    if end is not None and end <= start:
        return f"the end, {end:g} s, is not after the start, {start:g} s"
    return None
