"""Targets of pre-training: the cluster of every frame by cut id, on disk, never in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from speechft.data.batching import seed_of
from speechft.errors import DataError
from speechft.storage.disk import open_regular
from speechft.storage.files import atomic_write

CLUSTERS_NAME, _PLACES_NAME, _KEYS_NAME = "clusters.i16", "places.npy", "keys.npy"

Counts = npt.NDArray[np.int64]


class RowFile:
    """Rows of one width in a file that several processes fill, each at places of its own.

    Written rows go to the file and are forgotten; what is read is mapped.

    Args:
        path: The file.
        kind: Type of the numbers.
        width: Numbers in a row.
    """

    def __init__(self, path: Path, kind: Any, width: int) -> None:
        self.path, self._kind, self._width = path, np.dtype(kind), width
        self._row = self._kind.itemsize * width
        self._descriptor: int | None = None

    def make(self, rows: int) -> None:
        """Make the file with room for so many rows; one process does it, before any writes."""
        with open(self.path, "wb") as file:
            file.truncate(rows * self._row)

    def write(self, first: int, rows: npt.NDArray[Any]) -> None:
        """Write (n, width) rows from the first place on."""
        if self._descriptor is None:
            self._descriptor = open_regular(self.path, os.O_WRONLY, follow=False)
        left = np.ascontiguousarray(rows, self._kind).data.cast("B")
        place = first * self._row
        while left:
            written = os.pwrite(self._descriptor, left, place)
            left, place = left[written:], place + written

    def close(self) -> None:
        """Have what this process wrote on the disk, where the others find it."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def rows(self, count: int) -> Any:
        """Return the first rows, (count, width), mapped."""
        return np.memmap(self.path, self._kind, "r", shape=(count, self._width))


class TargetFiles:
    """The targets of a corpus, read from a folder as they are asked for.

    ``clusters.i16`` holds them one after the other, ``keys.npy`` the sorted digests of the cuts'
    ids and ``places.npy`` where each begins and ends: pages that the system may take back, whatever
    the corpus. ``keys.npy`` is written last.
    """

    def __init__(self, folder: Path) -> None:
        self._keys = np.load(folder / _KEYS_NAME, mmap_mode="r")
        self._places = np.load(folder / _PLACES_NAME, mmap_mode="r")
        self._clusters = np.memmap(folder / CLUSTERS_NAME, np.int16, "r")

    def __getitem__(self, name: str) -> npt.NDArray[np.int16]:
        """Return the cluster of each frame of a cut, (T,)."""
        key = seed_of(name)
        number = int(np.searchsorted(self._keys, key))
        if number == len(self._keys) or self._keys[number] != key:
            raise KeyError(name)
        start, end = self._places[number].tolist()
        return np.array(self._clusters[start:end])


def are_whole(folder: Path) -> bool:
    """Return whether a folder holds the targets of a corpus, complete."""
    return (folder / _KEYS_NAME).is_file()


def write_index(folder: Path, names: Iterable[str], counts: Counts) -> None:
    """Say where the targets of which cut lie: they are complete then.

    Args:
        folder: Of the targets.
        names: Ids of the N cuts, in the order in which their targets lie.
        counts: (N,) frames of each.

    Raises:
        DataError: Two cuts have one id.
    """
    keys = np.fromiter((seed_of(name) for name in names), np.int64, len(counts))
    order = np.argsort(keys)
    if (np.diff(keys[order]) == 0).any():
        raise DataError("two utterances have the same id", hint="prepare the corpus again")
    ends = np.cumsum(counts)
    places = np.stack([ends - counts, ends], axis=1)
    for name, array in ((_PLACES_NAME, places[order]), (_KEYS_NAME, keys[order])):
        with atomic_write(folder / name) as file:
            np.save(file, array)
