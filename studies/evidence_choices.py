"""Which alpha to take: what constants and ``--suggest`` lose against the best alpha of the path."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from demo_table import table_of
from evidence_figures import MERGED, Encoder, Evidence, Found, Judge, shown
from evidence_units import ALPHA, BOTH, FURTHER, PATH, TASKS, TUNED_ON, WAYS
from inference import Estimate, Floats

CONSTANTS = (0.0, ALPHA, 0.5, 0.75, 1.0)
_REGRET = """How much better, in logits, the best alpha of the path is than what a rule takes:
off-task plus the gain of the tuned task, on test. The best of six is chosen on the same items,
which flatters it and puts every regret a little too high.
"""
_FURTHER = """Off-task, logits; above 0 is better than pre-trained. Alpha 1 is the tuned encoder;
with average and TIES the whole merge of both. In sequence, alpha is of the second task, from the
merge of the first at 0.25.
"""
Rule = Callable[[Evidence, Encoder], float]
"""From a stable encoder to the coefficient that is taken; NaN where the rule was not asked."""


def rules() -> dict[str, Rule]:
    """Return the rules that are compared."""
    names = {0.0: "0 always (no tuning)", ALPHA: "0.25 always (the paper)"}
    names[1.0] = "1 always (stable tuning)"
    found: dict[str, Rule] = {
        names.get(alpha, f"{alpha:g} always"): lambda _, __, alpha=alpha: alpha
        for alpha in CONSTANTS
    }
    return found | {"`sweep --suggest`": suggested}


def suggested(evidence: Evidence, stable: Encoder) -> float:
    """Return what was suggested for a stable encoder."""
    row = evidence.suggestions.get(stable)
    return float("nan") if row is None else float(row["alpha"])


def worths(evidence: Evidence, lineage: int, task: str, seed: int) -> Floats:
    """Return (points, 1 + draws): off-task plus the tuned task's gain, test, alpha 0 first."""
    points = [
        evidence.off_task(encoder) + evidence.better(encoder, [task])
        for encoder in MERGED(lineage, task, seed)
    ]
    return np.vstack([np.zeros_like(points[0]), *points])


def regret(judge: Judge, rule: Rule, tuned_on: str, seeds: str = "every") -> Found:
    """Return how much better the best alpha of the path is than what a rule takes, in logits.

    Between points of the path the worth is interpolated in a straight line.

    Args:
        judge: Of the lineages.
        rule: What is judged.
        tuned_on: Task.
        seeds: ``every``, or ``asked``: those tuning seeds for which `suggested` knows something.
    """

    def figure(lineage: int, seed: int) -> Floats:
        table = worths(judge.evidence, lineage, tuned_on, seed)
        stable = Encoder(lineage, tuned_on, seed, "path", "", 1.0)
        alpha = rule(judge.evidence, stable)
        if seeds == "asked" and np.isnan(suggested(judge.evidence, stable)):
            alpha = float("nan")
        if np.isnan(alpha) or not np.isfinite(table[:, 0]).all():
            return np.full(table.shape[1], np.nan)
        alphas = (0.0, *PATH)
        taken = [float(np.interp(alpha, alphas, column)) for column in table.T]
        return np.asarray(table.max(0) - np.array(taken))

    return judge.over(judge.over_seeds(figure))


def regrets_of(judge: Judge, alpha: float) -> dict[str, Estimate | None]:
    """Return the regret of a constant by tuned task."""
    return {task: regret(judge, lambda _, __: alpha, task).estimate for task in TUNED_ON}


def regret_table(judge: Judge) -> str:
    """Return the regret of each rule by tuned task, and what ``--suggest`` took."""
    every, asked = _rules_table(judge, "every"), _rules_table(judge, "asked")
    if not every:
        return "No path is measured yet.\n"
    best, taken = _by_task(judge, _best), _by_task(judge, _taken)
    lines = [_REGRET, every, f"Best on the path, encoder by encoder: {best}.\n"]
    if taken:
        lines += ["The same for those encoders alone for which `--suggest` was asked:\n", asked]
        lines += [f"Suggested: {taken}.\n"]
    return "\n".join(lines)


def _by_task(judge: Judge, alphas: Callable[[Judge, str], list[float]]) -> str:
    """Return coefficients in words, by tuned task; nothing where there are none."""
    found = {task: sorted(alphas(judge, task)) for task in TUNED_ON}
    listed = {task: ", ".join(f"{value:g}" for value in values) for task, values in found.items()}
    return "; ".join(f"{task.upper()} {words}" for task, words in listed.items() if words)


def _rules_table(judge: Judge, seeds: str) -> str:
    """Return a row a rule; nothing where there is none."""
    rows = []
    for name, rule in rules().items():
        if seeds == "every" and rule is suggested:
            continue
        found = [regret(judge, rule, task, seeds).estimate for task in TUNED_ON]
        if any(found):
            rows.append([name, *(shown(figure) for figure in found)])
    header = ["rule", *(f"tuned on {task.upper()}" for task in TUNED_ON)]
    return table_of(header, rows) if rows else ""


def _taken(judge: Judge, task: str) -> list[float]:
    return [
        float(row["alpha"])
        for stable, row in judge.evidence.suggestions.items()
        if stable.tuned_on == task and stable.lineage in judge.lineages
    ]


def _best(judge: Judge, task: str) -> list[float]:
    tables = [
        worths(judge.evidence, lineage, task, seed)[:, 0]
        for lineage in judge.lineages
        for seed in judge.evidence.seeds(lineage)
    ]
    return [(0.0, *PATH)[int(t.argmax())] for t in tables if np.isfinite(t).all()]


def further_tasks_table(judge: Judge) -> str:
    """Return off-task figures of encoders tuned on further tasks, and on two (Tables I, III)."""
    rows = []
    for task in FURTHER:
        rows += _row(judge, f"{task}, on PR, SID and IC", "other", "", task)
    for way in WAYS:
        rows += _row(judge, f"PR and SID, {way}, on IC", "several", way, BOTH)
    header = ["tuned on", "alpha 0.25", "alpha 1", "0.25 minus 1"]
    if not rows:
        return "Nothing is measured yet.\n"
    return _FURTHER + "\n" + table_of(header, rows)


def _row(judge: Judge, name: str, kind: str, variant: str, task: str) -> list[list[str]]:
    def of(alpha: float) -> Callable[[int], Floats]:
        return judge.over_seeds(
            lambda lineage, seed: judge.evidence.off_task(
                Encoder(lineage, task, seed, kind, variant, alpha)
            )
        )

    merged, tuned = of(ALPHA), of(1.0)
    found = [judge.over(merged), judge.over(tuned), judge.over(lambda n: merged(n) - tuned(n))]
    if not any(figure.estimate for figure in found):
        return []
    return [[name, *(shown(figure.estimate) for figure in found)]]


def in_sequence(judge: Judge) -> dict[str, Found]:
    """Return how much better two tasks in sequence are than each other way, merged at 0.25.

    Mean over PR, SID and IC, the two tuned tasks among them, as the paper's score has them.
    """

    def of(way: str) -> Callable[[int], Floats]:
        return judge.over_seeds(
            lambda lineage, seed: judge.evidence.better(
                Encoder(lineage, BOTH, seed, "several", way, ALPHA), TASKS
            )
        )

    every = {way: of(way) for way in WAYS}
    last = every.pop("sequence")
    return {way: judge.over(lambda n, f=other: last(n) - f(n)) for way, other in every.items()}
