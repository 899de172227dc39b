"""Random crops of recordings, drawn once and recorded, for protocols that train on some."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from speechft.data.batching import seed_of
from speechft.data.kept_cuts import Cuts, kept_alike
from speechft.storage.files import atomic_write
from speechft.storage.scratch import Column, Names
from speechft.tasks.base import Task

if TYPE_CHECKING:
    from lhotse.cut import Cut

_MARK = "#crop"


def cropped(
    task: Task, cuts: Sequence[Cut], seconds: float | None, count: int, seed: int
) -> Sequence[Cut]:
    """Return ``count`` random crops of every cut that is longer; shorter ones as they are.

    Args:
        task: Says which cuts may be cropped.
        cuts: What to crop.
        seconds: Length of a crop; None crops nothing.
        count: Crops of a cut.
        seed: Seed of their places.
    """
    return cuts if seconds is None else kept_alike(_crops(task, cuts, seconds, count, seed), cuts)


def _crops(task: Task, cuts: Sequence[Cut], seconds: float, count: int, seed: int) -> Iterator[Cut]:
    for cut in cuts:
        if cut.duration <= seconds + 0.01 or not task.croppable(cut):
            yield cut
            continue
        places = round((cut.duration - seconds) * cut.sampling_rate) + 1
        for number in range(count):
            start = seed_of(seed, "crop", number, cut.id) % places / cut.sampling_rate
            part = cut.truncate(offset=start, duration=seconds)
            yield part.with_id(f"{cut.id}{_MARK}{number}")


@dataclass(frozen=True)
class Variants:
    """Which cuts are crops of the same one."""

    numbers: npt.NDArray[np.int64]
    """Of the cuts, those of one recording after those of another."""
    starts: npt.NDArray[np.int64]
    """Where in ``numbers`` each recording begins."""
    counts: npt.NDArray[np.int64]
    """How many each has."""

    def of_epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return a cut of each recording, all in turn."""
        found: npt.NDArray[np.int64] = self.numbers[self.starts + epoch % self.counts]
        return found


def crop_variants(cuts: Cuts) -> Variants | None:
    """Return which cuts are crops of the same one; None where all are whole."""
    recordings, recording_of = Names(), Column()
    for name in cuts.ids:
        recording_of.add(recordings.add(name.partition(_MARK)[0]))
    if len(recordings) == len(cuts):
        return None
    of = recording_of.values()
    counts = np.bincount(of)
    return Variants(np.argsort(of, kind="stable"), np.cumsum(counts) - counts, counts)


def write_crops(path: Path, cuts: Iterable[Cut]) -> None:
    """Write a JSON line ``{id, start, duration}`` for every crop; nothing if there is none."""
    crops = (cut for cut in cuts if _MARK in cut.id)
    if (first := next(crops, None)) is None:
        return
    with atomic_write(path) as file:
        for cut in itertools.chain([first], crops):
            line = {"id": cut.id, "start": cut.start, "duration": cut.duration}
            file.write((json.dumps(line) + "\n").encode())
