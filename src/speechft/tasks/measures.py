"""What a task reports: figures over scored items, also over weighted ones for the bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Item:
    """How one utterance (or trial) was solved: most metrics are ratios of sums over items."""

    id: str
    prediction: str
    reference: str
    amount: float
    """Errors where lower is better, hits where higher is; the score of a trial."""
    total: float
    """What ``amount`` is divided by: reference length, or 1; 1 or 0 of a trial."""
    counts: Mapping[str, float] = field(default_factory=dict)
    """Further counts, such as insertions."""
    group: str = ""
    """What is drawn together when items are resampled, such as the speaker."""
    fold: int = 0
    """Number of the cross-validation fold."""
    searched: str = ""
    """The prediction with a language model, where one was given."""


Statistic = Callable[[Sequence[Item], Floats], Floats]
"""From n items and (R, n) weights to R figures."""


@dataclass(frozen=True)
class Measure:
    """A figure that a task reports."""

    name: str
    """As the field calls it, such as ``per``."""
    higher_is_better: bool
    statistic: Statistic
    percent: bool = True
    """Whether the field gives it in percent; term-weighted values run from 0 to 1."""

    def value(self, items: Sequence[Item]) -> float:
        """Return the figure of items, NaN without any; in percent where the field does so."""
        if not items:
            return float("nan")
        return float(self.statistic(items, np.ones((1, len(items))))[0])


def ratio(items: Sequence[Item], weights: Floats) -> Floats:
    """Return sum of amounts / sum of totals in percent; the mean of the folds if there are some."""
    amounts = np.array([item.amount for item in items])
    totals = np.array([item.total for item in items])
    return _by_fold(items, weights, amounts, totals)


def ratio_of(amount: str, total: str | None = None) -> Statistic:
    """Return a statistic like `ratio` of further counts; None takes the items' own totals."""

    def statistic(items: Sequence[Item], weights: Floats) -> Floats:
        amounts = np.array([item.counts[amount] for item in items])
        totals = np.array([item.counts[total] if total else item.total for item in items])
        return _by_fold(items, weights, amounts, totals)

    return statistic


def weighted_eer(items: Sequence[Item], weights: Floats) -> Floats:
    """Return equal error rates in percent of weighted trials.

    NaN where one kind of trial is missing or a score is not finite.
    """
    scores = np.array([item.amount for item in items])
    if not np.isfinite(scores).all():
        return np.full(len(weights), np.nan)
    targets = np.array([item.total == 1.0 for item in items])
    order = np.argsort(-scores, kind="stable")
    scores, targets = scores[order], targets[order]
    ends = np.append(scores[1:] != scores[:-1], True)
    result = np.empty(len(weights))
    for number, row in enumerate(weights):
        ordered = row[order]
        hits = np.cumsum(ordered * targets)[ends]
        alarms = np.cumsum(ordered * ~targets)[ends]
        if hits[-1] == 0 or alarms[-1] == 0:
            result[number] = np.nan
            continue
        hit, alarm = np.r_[0.0, hits / hits[-1]], np.r_[0.0, alarms / alarms[-1]]
        excess = hit + alarm - 1.0
        place = max(1, int(np.argmax(excess >= 0.0)))
        share = -excess[place - 1] / (excess[place] - excess[place - 1])
        result[number] = 100 * (alarm[place - 1] + share * (alarm[place] - alarm[place - 1]))
    return result


def weighted_mtwv(items: Sequence[Item], weights: Floats) -> Floats:
    """Return maximum term-weighted values; an item's group is its query, drawn as a whole.

    NaN where a score is not finite.
    """
    scores = np.array([item.amount for item in items])
    if not np.isfinite(scores).all():
        return np.full(len(weights), np.nan)
    beta = 1.0 * (1.0 - 0.0008) / (100.0 * 0.0008)
    targets = np.array([item.total == 1.0 for item in items])
    names, query = np.unique([item.group for item in items], return_inverse=True)
    hits = np.bincount(query, targets, len(names))
    others = np.bincount(query, ~targets, len(names))
    counted = (hits > 0) & (others > 0)
    kept = counted[query]
    first = np.unique(query, return_index=True)[1]
    order = np.flatnonzero(kept)[np.argsort(-scores[kept], kind="stable")]
    ends = np.append(scores[order][1:] != scores[order][:-1], True)
    number = query[order]
    gains = np.where(
        targets[order], 1.0 / np.maximum(hits[number], 1), -beta / np.maximum(others[number], 1)
    )
    result = np.empty(len(weights))
    for place, row in enumerate(weights):
        by_query = row[first]
        size = by_query[counted].sum()
        total = np.cumsum(gains * by_query[number])[ends]
        result[place] = min(1.0, max(0.0, float(total.max()) / size)) if size else np.nan
    return result


def figure(items: Sequence[Item]) -> float:
    """Return the ratio of sums over items, in percent."""
    total = sum(item.total for item in items)
    return 100.0 * sum(item.amount for item in items) / total if total else float("nan")


def _by_fold(items: Sequence[Item], weights: Floats, amounts: Floats, totals: Floats) -> Floats:
    folds = np.array([item.fold for item in items])
    parts = []
    for fold in np.unique(folds):
        mine = folds == fold
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append(
                100.0 * (weights[:, mine] @ amounts[mine]) / (weights[:, mine] @ totals[mine])
            )
    result: Floats = np.mean(parts, axis=0)
    return result
