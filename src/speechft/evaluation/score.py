"""Uncertainty and scores: bootstrap intervals, paired differences, the miniature SUPERB score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
import numpy.typing as npt

from speechft.config import Config
from speechft.tasks.base import Item

_DRAWS = 2000


def bootstrap_interval(
    items: Sequence[Item], *, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Return the percentile interval of a metric over resampled items, in percent.

    Item uncertainty only: the encoder, its tuning and its probe are taken as given.

    Args:
        items: Of one encoder on one task.
        level: Share of the distribution inside the interval.
        seed: Seed of the resampling.
    """
    if len(items) < 2:
        return None
    amounts, totals = _arrays(items)
    values = _resampled(amounts, totals, seed)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    first: Sequence[Item], second: Sequence[Item], *, level: float = 0.90, seed: int = 0
) -> tuple[float, float, float]:
    """Return (difference, low, high) of ``first`` minus ``second`` on the same items, in points.

    Both are resampled with the same draws, so that the difficulty of items cancels.

    Args:
        first: Items of one encoder.
        second: Items of another on the same utterances.
        level: Share of the distribution inside the interval.
        seed: Seed of the resampling.

    Raises:
        ValueError: The utterances are not the same.
    """
    if [item.id for item in first] != [item.id for item in second]:
        raise ValueError("paired comparison needs the same utterances in the same order")
    one, two = _arrays(first), _arrays(second)
    difference = 100 * (one[0].sum() / one[1].sum() - two[0].sum() / two[1].sum())
    values = _resampled(*one, seed) - _resampled(*two, seed)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(difference), float(low), float(high)


class Anchor(Config):
    """The two fixed points of a task's score."""

    floor: float
    """Metric of MFCC features under the same protocol."""
    ceiling: float
    """Metric of an encoder of the same size trained from scratch on the probe's data."""


class Anchors(Config):
    """Fixed points of the miniature SUPERB score, committed before any fine-tuning."""

    version: str
    """Name of this set."""
    corpus: str
    """Digest of the corpus that they were measured on."""
    protocol: str
    """Protocol that they were measured with."""
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


def _arrays(items: Sequence[Item]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return (
        np.array([item.amount for item in items], dtype=np.float64),
        np.array([item.total for item in items], dtype=np.float64),
    )


def _resampled(
    amounts: npt.NDArray[np.float64], totals: npt.NDArray[np.float64], seed: int
) -> npt.NDArray[np.float64]:
    """Return the metric of ``_DRAWS`` resamples, in percent."""
    count = len(amounts)
    draws = np.random.default_rng(seed).integers(count, size=(_DRAWS, count))
    ratio: npt.NDArray[np.float64] = 100.0 * amounts[draws].sum(1) / totals[draws].sum(1)
    return ratio
