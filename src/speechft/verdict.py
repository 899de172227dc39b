"""What a run may say about its result, from thresholds fixed beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechft.evaluation.score import RATIO, difference_over_seeds, paired_difference
from speechft.evaluation.suite import read_items, slug
from speechft.recipe import VerdictConfig
from speechft.results import ResultRow, mean_over_seeds
from speechft.tasks import TASKS
from speechft.tasks.measures import Measure

PRE_TRAINED = "pre-trained"

_GAINS, _KEEPS, _LOSES = "gains on {}", "keeps {}", "loses on {}"
_OPEN = "leaves open {}"
_NO_VERDICT = "gets no verdict on {}, where the pre-trained probe had not converged"
_FEW = "gets no verdict on {}, which has too few test items"
_PHRASES = (_GAINS, _KEEPS, _LOSES, _OPEN, _NO_VERDICT, _FEW)


@dataclass(frozen=True)
class Names:
    """Names of the encoders that a verdict compares."""

    tuned: str
    merged: str

    @classmethod
    def of(cls, strategy: str, alpha: float) -> Names:
        """Return the names for a strategy and a coefficient."""
        return cls(f"{strategy} fine-tuning", f"Speech-FT ({alpha:g})")


def verdict(
    rows: Sequence[ResultRow], folder: Path, tuned_on: str, names: Names, config: VerdictConfig
) -> tuple[str, ...]:
    """Say in two sentences what fine-tuning and merging did.

    "Keeps" is an equivalence: the 90 % interval of the paired difference to the pre-trained
    encoder lies within the margin. Otherwise an interval on one side of zero gains or loses, and
    any other is left open. One seed never says "wins". Where the probe of the pre-trained encoder
    has not converged, or the test split is small, there is no verdict.

    Args:
        rows: Test figures.
        folder: Holds the predictions of each encoder.
        tuned_on: Task that was fine-tuned on.
        names: Of the tuned and the merged encoder.
        config: Margins.
    """
    keys = dict.fromkeys((row.task, row.metric) for row in rows)
    shown = mean_over_seeds(rows)
    figures = {(row.encoder, row.task, row.metric): row for row in shown}
    order = sorted(keys, key=lambda key: key[0] != tuned_on)
    first, second = (
        _sentence(name, order, figures, folder, config) for name in (names.tuned, names.merged)
    )
    covered = "test items"
    if any("seeds" in row.details for row in shown):
        covered += " and probe seeds"
    note = f"One fine-tuning seed; intervals cover the {covered} only."
    return first, f"{second} {note}"


def _sentence(
    encoder: str,
    keys: Sequence[tuple[str, str]],
    figures: Mapping[tuple[str, str, str], ResultRow],
    folder: Path,
    config: VerdictConfig,
) -> str:
    """Say what one encoder does to every task, tasks of the same judgement together."""
    judged: dict[str, list[str]] = {phrase: [] for phrase in _PHRASES}
    for task, metric in keys:
        row, base = figures[encoder, task, metric], figures[PRE_TRAINED, task, metric]
        phrase, addition = _judge(row, base, folder, config)
        digits = _digits(_measure(row))
        judged[phrase].append(
            f"{task} ({metric} {base.value:.{digits}f} to {row.value:.{digits}f}{addition})"
        )
    parts = [phrase.format(" and ".join(labels)) for phrase, labels in judged.items() if labels]
    return f"{encoder[0].upper()}{encoder[1:]} {'; '.join(parts)}."


def _judge(row: ResultRow, base: ResultRow, folder: Path, config: VerdictConfig) -> tuple[str, str]:
    """Return the phrase for one task, and what to add to its figures."""
    if row.n < config.min_items:
        return _FEW, ""
    if base.details.get("converged", False) is False:
        return _NO_VERDICT, ""
    measure, change = _measure(row), row.value - base.value
    items, base_items = (
        [
            read_items(folder / slug(r.encoder), row.task, n)
            for n in range(r.details.get("seeds", 1))
        ]
        for r in (row, base)
    )
    interval = difference_over_seeds(items, base_items, level=0.90, measure=measure)
    low, high = interval or paired_difference(items[0], base_items[0], measure=measure)[1:]
    margin = config.margins.get(row.task, config.margins.get("*", 0.0))
    margin *= 1.0 if measure.percent else 0.01
    sign = 1 if row.higher_is_better else -1
    worst, best = sorted((sign * low, sign * high))
    if -margin <= worst and best <= margin:
        return _KEEPS, ""
    if worst > 0:
        return _GAINS, ""
    if best < 0:
        return _LOSES, ""
    digits = _digits(measure)
    between = f"{low:+.{digits}f} to {high:+.{digits}f}"
    return _OPEN, f", {change:+.{digits}f} with 90 % interval {between}"


def _measure(row: ResultRow) -> Measure:
    return TASKS[row.task].measure(row.metric) or RATIO


def _digits(measure: Measure) -> int:
    """Return decimals of a figure in a sentence."""
    return 1 if measure.percent else 3
