"""Further tables of the evidence: points, strength, similarity, parts of H1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from demo_table import Study, table_of
from evidence_claims import best_alpha, domains, predicts, similarity_of, slope
from evidence_drawing import method_of
from evidence_figures import Encoder, Found, Judge
from evidence_units import ALPHA, SEEDS, STRONGER, TASKS, TUNED_ON, UPDATES
from evidence_words import Difference
from inference import Estimate, Floats

_POINTS = "Test, mean over tuning seeds and lineages; then the change against pre-trained (95 %)."


def points_table(judge: Judge, study: Study) -> str:
    """Return figures of test in points, and retention, of base, stable and merged encoders.

    Args:
        judge: Of the lineages.
        study: The older rows, for the floor (MFCC on the same items).
    """
    of, rows = Difference(judge), []
    for tuned_on in TUNED_ON:
        known = {
            name: {task: of[f"{tuned_on} {task} {name}"].found.estimate for task in TASKS}
            for name in ("base", f"{ALPHA:g}", "stable")
        }
        means = {n: {t: f.value for t, f in k.items() if f} for n, k in known.items()}
        for name, figures in means.items():
            if len(figures) < len(TASKS) or len(means["stable"]) < len(TASKS):
                continue
            cells = [f"{value:.1f}" for value in figures.values()]
            if name != "base":
                changes = [of[f"{tuned_on} {task} {name} minus base"] for task in TASKS]
                cells = [f"{c}, {v:+.1b}" for c, v in zip(cells, changes, strict=True)]
            kept = _retention(figures, means["base"], study.figures(tuned_on, "MFCC"), tuned_on)
            shown = {"base": "pre-trained", "stable": "stable"}.get(name, f"merged {name}")
            rows.append([tuned_on.upper(), shown, *cells, f"{100 * kept:.0f}"])
    header = ["tuned on", "encoder", "PR, PER %", "SID, %", "IC, %", "retention, %"]
    return f"{_POINTS}\n\n{table_of(header, rows)}" if rows else "Nothing is measured yet.\n"


def _retention(
    figures: Mapping[str, float],
    base: Mapping[str, float],
    floor: Mapping[str, Sequence[float]],
    tuned_on: str,
) -> float:
    """Return what is left of the way from MFCC to pre-trained, mean over off-task tasks."""
    shares = [
        (figures[task] - floor[task][0]) / (base[task] - floor[task][0])
        for task in TASKS
        if task != tuned_on
    ]
    return float(np.mean(shares))


def mediator(judge: Judge) -> Found:
    """Return the slope of alpha* over log2 of the weight move, both of the first tuning seed."""
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
    encoder = Encoder(lineage, task, SEEDS[0], kind, variant, 1.0, updates)
    row = judge.evidence.features.get(encoder)
    return float("nan") if row is None else float(row["move"])


def further(judge: Judge) -> dict[str, Estimate | None]:
    """Return by name the further figures that have an interval."""
    found = {"D, heard voices": domains(judge, "cells", "heard", TUNED_ON)}
    found["D at home, heard voices"] = domains(judge, "home", "heard", TUNED_ON)
    for task in TUNED_ON:
        found[f"D, unseen, tuned on {task.upper()}"] = domains(judge, "cells", "unseen", (task,))
        found[f"H6 (b), tuned on {task.upper()} alone"] = predicts(judge, (task,))
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
