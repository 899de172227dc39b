"""What a run may say about its result, from thresholds fixed beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from speechft.evaluation.predictions import items_of
from speechft.evaluation.score import difference_over_seeds, paired_difference, resampled
from speechft.recipe import VerdictConfig
from speechft.results import ResultRow, Role, mean_over_seeds
from speechft.tasks import measure_of

_SWEEP = "The verb sweep shows which, on dev."
Figure = tuple[str, str, str]
"""(encoder, task, metric)."""


class Finding(StrEnum):
    """What is said of one figure beside that of the pre-trained encoder."""

    GAINS = "gains on {}"
    KEEPS = "keeps {}"
    LOSES = "loses on {}"
    OPEN = "leaves open {}"
    UNCONVERGED = "gets no verdict on {}, where the pre-trained probe had not converged"
    OTHER = "gets no verdict on {}, where the pre-trained encoder was measured on other data"
    FEW = "gets no verdict on {}, which has too few test items"


@dataclass(frozen=True)
class Judgement:
    """A figure beside that of the pre-trained encoder."""

    finding: Finding
    change: float = 0.0
    """Difference in points of the metric."""
    interval: tuple[float, float] | None = None
    """90 % interval of the paired difference; None where there is no verdict."""
    drawn: str = ""
    """What was drawn for it, such as ``30 groups``."""

    @property
    def significant(self) -> str:
        """Return ``higher`` or ``lower`` where the interval lies on one side of zero.

        A figure that is kept within the margin may be significantly lower all the same.
        """
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return ""
        return "higher" if self.interval[0] > 0 else "lower"


def judge(
    rows: Sequence[ResultRow], folder: Path, config: VerdictConfig
) -> dict[Figure, Judgement]:
    """Judge every figure of every tuned and merged encoder against the pre-trained one.

    "Keeps" is an equivalence: the 90 % interval of the paired difference lies within the margin;
    the figure may be significantly higher or lower all the same, which is then said too. Intervals
    are over groups of items, such as speakers, or over items where they have no groups.
    Otherwise an interval on one side of zero gains or loses, and any other is left open. Where the
    probe of the pre-trained encoder has not converged, or was of another evaluation, or the test
    split is small, there is no verdict.

    Args:
        rows: Test figures of one evaluation each, a row for each probe seed; see `side_by_side`.
        folder: Of the file that holds the rows; their predictions are relative to it.
        config: Margins.
    """
    figures: dict[Figure, list[ResultRow]] = {}
    for row in rows:
        figures.setdefault((row.encoder, row.task, row.metric), []).append(row)
    base = {f[1:]: found for f, found in figures.items() if found[0].role is Role.PRE_TRAINED}
    return {
        figure: _judgement(found, base[figure[1:]], folder, config)
        for figure, found in figures.items()
        if found[0].role not in (Role.FLOOR, Role.PRE_TRAINED) and figure[1:] in base
    }


def verdict(
    rows: Sequence[ResultRow],
    judgements: Mapping[Figure, Judgement],
    tuned_on: Sequence[str],
) -> tuple[str, ...]:
    """Say what fine-tuning did, what merging did, and where to look for a better alpha.

    One seed never says "wins".

    Args:
        rows: Test figures.
        judgements: From `judge`.
        tuned_on: Tasks that were fine-tuned on.
    """
    shown = mean_over_seeds(rows)
    figures = {(row.encoder, row.task, row.metric): row for row in shown}
    base = next(row.encoder for row in shown if row.role is Role.PRE_TRAINED)
    merged = next(row for row in shown if row.role is Role.MERGED)
    tuned = next(r for r in shown if r.role is Role.TUNED and r.strategy == merged.strategy)
    keys = dict.fromkeys((row.task, row.metric) for row in rows)
    order = sorted(keys, key=lambda key: key[0] not in tuned_on)
    first, second = (
        _sentence(name, base, order, figures, judgements)
        for name in (tuned.encoder, merged.encoder)
    )
    note = f"One fine-tuning seed; intervals cover the {_covered(shown, judgements)} only."
    said = first, f"{second} {note}"
    if merged.alpha is None:  # the method has found its own
        return said
    return *said, _advice(tuned.encoder, merged.encoder, tuned_on, judgements)


def _advice(
    tuned: str, merged: str, tuned_on: Sequence[str], judgements: Mapping[Figure, Judgement]
) -> str:
    """Say in which direction a better alpha lies, from what the tasks gained and lost.

    It rests on the alphas that lost least in the study, ``docs/results.md``: small ones where
    tuning took from other tasks, large ones where it took nothing.
    """

    def tasks(encoder: str, *findings: Finding, own: bool = False) -> list[str]:
        found = [
            task
            for (name, task, _), judged in judgements.items()
            if name == encoder and (task in tuned_on) == own and judged.finding in findings
        ]
        return list(dict.fromkeys(found))

    judged = (Finding.GAINS, Finding.KEEPS, Finding.LOSES, Finding.OPEN)
    every = " and ".join(tuned_on)
    if not tasks(tuned, *judged):
        if unjudged := tasks(tuned, Finding.FEW, Finding.UNCONVERGED):
            where = " and ".join(unjudged)
            return (
                f"What is lost on {where} cannot be told: test on more items, train probes longer."
            )
        return f"Nothing beside {every} is judged: evaluate tasks that you must not lose."
    gained = [task for name in (tuned, merged) for task in tasks(name, Finding.GAINS, own=True)]
    if not gained and tasks(tuned, *judged, own=True):
        more = "tune for longer, at another rate or on more data"
        if tasks(tuned, Finding.OPEN, own=True):
            return f"A gain on {every} is not shown: {more}, or test on more items."
        return f"Fine-tuning gains nothing on {every} that an alpha could keep: {more}."
    gain = f"the gain on {' and '.join(dict.fromkeys(gained) or tuned_on)}"
    if lost := tasks(merged, Finding.LOSES):
        where = " and ".join(lost)
        return f"A smaller alpha than the merge's should lose less on {where}. {_SWEEP}"
    if lost := tasks(tuned, Finding.LOSES):
        return (
            f"The merge gives back what fine-tuning loses on {' and '.join(lost)}; a larger alpha "
            f"keeps more of {gain}, as long as that stays so. {_SWEEP}"
        )
    if open_ := tasks(tuned, Finding.OPEN):
        return (
            f"A loss on {' and '.join(open_)} is neither shown nor ruled out: test on more items. "
            f"A larger alpha keeps more of {gain}. {_SWEEP}"
        )
    return (
        f"Fine-tuning loses nothing: a larger alpha, or the tuned encoder as it is, keeps more of "
        f"{gain}. {_SWEEP}"
    )


def _covered(rows: Sequence[ResultRow], judgements: Mapping[Figure, Judgement]) -> str:
    """Say what intervals are over: groups of test items, or items where there are no groups."""
    drawn = {figure[1]: j.drawn for figure, j in judgements.items() if j.drawn}
    alone = [task for task, what in drawn.items() if what.endswith("items")]
    covered = "test speakers or other groups" if len(alone) < len(drawn) else "test items"
    if alone and len(alone) < len(drawn):
        covered += f" (on {', '.join(alone)} single items)"
    return covered + " and probe seeds" * any("seeds" in row.details for row in rows)


def colours(judgements: Mapping[Figure, Judgement]) -> dict[Figure, str]:
    """Return how a table shows each judgement: ``better``, ``worse``, or ``near`` for all else."""
    words = {Finding.GAINS: "better", Finding.LOSES: "worse"}
    return {figure: words.get(j.finding, "near") for figure, j in judgements.items()}


def _sentence(
    encoder: str,
    base: str,
    keys: Sequence[tuple[str, str]],
    figures: Mapping[Figure, ResultRow],
    judgements: Mapping[Figure, Judgement],
) -> str:
    """Say what one encoder does to every task, tasks of the same finding together."""
    said: dict[Finding, list[str]] = {finding: [] for finding in Finding}
    for task, metric in keys:
        row, before = figures[encoder, task, metric], figures[base, task, metric]
        judgement, digits = judgements[encoder, task, metric], measure_of(task, metric).decimals
        addition, beside = "", judgement.finding is Finding.KEEPS and judgement.significant
        if judgement.interval is not None and (beside or judgement.finding is Finding.OPEN):
            low, high = judgement.interval
            between = f"{low:+.{digits}f} to {high:+.{digits}f}"
            word = f"significantly {beside}, " if beside else ""
            addition = f", {word}{judgement.change:+.{digits}f} with 90 % interval {between}"
        said[judgement.finding].append(
            f"{task} ({metric} {before.value:.{digits}f} to {row.value:.{digits}f}{addition})"
        )
    parts = [finding.format(" and ".join(labels)) for finding, labels in said.items() if labels]
    return f"{encoder[0].upper()}{encoder[1:]} {'; '.join(parts)}."


def _judgement(
    rows: Sequence[ResultRow], base: Sequence[ResultRow], folder: Path, config: VerdictConfig
) -> Judgement:
    """Judge one figure: rows of all probe seeds of an encoder and of the pre-trained one."""
    row, before = mean_over_seeds(rows)[0], mean_over_seeds(base)[0]
    change = row.value - before.value
    if row.evaluation != before.evaluation and None not in (row.evaluation, before.evaluation):
        return Judgement(Finding.OTHER, change)
    if row.n < config.min_items:
        return Judgement(Finding.FEW, change)
    if before.details.get("converged", False) is False:
        return Judgement(Finding.UNCONVERGED, change)
    measure = measure_of(row.task, row.metric)
    items, base_items = ([items_of(r, folder) for r in part] for part in (rows, base))
    interval = difference_over_seeds(items, base_items, level=0.90, measure=measure)
    low, high = interval or paired_difference(items[0], base_items[0], measure=measure)[1:]
    margin = config.margins.get(row.task, config.margins.get("*", 0.0))
    margin *= 1.0 if measure.percent else 0.01
    sign = 1 if row.higher_is_better else -1
    worst, best = sorted((sign * low, sign * high))
    finding = Finding.OPEN
    if -margin <= worst and best <= margin:
        finding = Finding.KEEPS
    elif worst > 0:
        finding = Finding.GAINS
    elif best < 0:
        finding = Finding.LOSES
    return Judgement(finding, change, (low, high), resampled(items[0], measure))
