"""Further tables of the evidence: points, strength, similarity, parts of H1."""

from __future__ import annotations

import numpy as np
from demo_table import Study, table_of
from evidence_claims import best_alpha, domains, similarity_of, slope
from evidence_drawing import method_of
from evidence_figures import Encoder, Found, Judge
from evidence_units import ALPHA, STRONGER, STUDY, TASKS, TUNED_ON, UPDATES
from inference import Estimate, Floats


def points_table(judge: Judge, study: Study) -> str:
    """Return figures of test in points, and retention, of base, stable and merged encoders.

    Args:
        judge: Of the lineages.
        study: The older rows, for the floor (MFCC on the same items).
    """
    rows = []
    for tuned_on in TUNED_ON:
        for alpha in (0.0, ALPHA, 1.0):
            every = [
                figures
                for lineage in judge.lineages
                for seed in judge.evidence.seeds(lineage)
                if (figures := _points(judge, lineage, tuned_on, seed, alpha))
            ]
            if every:
                means = {task: float(np.mean([f[task] for f in every])) for task in TASKS}
                name = {0.0: "pre-trained", 1.0: "stable"}.get(alpha, f"merged {alpha:g}")
                kept = _retention(every, _bases(judge, tuned_on), study, tuned_on)
                rows.append([tuned_on.upper(), name, *(f"{means[t]:.1f}" for t in TASKS), kept])
    header = ["tuned on", "encoder", "PR, PER %", "SID, %", "IC, %", "retention, %"]
    return table_of(header, rows) if rows else "Nothing is measured yet.\n"


def _points(judge: Judge, lineage: int, tuned_on: str, seed: int, alpha: float) -> dict[str, float]:
    """Return the figures of one encoder, empty unless it and its base are measured."""
    tuned = Encoder(lineage, tuned_on, seed, "path", "", alpha)
    encoder = Encoder(lineage) if alpha == 0.0 else tuned
    probes = judge.evidence.probes.get((encoder, STUDY, None), {})
    stable = (Encoder(lineage, tuned_on, seed, "path", "", 1.0), STUDY, None)
    if set(probes) != set(TASKS) or stable not in judge.evidence.probes:
        return {}
    return {task: float(probes[task]["test"]) for task in TASKS}


def _bases(judge: Judge, tuned_on: str) -> list[dict[str, float]]:
    found = [
        _points(judge, lineage, tuned_on, seed, 0.0)
        for lineage in judge.lineages
        for seed in judge.evidence.seeds(lineage)
    ]
    return [figures for figures in found if figures]


def _retention(
    figures: list[dict[str, float]], bases: list[dict[str, float]], study: Study, tuned_on: str
) -> str:
    """Return what is left of the way from MFCC to pre-trained, mean over off-task tasks."""
    if not bases:
        return ""
    floor = study.figures(tuned_on, "MFCC")
    shares = [
        (_mean(figures, task) - floor[task][0]) / (_mean(bases, task) - floor[task][0])
        for task in TASKS
        if task != tuned_on
    ]
    return f"{100 * float(np.mean(shares)):.0f}"


def _mean(figures: list[dict[str, float]], task: str) -> float:
    return float(np.mean([found[task] for found in figures]))


def mediator(judge: Judge) -> Found:
    """Return the slope of alpha* over log2 of the weight move, first seed that has it."""
    updates = (UPDATES, *STRONGER)

    def figure(lineage: int) -> Floats:
        slopes = []
        for task in TUNED_ON:
            moves = [_move(judge, lineage, task, u) for u in updates]
            best = [best_alpha(judge, lineage, task, u) for u in updates]
            known = bool(np.isfinite([*moves, *best]).all()) and len(set(moves)) > 1
            slopes.append(slope(np.log2(moves), best) if known else np.nan)
        return np.array([np.mean(slopes)])

    return judge.over(figure)


def _move(judge: Judge, lineage: int, task: str, updates: int) -> float:
    kind, variant = ("path", "") if updates == UPDATES else ("stronger", str(updates))
    for seed in judge.evidence.seeds(lineage):
        row = judge.evidence.features.get(Encoder(lineage, task, seed, kind, variant, 1.0, updates))
        if row is not None:
            return float(row["move"])
    return float("nan")


def further(judge: Judge) -> dict[str, Estimate | None]:
    """Return by name the further figures that have an interval."""
    found = {"D, heard voices": domains(judge, "cells", "heard", TUNED_ON)}
    found["D at home, heard voices"] = domains(judge, "home", "heard", TUNED_ON)
    for task in TUNED_ON:
        found[f"D, unseen, tuned on {task.upper()}"] = domains(judge, "cells", "unseen", (task,))
    found["alpha* over log2 of the weight move"] = mediator(judge)
    return {name: figure.estimate for name, figure in found.items()}


def strength_table(judge: Judge) -> str:
    """Return alpha* by lineage, task and number of updates."""
    rows = []
    for tuned_on in TUNED_ON:
        for lineage in judge.lineages:
            found = [best_alpha(judge, lineage, tuned_on, u) for u in (UPDATES, *STRONGER)]
            if np.isfinite(found).any():
                words = ["open" if np.isnan(value) else f"{value:g}" for value in found]
                rows.append([tuned_on.upper(), str(lineage), *words])
    header = ["tuned on", "lineage", *(f"{u} updates" for u in (UPDATES, *STRONGER))]
    return table_of(header, rows) if rows else "No strength is measured yet.\n"


def similarity_table(judge: Judge) -> str:
    """Return similarity, weight move and open-set EER beside off-task, by kind of encoder."""
    table: dict[tuple[str, str, float], list[tuple[float, float, float, float]]] = {}
    for encoder, row in judge.evidence.features.items():
        off = judge.evidence.off_task(encoder)[0]
        shown_at = encoder.tuned_on and encoder.alpha in (ALPHA, 1.0)
        if encoder.lineage in judge.lineages and shown_at and np.isfinite(off):
            key = (encoder.tuned_on.upper(), method_of(encoder), encoder.alpha)
            eer = min(value for value in row["eer"] if value is not None)
            table.setdefault(key, []).append((similarity_of(row), row["move"], eer, float(off)))
    if not table:
        return "No features are looked at yet.\n"
    rows = []
    for (tuned_on, method, alpha), found in sorted(table.items()):
        similar, move, eer, off = np.mean(found, 0)
        figures = [f"{similar:.3f}", f"{move:.3f}", f"{eer:.1f}", f"{off:+.2f}", str(len(found))]
        rows.append([tuned_on, method, f"{alpha:g}", *figures])
    header = ["tuned on", "method", "alpha", "similarity", "weight move", "open-set EER, %"]
    return table_of([*header, "off-task", "encoders"], rows)
