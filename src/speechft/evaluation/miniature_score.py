"""The miniature SUPERB score: places between two fixed points of the embedded corpus."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np

from speechft.belonging import side_by_side
from speechft.config import Config
from speechft.data.manifest import Corpus
from speechft.results import ResultRow, mean_over_seeds, of_all_layers
from speechft.tasks import find_task


class Anchor(Config):
    """The two fixed points of a task's score."""

    floor: float
    """Metric of MFCC features under the same protocol."""
    ceiling: float
    """Metric of an encoder of the same size trained as a whole on the probe's data."""


class Anchors(Config):
    """Fixed points of the miniature SUPERB score, committed before any fine-tuning."""

    version: str
    """Name of this set."""
    corpus: str
    """Digest of the embedded corpus' specification that they were measured on."""
    protocol: str
    """Protocol that they were measured with."""
    start: str = ""
    """Digest of the encoder whose weights the toplines started from."""
    tasks: dict[str, Anchor]
    """By task."""


def load_anchors() -> Anchors:
    """Return the packaged anchors of the embedded corpus."""
    text = (resources.files("speechft") / "assets" / "anchors.json").read_text(encoding="utf-8")
    return Anchors.model_validate(json.loads(text))


def miniature_score(figures: Mapping[str, float], anchors: Anchors) -> float | None:
    """Return 1000 times the mean of (x - floor) / (ceiling - floor) over the anchored tasks.

    The form of SUPERB_S (Speech-FT, equations 4 and 5), not clipped, with our own anchors.

    Args:
        figures: Metric by task.
        anchors: Fixed points.

    Returns:
        The score, or None when a task is missing or nothing is anchored.
    """
    if not anchors.tasks or not set(anchors.tasks) <= set(figures):
        return None
    parts = [
        (figures[task] - anchor.floor) / (anchor.ceiling - anchor.floor)
        for task, anchor in anchors.tasks.items()
    ]
    return 1000.0 * float(np.mean(parts))


def scores(rows: Sequence[ResultRow], evaluated: Mapping[str, Corpus]) -> dict[str, float | None]:
    """Return the miniature SUPERB score by encoder; None where the anchors do not apply.

    Args:
        rows: Figures.
        evaluated: The corpus of each task.
    """
    anchors = load_anchors()
    figures: dict[str, dict[str, float]] = {}
    for row in mean_over_seeds(of_all_layers(side_by_side(rows).rows)):
        if row.metric == find_task(row.task).metric:
            figures.setdefault(row.encoder, {})[row.task] = row.value
    fits = all(corpus.info.get("spec") == anchors.corpus for corpus in evaluated.values())
    fits = fits and all(row.protocol == anchors.protocol for row in rows)
    return {n: miniature_score(values, anchors) if fits else None for n, values in figures.items()}
