"""Corpora that work was done on: kept beside its results, and found again wherever they lie now."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechft.data.corpora import embedded
from speechft.data.manifest import CORPUS_FILE, Corpus, open_corpus
from speechft.errors import CheckpointError, SpeechftError
from speechft.naming import masked
from speechft.storage.files import cache_folder, read_json, write_json
from speechft.storage.remote import is_address, is_asked

CORPORA_FILE = "corpora.json"
_AROUND = 4
"""Folders that may have the manifests of a run below them: the work's own, and those around it."""


@dataclass(frozen=True)
class Recorded:
    """What a folder tells of a corpus that its work read."""

    name: str | None
    """None where an earlier version left no more than the digest."""
    digest: str
    place: str | None = None
    """Where it lies now, as `find_corpus` takes it; None where it is not found."""

    @property
    def told(self) -> str:
        """Return what it is called in messages."""
        return f"{self.name or 'a corpus'} (digest {self.digest[:12]})"


def write_corpora(path: Path, corpora: Iterable[Corpus], folder: Path) -> None:
    """Write which corpora were read: names, digests and places.

    Args:
        path: The file.
        corpora: They.
        folder: Where the file will lie; places are also kept relative to it.
    """
    write_json(path, [_entry(one, folder) for one in {c.digest: c for c in corpora}.values()])


def _entry(corpus: Corpus, folder: Path) -> dict[str, str]:
    told = {"name": corpus.name, "digest": corpus.digest, "place": masked(corpus.place)}
    if corpus.url is None:
        told["relative"] = os.path.relpath(corpus.folder.resolve(), folder.resolve())
    return told


def find_again(folder: Path, digest: str) -> Recorded:
    """Return the corpus of a digest that work in a folder was done on.

    Looked for are: the place that the folder records, relative to it (both may have been moved) and
    as it was; manifests that the same command made, beside the work; corpora in the cache. What
    lies there counts if its digest is the same. Embedded ones are else generated, by their name.

    Args:
        folder: With what `write_corpora` wrote; earlier versions wrote nothing.
        digest: Of the corpus.
    """
    known = next((one for one in _recorded(folder) if one.get("digest") == digest), {})
    name = known.get("name") if isinstance(known.get("name"), str) else None
    for place in _places(folder, known):
        try:
            found = open_corpus(place)
        except (SpeechftError, OSError, ValueError):
            continue
        if found.digest == digest:
            return Recorded(found.name, digest, place)
    return Recorded(name, digest, name if name in embedded.CARDS else None)


def _recorded(folder: Path) -> list[dict[str, Any]]:
    try:
        content = read_json(folder / CORPORA_FILE)
    except CheckpointError:
        return []
    return [one for one in content if isinstance(one, dict)] if isinstance(content, list) else []


def _places(folder: Path, known: dict[str, Any]) -> Iterator[str]:
    relative, place = known.get("relative"), known.get("place")
    if isinstance(relative, str):
        yield str((folder / relative).resolve())
    if isinstance(place, str) and (not is_address(place) or is_asked(place)):
        yield place  # a file does not decide which servers are asked
    around = [folder, *folder.resolve().parents][:_AROUND]
    for home in around:
        yield from (str(file.parent) for file in sorted(home.glob(f"corpus*/{CORPUS_FILE}")))
    yield from (str(file.parent) for file in sorted(cache_folder().glob(f"*/{CORPUS_FILE}")))
