"""The user's own recordings: a CSV with path, split and any of text, phones, speaker, label."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path

import soundfile

from speechft.checkpoint import file_digest, json_digest, write_text
from speechft.console import progress_bar, warn
from speechft.data.manifest import Corpus, Utterance, open_corpus, write_corpus
from speechft.errors import DataError
from speechft.runs import stage

_REQUIRED = ("path", "split")
_KNOWN = ("text", "phones", "speaker")
_MIN_SECONDS = 0.05
_SPLIT_NAME = re.compile(r"\w[\w.-]*")


def prepare(csv_path: Path, folder: Path) -> Corpus:
    """Turn a CSV of recordings into a corpus.

    Columns: ``path`` (relative to the CSV or absolute, any format and rate that libsndfile reads),
    ``split`` (train, dev, test), and any of ``text``, ``phones`` (separated by spaces),
    ``speaker``, ``label``; further columns become labels of their own name. Recordings that cannot
    be used are left out, counted, and named in ``issues.tsv``.

    Args:
        csv_path: The table.
        folder: Where the manifests go.

    Raises:
        DataError: The table cannot be read, lacks a column, or nothing in it can be used.
    """
    rows = _read(csv_path)
    audio = [_resolve(csv_path, row["path"]) for row in rows]
    inputs = {"csv": file_digest(csv_path), "audio": json_digest([_stamp(p) for p in audio])}
    with stage(folder, name="corpus", config={"csv": csv_path.name}, inputs=inputs) as work:
        if not work.done:
            splits, issues = _collect(rows, audio)
            _report(issues, len(rows), work.scratch / "issues.tsv")
            if not any(splits.values()):
                raise DataError(
                    f"none of the {len(rows)} recordings in {csv_path} can be used; the first: "
                    f"{issues[0][0]}: {issues[0][1]}"
                )
            digest = json_digest(inputs)
            write_corpus(work.scratch, csv_path.stem, digest, splits, {"licence": "the user's own"})
    return open_corpus(folder)


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = [{k.strip(): (v or "").strip() for k, v in row.items() if k} for row in reader]
            columns = [name.strip() for name in reader.fieldnames or [] if name]
    except FileNotFoundError:
        raise DataError(f"corpus table {path} does not exist") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"corpus table {path} cannot be read: {error}") from None
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise DataError(
            f"corpus table {path} lacks the column {', '.join(missing)}; "
            f"it has: {', '.join(columns)}",
            hint="columns are path, split and any of text, phones, speaker, label",
        )
    if not rows:
        raise DataError(f"corpus table {path} has no rows")
    return rows


def _resolve(csv_path: Path, text: str) -> Path:
    path = Path(text).expanduser()
    return (path if path.is_absolute() else csv_path.parent / path).resolve()


def _stamp(path: Path) -> list[str | int]:
    """Return what tells whether a recording is still the same, without reading it."""
    if not path.is_file():
        return [str(path)]
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


def _collect(
    rows: list[dict[str, str]], audio: list[Path]
) -> tuple[dict[str, list[Utterance]], list[tuple[str, str]]]:
    """Return utterances by split, and (path, what is wrong) of those that cannot be used."""
    splits: dict[str, list[Utterance]] = defaultdict(list)
    issues: list[tuple[str, str]] = []
    seen: set[Path] = set()
    with progress_bar("reading headers", len(rows)) as bar:
        for number, (row, path) in enumerate(zip(rows, audio, strict=True)):
            bar.advance()
            try:
                if path in seen:
                    raise DataError("listed twice")
                utterance = _utterance(number, row, path)
            except DataError as error:
                issues.append((row["path"], error.message))
            else:
                splits[row["split"]].append(utterance)
                seen.add(path)
    return dict(splits), issues


def _utterance(number: int, row: dict[str, str], path: Path) -> Utterance:
    if not row["path"]:
        raise DataError("the path is empty")
    if not row["split"]:
        raise DataError("the split is empty")
    if not _SPLIT_NAME.fullmatch(row["split"]):
        raise DataError(f"the split {row['split']!r} is not a plain name such as train, dev, test")
    try:
        with soundfile.SoundFile(path) as file:
            samples, rate, channels = file.frames, file.samplerate, file.channels
    except (OSError, RuntimeError, TypeError) as error:  # headerless formats give a TypeError
        reason = "does not exist" if not path.exists() else f"not readable as audio ({error})"
        raise DataError(reason) from None
    if samples / rate < _MIN_SECONDS:
        raise DataError(f"{samples} samples at {rate} Hz are too short or empty")
    labels = {k: v for k, v in row.items() if v and k not in (*_REQUIRED, *_KNOWN)}
    return Utterance(
        id=f"{number:07d}-{path.stem}",
        path=str(path),
        samples=samples,
        sample_rate=rate,
        channels=channels,
        text=row.get("text") or None,
        speaker=row.get("speaker") or None,
        phones=[(phone, 0.0, 0.0) for phone in row.get("phones", "").split()],
        labels=labels,
    )


def _report(issues: list[tuple[str, str]], total: int, path: Path) -> None:
    write_text(path, "path\tproblem\n" + "".join(f"{p}\t{problem}\n" for p, problem in issues))
    if issues:
        first = "; ".join(f"{p}: {problem}" for p, problem in issues[:3])
        warn(f"{len(issues)} of {total} recordings are left out (see issues.tsv): {first}")
