"""What a task reports: figures over scored items, also over weighted ones for the bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    """What is drawn together when items are resampled: the corpus's own group, the speaker or the
    session; see `speechft.tasks.parts.group_of`."""
    fold: int = 0
    """Number of the cross-validation fold."""
    searched: str = ""
    """The prediction with a language model, where one was given."""


Statistic = Callable[[Sequence[Item], "Floats"], "Floats"]
"""From n items and (R, n) weights to R figures."""
Details = Callable[[Sequence[Item]], dict[str, float]]
"""From items to further figures of a row, such as the rate of insertions."""


@dataclass(frozen=True)
class Measure:
    """A figure that a task reports, and all that a table has to know about it."""

    name: str
    """In result rows, such as ``per``."""
    higher_is_better: bool
    statistic: Statistic
    percent: bool = True
    """Whether the field gives it in percent; term-weighted values run from 0 to 1."""
    written: str = ""
    """As the field writes it, such as ``PER``; empty for the name with spaces."""
    decimals: int = 1
    """In tables; comparisons give one more."""
    whole_groups: bool = False
    """Whether it is defined over whole groups of items, such as queries, and so resampled."""
    reported: bool = True
    """Whether it has a row of its own in the results."""
    searched: bool = False
    """Whether it is about predictions with a language model."""
    details: Details | None = None
    """What a row says beside the figure."""

    @property
    def best(self) -> float:
        """Return the figure that nothing exceeds."""
        return (100.0 if self.percent else 1.0) if self.higher_is_better else 0.0

    @property
    def heading(self) -> str:
        """Return how the field writes it, with its unit."""
        written = self.written or self.name.replace("_", " ")
        return f"{written} %" if self.percent else written

    def value(self, items: Sequence[Item]) -> float:
        """Return the figure of items, NaN without any; in percent where the field does so."""
        import numpy as np

        if not items:
            return float("nan")
        return float(self.statistic(items, np.ones((1, len(items))))[0])


def ratio(items: Sequence[Item], weights: Floats) -> Floats:
    """Return sum of amounts / sum of totals in percent; the mean of the folds if there are some."""
    return _over_folds(items, weights, [item.amount for item in items], _totals(items), 100.0)


def mean(items: Sequence[Item], weights: Floats) -> Floats:
    """Return sum of amounts / sum of totals as it is; the mean of the folds if there are some."""
    return _over_folds(items, weights, [item.amount for item in items], _totals(items), 1.0)


def ratio_of(amount: str, total: str | None = None) -> Statistic:
    """Return a statistic like `ratio` of further counts; None takes the items' own totals."""

    def statistic(items: Sequence[Item], weights: Floats) -> Floats:
        amounts = [item.counts[amount] for item in items]
        totals = [item.counts[total] for item in items] if total else _totals(items)
        return _over_folds(items, weights, amounts, totals, 100.0)

    return statistic


def weighted_eer(items: Sequence[Item], weights: Floats) -> Floats:
    """Return equal error rates in percent of weighted trials.

    NaN where one kind of trial is missing or a score is not finite.
    """
    import numpy as np

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
    import numpy as np

    scores = np.array([item.amount for item in items])
    if not np.isfinite(scores).all():
        return np.full(len(weights), np.nan)
    beta = 1.0 * (1.0 - 0.0008) / (100.0 * 0.0008)
    targets = np.array([item.total == 1.0 for item in items])
    names, query = np.unique([item.group for item in items], return_inverse=True)
    hits = np.bincount(query, targets, len(names))
    others = np.bincount(query, ~targets, len(names))
    counted = (hits > 0) & (others > 0)
    if not counted.any():  # such as in one half of few queries
        return np.full(len(weights), np.nan)
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


def unweighted_recall(items: Sequence[Item], weights: Floats) -> Floats:
    """Return the mean over classes of their recall in percent (UAR), the mean of the folds.

    Classes are those that occur in the references, of a resample those of its references.
    """
    return _over_classes(items, weights, lambda hits, actual, guessed: hits / actual)


def macro_f1(items: Sequence[Item], weights: Floats) -> Floats:
    """Return the mean over classes of their F1 in percent; classes as in `unweighted_recall`."""
    return _over_classes(
        items, weights, lambda hits, actual, guessed: 2 * hits / (actual + guessed)
    )


def _totals(items: Sequence[Item]) -> list[float]:
    return [item.total for item in items]


def _over_folds(
    items: Sequence[Item],
    weights: Floats,
    amounts: Sequence[float],
    totals: Sequence[float],
    scale: float,
) -> Floats:
    """Return scale x weighted amounts / weighted totals, (R,), the mean of the folds."""
    import numpy as np

    above, below = np.array(amounts), np.array(totals)
    parts, shares = [], []
    for mine in _folds(items):
        drawn = weights[:, mine] @ below[mine]
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append(scale * (weights[:, mine] @ above[mine]) / drawn)
            shares.append(drawn / below[mine].sum())
    return _mean_of_folds(parts, shares)


def _mean_of_folds(parts: Sequence[Floats], shares: Sequence[Floats]) -> Floats:
    """Return the mean of figures of folds, each weighted by how much of it was drawn.

    Folds count alike where everything is drawn once. A resample may leave out every group of a fold
    (a session of IEMOCAP has two speakers): that fold then has no figure and no weight.

    Args:
        parts: Figures, (R,) by fold.
        shares: Amount drawn / amount there is, (R,) by fold.
    """
    import numpy as np

    if len(parts) == 1:
        return parts[0]
    share = np.array(shares)
    with np.errstate(invalid="ignore"):
        result: Floats = (np.where(share > 0, np.array(parts), 0.0) * share).sum(0) / share.sum(0)
    return result


def _over_classes(
    items: Sequence[Item], weights: Floats, figure: Callable[[Floats, Floats, Floats], Floats]
) -> Floats:
    """Return the mean over classes in percent, (R,), of a figure of their counts."""
    import numpy as np

    names = sorted({item.reference for item in items})
    number = {name: place for place, name in enumerate(names)}
    truth = np.array([number[item.reference] for item in items])
    guess = np.array([number.get(item.prediction, len(names)) for item in items])
    size = len(names) + 1  # the last one: predictions of classes that no reference has
    parts, shares = [], []
    for mine in _folds(items):
        t, g, rows = truth[mine], guess[mine], weights[:, mine]
        shares.append(rows.sum(1) / mine.sum())
        hits, actual, guessed = (
            np.stack([np.bincount(which, row, size) for row in counted]).astype(np.float64)
            for which, counted in ((t, rows * (t == g)), (t, rows), (g, rows))
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.where(actual > 0, figure(hits, actual, guessed), 0.0)
            parts.append(100.0 * values.sum(1) / (actual > 0).sum(1))
    return _mean_of_folds(parts, shares)


def _folds(items: Sequence[Item]) -> list[npt.NDArray[np.bool_]]:
    """Return which items belong to each fold."""
    import numpy as np

    folds = np.array([item.fold for item in items])
    return [folds == fold for fold in np.unique(folds)]
