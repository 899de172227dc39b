"""Uncertainty: bootstrap intervals and paired differences.

What is drawn is a group of items, such as all of a speaker: items of one speaker are alike, and
drawn one by one they give intervals that are too narrow. Items are drawn one by one only where they
have no groups, and `resampled` says which of the two it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from speechft.tasks.base import Item
from speechft.tasks.measures import Measure, ratio

Floats = npt.NDArray[np.float64]
RATIO = Measure("ratio", True, ratio)
"""The ratio of sums over items, in percent."""

_DRAWS = 2000
_BLOCK = 200
"""Resamples at a time: bounds the memory of large test sets."""


def bootstrap_interval(
    items: Sequence[Item],
    *,
    level: float = 0.95,
    seed: int = 0,
    measure: Measure = RATIO,
    groups: bool = True,
) -> tuple[float, float] | None:
    """Return the percentile interval of a metric over resampled groups of items.

    Uncertainty of the test data only: the encoder, its tuning and its probe are taken as given.

    Args:
        items: Of one encoder on one task.
        level: Share of the distribution inside the interval.
        seed: Seed of the resampling.
        measure: The metric; the ratio of sums in percent.
        groups: Resample groups of items where there are some, else single ones; see `resampled`.

    Returns:
        Both ends; None for fewer than two items.
    """
    values = bootstrap_values(items, seed=seed, measure=measure, groups=groups)
    return None if values is None else _interval(values, level)


def bootstrap_values(
    items: Sequence[Item], *, seed: int = 0, measure: Measure = RATIO, groups: bool = True
) -> Floats | None:
    """Return the metric of 2,000 resamples; arguments as for `bootstrap_interval`."""
    units = _units(items, groups, measure)
    if len(np.unique(units)) < 2:
        return None
    return _resampled([items], units, seed, measure)[0]


def resampled(items: Sequence[Item], measure: Measure = RATIO) -> str:
    """Return what is drawn for an interval, such as ``30 groups`` or ``412 items``.

    Groups are speakers, or what the corpus names itself, or queries; items stand alone where there
    are fewer than two groups. In a closed set, such as the speakers of SID, drawing groups asks how
    the figure would be for other members of the set; which class a new one is, it cannot ask.
    """
    count = len(np.unique(_units(items, True, measure)))
    return f"{count} {'groups' if has_groups(items) or measure.whole_groups else 'items'}"


def has_groups(items: Sequence[Item]) -> bool:
    """Return whether items belong to at least two groups, so that groups can be drawn."""
    return len({item.group for item in items if item.group}) > 1


def hierarchical_interval(
    items_by_seed: Sequence[Sequence[Item]],
    *,
    level: float = 0.95,
    seed: int = 0,
    measure: Measure = RATIO,
    groups: bool = True,
) -> tuple[float, float] | None:
    """Return the interval of the mean over tuning seeds, resampling seeds and then items.

    Args:
        items_by_seed: Items of every seed, on the same utterances.
        level: Share of the distribution inside the interval.
        seed: Seed of the resampling.
        measure: The metric.
        groups: Resample groups of items where there are some.
    """
    values = hierarchical_values(items_by_seed, seed=seed, measure=measure, groups=groups)
    return None if values is None else _interval(values, level)


def hierarchical_values(
    items_by_seed: Sequence[Sequence[Item]],
    *,
    seed: int = 0,
    measure: Measure = RATIO,
    groups: bool = True,
    stream: int = 1,
) -> Floats | None:
    """Return 2,000 resampled means over seeds; see `hierarchical_interval`.

    Values of two encoders on the same items belong together draw by draw; give each another
    ``stream``, so that their seeds are drawn apart.
    """
    drawn = [
        bootstrap_values(items, seed=seed, measure=measure, groups=groups)
        for items in items_by_seed
    ]  # the same draws of items for every seed
    kept = [values for values in drawn if values is not None]
    if len(kept) < 2:
        return None
    table, count = np.stack(kept), len(kept)
    choices = np.random.default_rng([seed, stream]).integers(count, size=(_DRAWS, count))
    result: Floats = table[choices, np.arange(_DRAWS)[:, None]].mean(1)
    return result


def difference_over_seeds(
    first: Sequence[Sequence[Item]],
    second: Sequence[Sequence[Item]],
    *,
    level: float,
    measure: Measure = RATIO,
) -> tuple[float, float] | None:
    """Return the interval of the difference of means over seeds, ``first`` minus ``second``.

    Args:
        first: Items of every seed of one encoder.
        second: Of another on the same utterances.
        level: Share of the distribution inside the interval.
        measure: The metric.

    Returns:
        Both ends; None where one of them has a single seed.
    """
    one = hierarchical_values(first, measure=measure, stream=1)
    two = hierarchical_values(second, measure=measure, stream=2)
    return None if one is None or two is None else _interval(one - two, level)


def interval_of(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of resampled values."""
    return _interval(values, level)


