"""What a run may say about its result, from thresholds fixed beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechft.evaluation.score import RATIO, paired_difference
from speechft.evaluation.suite import read_items, slug
from speechft.recipe import VerdictConfig
from speechft.results import ResultRow
from speechft.tasks import TASKS

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
    figures = {(row.encoder, row.task, row.metric): row for row in rows}
    order = sorted(keys, key=lambda key: key[0] != tuned_on)
    first, second = (
        _sentence(name, order, figures, folder, config) for name in (names.tuned, names.merged)
    )
    note = "One fine-tuning seed; intervals cover the test items only."
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
        judged[phrase].append(
            f"{task} ({row.metric} {base.value:.1f} to {row.value:.1f}{addition})"
        )
    parts = [phrase.format(" and ".join(labels)) for phrase, labels in judged.items() if labels]
    return f"{encoder[0].upper()}{encoder[1:]} {'; '.join(parts)}."


def _judge(row: ResultRow, base: ResultRow, folder: Path, config: VerdictConfig) -> tuple[str, str]:
    """Return the phrase for one task, and what to add to its figures."""
    if row.n < config.min_items:
        return _FEW, ""
    if not base.details.get("converged", False):
        return _NO_VERDICT, ""
    items, base_items = (read_items(folder / slug(r.encoder), row.task) for r in (row, base))
    measure = TASKS[row.task].measure(row.metric) or RATIO
    change, low, high = paired_difference(items, base_items, measure=measure)
    margin = config.margins.get(row.task, config.margins.get("*", 0.0))
    sign = 1 if row.higher_is_better else -1
    worst, best = sorted((sign * low, sign * high))
    if -margin <= worst and best <= margin:
        return _KEEPS, ""
    if worst > 0:
        return _GAINS, ""
    if best < 0:
        return _LOSES, ""
    return _OPEN, f", {change:+.1f} with 90 % interval {low:+.1f} to {high:+.1f}"
