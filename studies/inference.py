"""How the evidence is judged: intervals over lineages, Holm, equivalence, equal gain. No data here.

Rules: ``studies/DESIGN.md``. Everything is checked in ``tests/test_inference.py`` against closed
forms, scipy and simulations whose truth is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
"""Of every interval."""
ALPHA = 0.05
"""Of the family of confirmatory claims, two-sided, after Holm."""
MARGIN = 0.1
"""Logits: so large a change is none for "keeps" (two one-sided tests at ``ALPHA``)."""
CLIP = (1.0, 99.0)
"""Percent: error rates are clipped to it before the logit."""


def logit_error(percent: Floats | float) -> Floats:
    """Return ln(e / (1 - e)) of an error rate in percent, clipped to ``CLIP``."""
    clipped = np.clip(np.asarray(percent, dtype=float), *CLIP)
    found: Floats = np.log(clipped / (100 - clipped))
    return found


@dataclass(frozen=True)
class Estimate:
    """A figure over lineages, with what is needed to judge it."""

    value: float
    error: float
    """Standard error: lineages and items together; NaN with a single lineage."""
    freedom: float
    """Degrees of freedom, after Welch and Satterthwaite."""
    lineages: int

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the two-sided t interval."""
        reach = float(stats.t.ppf((1 + level) / 2, self.freedom)) * self.error
        return self.value - reach, self.value + reach

    def p_value(self) -> float:
        """Return the two-sided p of "it is 0"."""
        if not self.error > 0:
            return float("nan")
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.freedom))

    def p_equivalent(self, margin: float = MARGIN) -> float:
        """Return the p of "it is at least ``margin`` away from 0": the larger of two one-sided."""
        if not self.error > 0:
            return float("nan")
        low = stats.t.sf((self.value + margin) / self.error, self.freedom)
        high = stats.t.sf((margin - self.value) / self.error, self.freedom)
        return float(max(low, high))


def estimate(by_lineage: Sequence[float] | Floats, items: Floats, groups: int) -> Estimate:
    r"""Return the mean over lineages with an error that counts lineages and items.

    .. math:: \mathrm{SE}^2 = s^2 / n + v, \quad
        \nu = \frac{(s^2/n + v)^2}{(s^2/n)^2/(n-1) + v^2/(g-1)}

    s is the standard deviation over the n lineages (each the mean over its tuning seeds), v the
    variance of the mean under resampled items, which all lineages share, and g the number of the
    speakers that are drawn there. What is random in lineage and item at once counts twice: the
    interval is a little too wide rather than too narrow.

    Args:
        by_lineage: (n,) figures.
        items: (draws,) the mean over the same lineages under resampled items; empty for none.
        groups: g.
    """
    values = np.asarray(by_lineage, dtype=float)
    n = len(values)
    if n == 0:
        raise ValueError("no lineage")
    if n == 1:
        return Estimate(float(values[0]), float("nan"), float("nan"), 1)
    between = float(values.var(ddof=1)) / n
    within = float(items.var(ddof=1)) if len(items) > 1 else 0.0
    whole = between + within
    parts = between**2 / (n - 1) + (within**2 / (groups - 1) if within else 0.0)
    freedom = whole**2 / parts if parts else float(n - 1)
    return Estimate(float(values.mean()), whole**0.5, freedom, n)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return adjusted p-values by claim; those that are NaN (not measured) count as 1.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    known = {name: 1.0 if np.isnan(p) else p for name, p in p_values.items()}
    adjusted, largest = {}, 0.0
    for place, name in enumerate(sorted(known, key=lambda name: known[name])):
        largest = max(largest, min(1.0, (len(known) - place) * known[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def at_gain(gains: Sequence[float], values: Sequence[float], wanted: float) -> float:
    """Return the value where a path first reaches a gain on the tuned task.

    Between the points of the path gain and value are linear. Gains are first made monotone by the
    pool-adjacent-violators rule, all points alike, the start, which is exact, held at its place.

    Args:
        gains: On dev, in the order of the path, the start (gain 0) first.
        values: Of the same points.
        wanted: The gain.

    Returns:
        The value, NaN where the path does not reach the gain.
    """
    if len(gains) != len(values) or len(gains) < 2:
        raise ValueError("a path needs a gain and a value for each of at least two points")
    rising = np.maximum(isotonic(np.asarray(gains[1:], dtype=float)), gains[0])
    xs, ys = np.concatenate([[gains[0]], rising]), np.asarray(values, dtype=float)
    for place in range(1, len(xs)):
        if xs[place] >= wanted:
            width = xs[place] - xs[place - 1]
            share = (wanted - xs[place - 1]) / width if width > 0 else 1.0
            return float(ys[place - 1] + share * (ys[place] - ys[place - 1]))
    return float("nan")


def isotonic(values: Floats) -> Floats:
    """Return the nearest rising sequence in least squares (pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        blocks.append((float(value), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (one, m), (two, n) = blocks[-2:]
            blocks[-2:] = [((m * one + n * two) / (m + n), m + n)]
    return np.concatenate([np.full(count, mean) for mean, count in blocks])
