"""Values with a delete-one-speaker jackknife, and differences of such values."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    r"""A value, and what it is without each speaker.

    The interval is that of the delete-one jackknife: with S speakers and :math:`v_s` the value
    without speaker s,

    .. math:: v \pm t_{S-1} \sqrt{\frac{S-1}{S} \sum_s (v_s - \bar v)^2}

    Source: Efron and Stein, "The jackknife estimate of variance", Annals of Statistics 9, 1981.
    A bootstrap would draw some speakers twice: the same frames twice in one batch are alike in
    every encoder, which inflates HSIC.
    """

    value: float | None
    """None where it is not defined, such as the cosine of silence."""
    without: Mapping[Hashable, float] = field(default_factory=dict)
    """By speaker, the value without it; speakers without whom it is not defined are left out."""
    n: int = 0
    """Items that it is taken over."""

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Return both ends; None for fewer than two speakers.

        Args:
            level: Share of the distribution inside.
        """
        from scipy.special import stdtrit  # scipy.stats takes a second to import

        values = np.array(list(self.without.values()))
        if self.value is None or len(values) < 2:
            return None
        count = len(values)
        error = np.sqrt((count - 1) / count * np.square(values - values.mean()).sum())
        width = float(stdtrit(count - 1, (1 + level) / 2) * error)
        return self.value - width, self.value + width

    def minus(self, other: Estimate) -> Estimate:
        """Return the difference of two values over the same speakers, paired speaker by speaker."""
        if self.value is None or other.value is None:
            return Estimate(None)
        shared = {s: v - other.without[s] for s, v in self.without.items() if s in other.without}
        return Estimate(self.value - other.value, shared, min(self.n, other.n))


def mean_estimate(values: Floats, groups: Groups) -> Estimate:
    """Return the mean of values that each belong to one speaker; NaN are left out.

    Args:
        values: (n,) one an item.
        groups: (n,) number of the speaker of each.
    """
    kept = np.isfinite(values)
    if not kept.any():
        return Estimate(None)
    found, place = np.unique(groups[kept], return_inverse=True)
    sums = np.bincount(place, values[kept])
    counts = np.bincount(place)
    total, number = sums.sum(), counts.sum()
    left: dict[Hashable, float] = {
        int(g): (total - s) / (number - c)
        for g, s, c in zip(found, sums, counts, strict=True)
        if number > c
    }
    return Estimate(float(total / number), left, int(number))


def jackknife(statistic: Callable[[npt.NDArray[np.bool_]], float], groups: Groups) -> Estimate:
    """Return a statistic with its values without each speaker.

    Args:
        statistic: Takes the (n,) items to keep; NaN where it is not defined for these.
        groups: (n,) number of the speaker of each item.
    """
    value = statistic(np.ones(len(groups), bool))
    if not np.isfinite(value):
        return Estimate(None)
    left = {int(g): statistic(groups != g) for g in np.unique(groups)}
    return Estimate(value, {g: v for g, v in left.items() if np.isfinite(v)}, len(groups))


def number_groups(names: Sequence[str]) -> Groups:
    """Return a number for each name, the same for the same name, in order of the names."""
    order = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([order[name] for name in names], np.int64)
