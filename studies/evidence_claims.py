"""What decides each claim and hypothesis of ``DESIGN.md``, from figures of the evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from evidence_figures import LEVELS, MERGED, Encoder, Found, Judge, mean_of_known, merges, off_tasks
from evidence_units import (
    ALPHA,
    ARMS,
    PATH,
    SEEDS,
    SHORT_PATH,
    STRONGER,
    STUDY,
    TUNED_ON,
    UPDATES,
)
from inference import Floats
from scipy import stats

LOSS = 0.1
"""Logits that H2 allows off-task."""


def mean_of(*parts: Floats) -> Floats:
    """Return the mean of figures, NaN where one is missing."""
    return np.asarray(np.mean(parts, axis=0))


def domains(judge: Judge, kind: str, voices: str, tuned_on: Sequence[str]) -> Found:
    """Return D of H1: what the merge gives more at home than in the tuning domain."""
    evidence = judge.evidence

    def of(task: str) -> Callable[[int, int], Floats]:
        def figure(lineage: int, seed: int) -> Floats:
            at = {
                (alpha, home): evidence.off_task(
                    Encoder(lineage, task, seed, kind, "", alpha), f"{home}-{voices}"
                )
                for alpha in (ALPHA, 1.0)
                for home in ("home", "tuning")
            }
            home, tuning = (at[ALPHA, h] - at[1.0, h] for h in ("home", "tuning"))
            return np.asarray(home - tuning)

        return figure

    parts = [judge.over_seeds(of(task)) for task in tuned_on]
    return judge.over(lambda lineage: mean_of(*(part(lineage) for part in parts)))


def arm_effect(judge: Judge, factor: str, alpha: float, tuned_on: Sequence[str]) -> Found:
    """Return a main effect of H7 on the off-task figure at a coefficient."""

    def of(task: str) -> Callable[[int, int], Floats]:
        def figure(lineage: int, seed: int) -> Floats:
            return np.asarray(
                sum(
                    _sign(arm, factor)
                    * judge.evidence.off_task(Encoder(lineage, task, seed, "arm", arm, alpha))
                    for arm in ARMS
                )
                / 2
            )

        return figure

    parts = [judge.over_seeds(of(task)) for task in tuned_on]
    return judge.over(lambda lineage: mean_of(*(part(lineage) for part in parts)))


def arm_effect_at_gain(judge: Judge, factor: str, tuned_on: Sequence[str]) -> Found:
    """Return the same at equal gain, with the gain of the arm with both as reference."""
    whole = merges("arm", "frozen-1", (1.0,))

    def figure(lineage: int) -> Floats:
        parts = []
        for task in tuned_on:
            paths = [merges("arm", arm, SHORT_PATH) for arm in ARMS]
            levels = judge.at_levels(paths, lineage, task, LEVELS, whole)
            signed = zip(ARMS, levels, strict=True)
            effect = np.asarray(sum(_sign(arm, factor) * found for arm, found in signed)) / 2
            reached = np.isfinite(effect[:, 0])  # a level that all four arms reach
            parts.append(mean_of_known(effect[reached]) if reached.any() else effect[0])
        return mean_of(*parts)

    return judge.over(figure)


def _sign(arm: str, factor: str) -> int:
    cnn, head = arm.split("-")
    return 1 if (cnn == "frozen" if factor == "cnn" else head == "1") else -1


def best_alpha(judge: Judge, lineage: int, tuned_on: str, updates: int) -> float:
    """Return alpha* of H2: the largest whose off-task loss on dev is at most ``LOSS``.

    Of the first tuning seed at every strength, as the stronger runs have no other; NaN where a
    point of the path is missing.
    """
    kind, variant = ("path", "") if updates == UPDATES else ("stronger", str(updates))
    allowed = [0.0]
    for alpha in PATH:
        encoder = Encoder(lineage, tuned_on, SEEDS[0], kind, variant, alpha, updates)
        value = float(judge.evidence.off_task(encoder, split="dev")[0])
        if np.isnan(value):
            return float("nan")
        if -value <= LOSS:
            allowed.append(alpha)
    return max(allowed)


def strength(judge: Judge, tuned_on: Sequence[str]) -> Found:
    """Return the slope of H2: of alpha* over log2 of the updates."""
    updates = (UPDATES, *STRONGER)

    def figure(lineage: int) -> Floats:
        slopes = []
        for task in tuned_on:
            found = [best_alpha(judge, lineage, task, u) for u in updates]
            slopes.append(
                np.polyfit(np.log2(updates), found, 1)[0] if np.isfinite(found).all() else np.nan
            )
        return np.array([np.mean(slopes)])

    return judge.over(figure)


def slope(xs: Floats, ys: Sequence[float]) -> float:
    """Return the least-squares slope; NaN where a value is missing."""
    return float(np.polyfit(xs, ys, 1)[0]) if np.isfinite(ys).all() else float("nan")


def route_around(judge: Judge, tuned_on: Sequence[str]) -> Found:
    """Return H5: what is lost at the layer that was best, minus what the weighted sum loses."""
    evidence = judge.evidence

    def of(task: str) -> Callable[[int, int], Floats]:
        def figure(lineage: int, seed: int) -> Floats:
            tuned, parts = Encoder(lineage, task, seed, "layers", "", 1.0), []
            for other in off_tasks(task):
                dev = [
                    (evidence.loss(Encoder(lineage), other, STUDY, "dev", layer)[0], layer)
                    for _, cell, layer in evidence.probes
                    if cell == STUDY and layer is not None
                ]
                known = [pair for pair in set(dev) if np.isfinite(pair[0])]
                if not known:
                    return np.full(1 + evidence.draws, np.nan)
                best = min(known)[1]
                whole = evidence.better(tuned, [other])
                alone = evidence.better(tuned, [other], layer=best)
                parts.append(whole - alone)
            return mean_of(*parts)

        return figure

    parts = [judge.over_seeds(of(task)) for task in tuned_on]
    return judge.over(lambda lineage: mean_of(*(part(lineage) for part in parts)))


def similarity_of(row: Mapping[str, Any]) -> float:
    """Return the mean CKA of the transformer's hidden states."""
    return float(np.mean([value for value in row["cka"][1:] if value is not None]))


