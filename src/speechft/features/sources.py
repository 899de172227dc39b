"""Finds the audio to extract features of: files, folders, tables and manifests as named cuts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from speechft.arguments import Paths, texts_of
from speechft.commands import command
from speechft.console import warn
from speechft.data.columns import Naming
from speechft.data.containers import AUDIO_SUFFIXES
from speechft.data.corpora.kaldi import SCP, is_of_kaldi
from speechft.data.corpora.reading import Reading
from speechft.data.corpora.settings import place_and_settings
from speechft.data.cuts import read_cuts
from speechft.data.folders import locate, look_below
from speechft.data.inspection import inspect
from speechft.data.issues import check_not_refused
from speechft.data.manifest import CORPUS_FILE, Corpus, open_corpus
from speechft.data.segments import Segment, segment_of
from speechft.data.tables import is_manifest, is_table, read_table
from speechft.data.utterances import Utterance, to_cut
from speechft.errors import ConfigError, DataError
from speechft.storage.copies import copied_file
from speechft.storage.documents import is_plain
from speechft.storage.files import file_digest, json_digest
from speechft.storage.remote import address_of, is_address, parted

if TYPE_CHECKING:
    from lhotse.cut import Cut

_MANIFESTS = (".jsonl.gz", ".json.gz", ".yaml", ".yml")


@dataclass
class Sources:
    """Cuts by the relative path, without suffix, that their features get."""

    cuts: dict[str, Cut] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """What is wrong with the files that cannot be used, by path."""
    manifests: dict[str, str] = field(default_factory=dict)
    """Of cuts whose audio lies at an address, the digest of the manifest that names it: what is
    known of the audio without asking a server for each."""


def find_sources(arguments: Paths) -> Sources:
    """Find everything that the arguments name and read the headers.

    A file or folder of audio gives paths relative to the common parent of all of them; two files
    that differ in their suffix only keep it. Rows of a table (see `speechft.data.tables`) are
    files; a row with start and end, or a channel, has these in its name. Cuts of a lhotse manifest
    go by their id, those of a prepared corpus by split and id. A recording, a lhotse manifest or a
    prepared corpus may lie at an address.

    Raises:
        DataError: A manifest or table cannot be read, names collide, or there is nothing.
    """
    sources = Sources()
    files: dict[Path, list[Segment]] = {}
    parents: list[Path] = []
    for text in texts_of(arguments):
        if (address := address_of(text)) is None:
            place, settings = place_and_settings(text)
            path = Path(os.path.abspath(Path(os.path.expanduser(place))))
        elif Path(address).suffix.lower() in AUDIO_SUFFIXES:
            path, settings = copied_file(address), []
        else:
            _add_address(sources, address)
            continue
        if settings and not is_table(path):
            raise DataError(
                f"{path} takes no settings ({'&'.join(settings)}): they name columns of a table"
            )
        if not is_plain(str(path)):
            raise DataError(f"the name {str(path)!r} is not UTF-8", hint="rename it")
        if path.is_dir() and (path / CORPUS_FILE).is_file():
            _add_corpus(sources, open_corpus(path))
        elif path.is_dir():
            check_not_refused(path)
            below = look_below(path)
            if not below.audio:
                if any(p.name == SCP for p in below.others):
                    raise _kaldi_error(path)
                raise DataError(
                    f"folder {path} holds no audio; looked for {' '.join(sorted(AUDIO_SUFFIXES))}"
                )
            for file in below.audio:
                files.setdefault(file, []).append(Segment())
            parents.append(path)
        elif path.is_file() and (path.name.endswith(_MANIFESTS) or _is_manifest(path)):
            _add_manifest(sources, path)
        elif is_of_kaldi(path):
            raise _kaldi_error(path)
        elif path.suffix.lower() == ".parquet" and path.is_file():
            raise DataError(
                f"{path} is parquet, whose audio has no files",
                hint=f"{command('prepare', 'generic', path, out='DIR')}, then give DIR",
            )
        elif is_table(path):
            for file, segment in _read_rows(path, sources.problems, _naming(settings)):
                files.setdefault(file, []).append(segment)
                parents.append(file.parent)
        else:
            files.setdefault(path, []).append(Segment())
            parents.append(path.parent)
    for name, file in _named(list(files), parents).items():
        for part in dict.fromkeys(files[file]):
            suffix = _suffix(part)
            try:
                cut = audio_cut(name, file, part)
            except DataError as error:
                sources.problems[f"{file} ({suffix[1:]})" if suffix else str(file)] = error.message
            else:
                _add(sources, name + suffix, cut)
    return sources


def _kaldi_error(path: Path) -> DataError:
    return DataError(
        f"{path} is of Kaldi, whose recordings a corpus names",
        hint=f"{command('prepare', 'generic', path, out='DIR')}, then give DIR",
    )


def _add_address(sources: Sources, address: str) -> None:
    """Add the cuts of a lhotse manifest or a prepared corpus at an address."""
    home, name = parted(address)
    if name.endswith((*_MANIFESTS, ".jsonl")):
        _add_manifest(sources, copied_file(address), home)
    else:
        _add_corpus(sources, open_corpus(address))


def _suffix(part: Segment) -> str:
    """Return what the name of a segment adds to that of its file: milliseconds and channel."""
    text = "" if part.channel is None else f"-channel{part.channel}"
    if part.start is None and part.end is None:
        return text
    end = "end" if part.end is None else f"{round(1000 * part.end):07d}"
    return f"-{round(1000 * (part.start or 0.0)):07d}-{end}{text}"


def audio_cut(name: str, path: Path, part: Segment | None = None) -> Cut:
    """Return the cut of an audio file, or of a part of it.

    Raises:
        DataError: It does not exist, is not audio, is empty or cut off, or has no such part.
    """
    part = part or Segment()
    found = inspect(path, part.start, part.end, channel=part.channel, samples=False)
    for kind, problem in found.problems:
        if kind == "length-differs":
            warn(f"{path}: {problem}")
        elif kind == "zero-length":
            raise DataError("is empty")
        elif kind != "too-short":  # the encoder says what is too short for it
            raise DataError(f"is {problem}" if problem.startswith("not ") else problem)
    header = found.header
    assert header is not None  # else there was a problem
    segment = found.samples != header.samples
    return to_cut(
        Utterance(
            name + _suffix(part),
            str(path),
            found.samples,
            header.sample_rate,
            header.channels,
            channel=part.channel,
            offset=found.offset if segment else 0,
            recording_samples=header.samples if segment else 0,
        )
    )


def _named(files: Sequence[Path], parents: Sequence[Path]) -> dict[str, Path]:
    """Return files by their path relative to the common parent, without the suffix if unique."""
    if not files:
        return {}
    root = Path(os.path.commonpath(parents))
    stems = Counter(file.with_suffix("") for file in files)
    return {
        (file if stems[file.with_suffix("")] > 1 else file.with_suffix(""))
        .relative_to(root)
        .as_posix(): file
        for file in files
    }


def _is_manifest(path: Path) -> bool:
    return path.suffix.lower() in (".jsonl", ".json") and is_manifest(path)


def _naming(settings: Sequence[str]) -> Naming:
    """Return what columns mean; all rows are read, so that nothing else can be set.

    Raises:
        ConfigError: A setting speaks of splits.
    """
    reading = Reading.of(settings)
    if replace(reading, splits="", draw="", disjoint_speakers=False) != reading:
        raise ConfigError(
            f"{'&'.join(settings)} speaks of splits, and here all rows of a table are read",
            hint="settings are columns: path, start, end, duration, channel",
        )
    return reading.naming


def _read_rows(
    path: Path, problems: dict[str, str], naming: Naming
) -> Iterator[tuple[Path, Segment]]:
    table = read_table(path, naming=naming)
    for number, (place, problem) in enumerate(table.problems, 1):
        problems[f"{place or 'a row'} ({number} of {path})"] = problem
    for row, line in zip(table.rows, table.lines.values().tolist(), strict=True):
        try:
            segment = segment_of(row)
        except ValueError as error:
            problems[f"{row['path']} ({path}, line {line})"] = str(error)
            continue
        if row["path"]:
            yield locate(path.parent, row["path"]), segment
        else:
            problems[f"{path}, line {line}"] = "the path is empty"


def _add_corpus(sources: Sources, corpus: Corpus) -> None:
    for split in corpus.statistics:
        _add_cuts(sources, corpus.split(split), split, corpus.split_digest(split))


def _add_manifest(sources: Sources, path: Path, home: str = "") -> None:
    cuts = read_cuts(path, sources.problems, home)
    _add_cuts(sources, cuts, "", json_digest([home, file_digest(path)]))


def _add_cuts(sources: Sources, cuts: Iterable[Cut], folder: str, digest: str) -> None:
    for cut in cuts:
        name = PurePosixPath(folder, cut.id)
        if name.is_absolute() or ".." in name.parts:
            raise DataError(f"the id {cut.id!r} cannot be the name of a file of features")
        _add(sources, str(name), cut)
        if is_address(str(cut.recording.sources[0].source)):
            sources.manifests[str(name)] = digest


def _add(sources: Sources, name: str, cut: Cut) -> None:
    if name in sources.cuts:
        raise DataError(
            f"two items would write their features to {name!r}",
            hint="extract them in separate runs, or give the folder that holds both",
        )
    sources.cuts[name] = cut
