"""Random crops of recordings, drawn once and recorded, for protocols that train on some."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechft.data.batching import seed_of
from speechft.files import atomic_write
from speechft.tasks.base import Task

if TYPE_CHECKING:
    from lhotse.cut import Cut

_MARK = "#crop"


def cropped(
    task: Task, cuts: Sequence[Cut], seconds: float | None, count: int, seed: int
) -> list[Cut]:
    """Return ``count`` random crops of every cut that is longer; shorter ones as they are.

    Args:
        task: Says which cuts may be cropped.
        cuts: What to crop.
        seconds: Length of a crop; None crops nothing.
        count: Crops of a cut.
        seed: Seed of their places.
    """
    if seconds is None:
        return list(cuts)
    result: list[Cut] = []
    for cut in cuts:
        if cut.duration <= seconds + 0.01 or not task.croppable(cut):
            result.append(cut)
            continue
        places = round((cut.duration - seconds) * cut.sampling_rate) + 1
        for number in range(count):
            start = seed_of(seed, "crop", number, cut.id) % places / cut.sampling_rate
            part = cut.truncate(offset=start, duration=seconds)
            result.append(part.with_id(f"{cut.id}{_MARK}{number}"))
    return result


def crop_variants(cuts: Sequence[Cut]) -> dict[str, list[int]]:
    """Return the numbers of the cuts that are crops of the same one, by its id."""
    groups: dict[str, list[int]] = {}
    for number, cut in enumerate(cuts):
        groups.setdefault(cut.id.partition(_MARK)[0], []).append(number)
    return groups if len(groups) < len(cuts) else {}


def write_crops(path: Path, cuts: Iterable[Cut]) -> None:
    """Write a JSON line ``{id, start, duration}`` for every crop; nothing if there is none."""
    crops = [cut for cut in cuts if _MARK in cut.id]
    if not crops:
        return
    with atomic_write(path) as file:
        for cut in crops:
            line = {"id": cut.id, "start": cut.start, "duration": cut.duration}
            file.write((json.dumps(line) + "\n").encode())
