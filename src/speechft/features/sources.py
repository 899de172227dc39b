"""Finds the audio to extract features of: files, folders, tables and manifests as named cuts."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from speechft.console import warn
from speechft.data.manifest import CORPUS_FILE, Utterance, open_corpus, to_cut
from speechft.errors import DataError

if TYPE_CHECKING:
    from lhotse.cut import Cut

AUDIO_SUFFIXES = frozenset(
    ".aif .aifc .aiff .au .caf .flac .mp3 .nist .oga .ogg .opus .snd .sph .w64 .wav".split()
)
"""What is taken from folders; a file that is named may have any suffix."""

_MANIFESTS = (".jsonl", ".jsonl.gz")


@dataclass
class Sources:
    """Cuts by the relative path, without suffix, that their features get."""

    cuts: dict[str, Cut] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """What is wrong with the files that cannot be used, by path."""


def find_sources(arguments: Sequence[str | Path]) -> Sources:
    """Find everything that the arguments name and read the headers.

    A file or folder of audio gives paths relative to the common parent of all of them; two files
    that differ in their suffix only keep it. Rows of a CSV with a column ``path`` are files. Cuts
    of a lhotse manifest go by their id, those of a prepared corpus by split and id.

    Raises:
        DataError: A manifest or table cannot be read, names collide, or there is nothing.
    """
    sources = Sources()
    files: dict[Path, None] = {}
    parents: list[Path] = []
    for path in (Path(os.path.abspath(Path(text).expanduser())) for text in arguments):
        if path.is_dir() and (path / CORPUS_FILE).is_file():
            corpus = open_corpus(path)
            for split in corpus.statistics:
                _add_cuts(sources, corpus.split(split), split)
        elif path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
            if not found:
                raise DataError(
                    f"folder {path} holds no audio; looked for {' '.join(sorted(AUDIO_SUFFIXES))}"
                )
            files |= dict.fromkeys(p for p in found if p.is_file())
            parents.append(path)
        elif path.name.endswith(_MANIFESTS) and path.is_file():
            _add_cuts(sources, _read_manifest(path), "")
        elif path.suffix == ".csv" and path.is_file():
            listed = list(_read_table(path))
            files |= dict.fromkeys(listed)
            parents += [p.parent for p in listed]
        else:
            files[path] = None
            parents.append(path.parent)
    for name, file in _named(list(files), parents).items():
        try:
            cut = audio_cut(name, file)
        except DataError as error:
            sources.problems[str(file)] = error.message
        else:
            _add(sources, name, cut)
    return sources


def audio_cut(name: str, path: Path) -> Cut:
    """Return the cut of an audio file as its header describes it.

    Raises:
        DataError: It does not exist, is not audio, or is empty.
    """
    from speechft.data.audio import read_header
    from speechft.data.inspection import unreadable

    try:
        header = read_header(path)
    except DataError as error:
        reason = error.message
        if reason != "does not exist":
            reason = unreadable(reason)
        raise DataError(f"is {reason}" if reason.startswith("not ") else reason) from None
    if header.samples == 0:
        raise DataError("is empty")
    if header.cut_off:
        raise DataError(header.cut_off)
    if header.remark:
        warn(f"{path}: {header.remark}")
    return to_cut(Utterance(name, str(path), header.samples, header.sample_rate, header.channels))


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


def _read_manifest(path: Path) -> Iterator[Cut]:
    from lhotse import load_manifest

    try:
        manifest = load_manifest(path)
        cuts = manifest if hasattr(manifest, "trim_to_supervisions") else manifest.to_cuts()
        for cut in cuts:
            absolute = Path(cut.recording.sources[0].source).is_absolute()
            yield cut if absolute else cut.with_recording_path_prefix(path.parent)
    except Exception as error:  # gzip, json and lhotse raise many kinds
        raise DataError(
            f"manifest {path} cannot be read: {error or type(error).__name__}",
            hint="expected are cuts or recordings as lhotse writes them",
        ) from None


def _read_table(path: Path) -> Iterator[Path]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                text = (row.get("path") or "").strip()
                if not text:
                    raise DataError(f"table {path} has a row without a path, or no column 'path'")
                yield Path(os.path.abspath(path.parent / Path(text).expanduser()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"table {path} cannot be read: {error}") from None


def _add_cuts(sources: Sources, cuts: Iterable[Cut], folder: str) -> None:
    for cut in cuts:
        name = PurePosixPath(folder, cut.id)
        if name.is_absolute() or ".." in name.parts:
            raise DataError(f"the id {cut.id!r} cannot be the name of a file of features")
        _add(sources, str(name), cut)


def _add(sources: Sources, name: str, cut: Cut) -> None:
    if name in sources.cuts:
        raise DataError(
            f"two items would write their features to {name!r}",
            hint="extract them in separate runs, or give the folder that holds both",
        )
    sources.cuts[name] = cut