def paired_difference(
    first: Sequence[Item],
    second: Sequence[Item],
    *,
    level: float = 0.90,
    seed: int = 0,
    measure: Measure = RATIO,
    groups: bool = True,
) -> tuple[float, float, float]:
    """Return (difference, low, high) of ``first`` minus ``second`` on the same items, in points.

    Both are resampled with the same draws, so that the difficulty of items cancels.

    Args:
        first: Items of one encoder.
        second: Items of another on the same utterances.
        level: Share of the distribution inside the interval.
        seed: Seed of the resampling.
        measure: The metric; the ratio of sums in percent.
        groups: Resample groups of items where there are some.

    Raises:
        ValueError: The utterances are not the same.
    """
    difference = measure.value(first) - measure.value(second)
    low, high = _interval(_differences(first, second, seed, measure, groups), level)
    return float(difference), low, high


def paired_p_value(
    first: Sequence[Item],
    second: Sequence[Item],
    *,
    seed: int = 0,
    measure: Measure = RATIO,
    groups: bool = True,
) -> float:
    """Return the two-sided bootstrap p-value of no difference; arguments as `paired_difference`.

    Twice the smaller share of resampled differences on either side of zero, at least 1 / 2,000.
    """
    values = _differences(first, second, seed, measure, groups)
    shares = (float(np.mean(values <= 0)), float(np.mean(values >= 0)))
    return min(1.0, max(2 * min(shares), 1.0 / _DRAWS))


def _units(items: Sequence[Item], groups: bool, measure: Measure) -> npt.NDArray[np.int64]:
    """Return the number of the unit, an item or a group, that each item is drawn with."""
    if not measure.whole_groups and not (groups and has_groups(items)):
        return np.arange(len(items))
    names = [item.group or f"item {item.id}" for item in items]
    numbers: npt.NDArray[np.int64] = np.unique(names, return_inverse=True)[1]
    return numbers


def _resampled(
    parts: Sequence[Sequence[Item]], units: npt.NDArray[np.int64], seed: int, measure: Measure
) -> list[Floats]:
    """Return the metric of ``_DRAWS`` resamples, the same ones for every part.

    Resamples in which the metric is undefined take the metric of the items.
    """
    count = int(units.max()) + 1
    rng = np.random.default_rng(seed)
    values: list[list[Floats]] = [[] for _ in parts]
    for first in range(0, _DRAWS, _BLOCK):
        size = min(_BLOCK, _DRAWS - first)
        draws = rng.integers(count, size=(size, count))
        places = (draws + count * np.arange(size)[:, None]).ravel()
        weights = np.bincount(places, minlength=size * count).reshape(size, count).astype(float)
        for items, found in zip(parts, values, strict=True):
            found.append(measure.statistic(items, weights[:, units]))
    return [
        np.where(np.isfinite(result), result, measure.value(items))
        for items, result in zip(parts, map(np.concatenate, values), strict=True)
    ]


def _differences(
    first: Sequence[Item], second: Sequence[Item], seed: int, measure: Measure, groups: bool
) -> Floats:
    if [item.id for item in first] != [item.id for item in second]:
        raise ValueError("paired comparison needs the same utterances in the same order")
    units = _units(first, groups, measure)
    one, two = _resampled([first, second], units, seed, measure)
    return one - two


def _interval(values: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
