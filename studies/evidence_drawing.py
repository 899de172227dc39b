"""Figures of the evidence: gain against off-task, and similarity against off-task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from evidence_claims import similarity_of
from evidence_figures import Encoder, Judge, Path_
from evidence_units import TUNED_ON, UPDATES

IMAGES = Path(__file__).parents[1] / "docs" / "images"
FRONTIERS, SIMILARITY = "evidence-frontiers.png", "evidence-similarity.png"
Points = dict[str, list[tuple[float, float]]]


def frontiers(judge: Judge, paths: Mapping[str, Path_], tuned_on: str) -> Points:
    """Return by method the mean (gain on dev, off-task on test) of its path."""
    evidence, result = judge.evidence, {}
    for name, path in paths.items():
        cells = [(n, seed) for n in judge.lineages for seed in evidence.seeds(n)]
        every = [
            [(evidence.gain(e)[0], evidence.off_task(e)[0]) for e in path(n, tuned_on, seed)]
            for n, seed in cells
        ]
        whole = [points for points in every if np.isfinite(points).all()]
        if whole:
            means = np.mean(whole, 0)
            result[name] = [(0.0, 0.0), *((float(x), float(y)) for x, y in means)]
    return result


def similarities(judge: Judge, tuned_on: str) -> Points:
    """Return by kind of encoder the (similarity, off-task) of each encoder of a tuned task."""
    result: Points = {}
    for encoder, row in judge.evidence.features.items():
        value = float(judge.evidence.off_task(encoder)[0])
        own = encoder.lineage in judge.lineages and encoder.tuned_on == tuned_on
        if own and np.isfinite(value):
            merged = "" if encoder.alpha == 1.0 and encoder.kind != "lines" else ", merged"
            name = f"{method_of(encoder)}{merged}"
            result.setdefault(name, []).append((similarity_of(row), value))
    return result


def method_of(encoder: Encoder) -> str:
    """Return how an encoder, or the tuned end of a merge, was tuned, in words."""
    names = {"rival": encoder.variant, "arm": f"arm {encoder.variant}", "early": "early state"}
    names |= {"lines": "LiNeS", "several": encoder.variant}
    name = names.get(encoder.kind, "stable")
    return name if encoder.updates == UPDATES else f"{name}, {encoder.updates} updates"


def draw(judge: Judge, paths: Mapping[str, Path_], folder: Path = IMAGES) -> list[str]:
    """Draw what there is; return the names of the files."""
    by_file = {
        FRONTIERS: [frontiers(judge, paths, task) for task in TUNED_ON],
        SIMILARITY: [similarities(judge, task) for task in TUNED_ON],
    }
    names = [name for name, sides in by_file.items() if any(sides)]
    for name in names:
        _draw(by_file[name], folder / name, lines=name == FRONTIERS)
    return names


def _draw(sides: list[Points], path: Path, *, lines: bool) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(sides), figsize=(10, 4), layout="constrained")
    for axis, points, task in zip(axes, sides, TUNED_ON, strict=True):
        for name, found in points.items():
            xs, ys = zip(*found, strict=True)
            axis.plot(xs, ys, "o-" if lines else "o", markersize=3, label=name)
        axis.axhline(0, color="0.8", zorder=0)
        axis.set_title(f"tuned on {task.upper()}", fontsize=9)
        axis.set_xlabel("gain on the tuned task, logits, dev" if lines else "similarity (CKA)")
        axis.set_ylabel("off-task, logits")
        if points:
            axis.legend(fontsize=7)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