def nearer(judge: Judge, rival: str, tuned_on: str = "sid") -> Found:
    """Return H6 (a): how much more similar the merge is that moved as far as a rival."""
    features = judge.evidence.features

    def of(lineage: int, seed: int) -> Floats:
        other = features.get(Encoder(lineage, tuned_on, seed, "rival", rival, 1.0))
        path = [features.get(e) for e in MERGED(lineage, tuned_on, seed)]
        if other is None or None in path:
            return np.array([np.nan])
        far = [row for row in path if row is not None and row["move"] >= other["move"]]
        return np.array([similarity_of(far[0]) - similarity_of(other) if far else np.nan])

    def figure(lineage: int) -> Floats:
        values = [of(lineage, seed)[0] for seed in judge.evidence.seeds(lineage)]
        known = [value for value in values if np.isfinite(value)]
        return np.array([np.mean(known) if known else np.nan])

    return judge.over(figure)


def predicts(judge: Judge, tuned_on: Sequence[str] = TUNED_ON) -> Found:
    """Return H6 (b): Spearman of similarity with off-task, minus that of less weight move.

    Args:
        judge: Of the lineages.
        tuned_on: Tasks whose encoders are ranked together; both for the hypothesis.
    """

    def figure(lineage: int) -> Floats:
        points = [
            (similarity_of(row), -row["move"], judge.evidence.off_task(encoder)[0])
            for encoder, row in judge.evidence.features.items()
            if encoder.lineage == lineage
            and encoder.tuned_on in tuned_on
            and encoder.kind != "lines"
        ]
        table = np.array([point for point in points if np.isfinite(point).all()])
        if len(table) < 5:
            return np.array([np.nan])
        similar, moved, off = table.T
        return np.array([_rank(similar, off) - _rank(moved, off)])

    return judge.over(figure)


def _rank(one: Floats, other: Floats) -> float:
    """Return Spearman's correlation; NaN where one side does not vary."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(stats.spearmanr(one, other).statistic)
