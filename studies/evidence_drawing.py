"""Figures of the evidence: gain against off-task, and similarity against off-task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from evidence_claims import similarity_of
from evidence_figures import Encoder, Judge, Path_
from evidence_units import TUNED_ON, UPDATES, method_name

IMAGES = Path(__file__).parents[1] / "docs" / "images"
FRONTIERS, SIMILARITY = "evidence-frontiers.png", "evidence-similarity.png"
MERGED, FIRST = ", merged", ", first setting"
"""Ends of the names of what has the colour of its method."""
ALIKE = {"weaker": "stable, fewer updates", "stronger": "stable, more updates"}
ALIKE |= {"early": "early states"}
"""Kinds that are one in the picture of similarity, however many updates they had."""
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
    for encoder, row in sorted(judge.evidence.features.items(), key=lambda pair: str(pair[0])):
        value = float(judge.evidence.off_task(encoder)[0])
        own = encoder.lineage in judge.lineages and encoder.tuned_on == tuned_on
        if own and np.isfinite(value):
            merged = "" if encoder.alpha == 1.0 and encoder.kind != "lines" else MERGED
            kind = ALIKE.get(encoder.kind, method_of(encoder))
            result.setdefault(f"{kind}{merged}", []).append((similarity_of(row), value))
    return result


def method_of(encoder: Encoder) -> str:
    """Return how an encoder, or the tuned end of a merge, was tuned, in words."""
    if encoder.kind == "rival":
        return method_name(encoder.variant)
    names = {"arm": f"arm {encoder.variant}", "early": "early state"}
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
    """Draw a side for each tuned task; a colour for each method, its first setting broken.

    Without lines, merges are hollow.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    every = dict.fromkeys(name for points in sides for name in points)
    methods = list(dict.fromkeys(map(_method, every)))
    colours = pyplot.get_cmap("tab10" if len(methods) <= 10 else "tab20").colors
    figure, axes = pyplot.subplots(1, len(sides), figsize=(10, 4.6), layout="constrained")
    for axis, points, task in zip(axes, sides, TUNED_ON, strict=True):
        for name, found in points.items():
            xs, ys = zip(*found, strict=True)
            colour = colours[methods.index(_method(name))]
            face = "none" if MERGED in name else colour
            broken = {"linestyle": "--" if FIRST in name else "-", "linewidth": 1.2}
            style = broken if lines else {"linestyle": "none"}
            marks = {"marker": "s" if FIRST in name else "o", "markerfacecolor": face}
            axis.plot(xs, ys, color=colour, markersize=4, label=name, **marks, **style)
        axis.axhline(0, color="0.8", zorder=0)
        axis.set_title(f"tuned on {task.upper()}", fontsize=9)
        axis.set_xlabel("gain on the tuned task, logits, dev" if lines else "similarity (CKA)")
        axis.set_ylabel("off-task, logits")
    shown = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=5, fontsize=7)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _method(name: str) -> str:
    return name.removesuffix(MERGED).removesuffix(FIRST)
