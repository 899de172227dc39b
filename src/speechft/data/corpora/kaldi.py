"""Kaldi data folders: ``wav.scp`` with ``segments``, ``text`` and ``utt2spk``, as rows of a table.

As https://kaldi-asr.org/doc/data_prep.html has them. Entries of ``wav.scp`` that are commands are
left out: nothing that stands in a file is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from speechft.data.tables import RowTable
from speechft.errors import DataError
from speechft.storage.documents import numbered_lines

SCP = "wav.scp"
_FILES = (SCP, "segments", "text", "utt2spk")


def is_of_kaldi(path: Path) -> bool:
    """Return whether a file is one of those of a Kaldi data folder that are read."""
    return path.name in _FILES and (path.parent / SCP).is_file()


def kaldi_files(folder: Path) -> list[Path]:
    """Return the files of a Kaldi data folder that are read."""
    return [folder / name for name in _FILES if (folder / name).is_file()]


def read_kaldi(folder: Path) -> RowTable:
    """Read a Kaldi data folder: a row a segment, or a recording where there are no segments.

    Raises:
        DataError: A file of it cannot be read, or has a line without a value.
    """
    table = RowTable(folder / SCP)
    recordings = _mapping(folder / SCP)
    labels = {"text": _mapping(folder / "text"), "speaker": _mapping(folder / "utt2spk")}
    there = [name for name, values in labels.items() if values]
    segments = (folder / "segments").is_file()
    table.columns = ["path", *(["start", "end"] if segments else []), *there]
    for number, name, recording, times in _utterances(folder, recordings, segments):
        given = recordings.get(recording)
        if given is None:
            table.problems.append((name, f"{SCP} has no recording {recording}"))
        elif given.endswith("|"):
            problem = f"{name} is a command in {SCP}, which is not run: write what it gives to a "
            table.problems.append((name, f"{problem}file, and name that ({given[:80]})"))
        else:
            known = {label: labels[label].get(name, "") for label in there}
            table.rows.append({"path": str(_place(folder, given)), **times, **known})
            table.lines.add(number)
    return table


def _utterances(
    folder: Path, recordings: dict[str, str], segments: bool
) -> Iterator[tuple[int, str, str, dict[str, str]]]:
    """Yield number, utterance, its recording, and start and end as cells."""
    if not segments:
        yield from ((number, name, name, {}) for number, name in enumerate(recordings, 1))
        return
    for number, (name, value) in enumerate(_mapping(folder / "segments").items(), 1):
        cells = value.split()
        if len(cells) != 3:
            raise DataError(
                f"{folder / 'segments'}: {name} has {len(cells)} values",
                hint="expected are recording, start and end in seconds",
            )
        recording, start, end = cells
        times = {"start": start, "end": "" if end == "-1" else end}  # to its end
        yield number, name, recording, times


def _mapping(path: Path) -> dict[str, str]:
    """Return what stands behind the first word of each line; nothing where there is no file."""
    found: dict[str, str] = {}
    if not path.is_file():
        return found
    try:
        for number, line in numbered_lines(path):
            name, *rest = line.decode().split(maxsplit=1)
            if name in found:
                raise ValueError(f"line {number} has {name} again")
            found[name] = " ".join(rest).strip()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} of a Kaldi folder cannot be read: {error}") from None
    return found


def _place(folder: Path, given: str) -> Path:
    """Return the recording that is meant: paths are relative to where the recipe was run."""
    places = [base / given for base in (folder, *list(folder.absolute().parents)[:3], Path.cwd())]
    return next((place for place in places if place.is_file()), places[0])
