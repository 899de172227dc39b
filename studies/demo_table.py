"""Tables and figure of the demo's evidence, from the committed rows of ``studies/demo``.

    python studies/demo_table.py

Intervals are 90 %, from a hierarchical bootstrap: lineages are drawn, tuning seeds within them, and
for the items, which all encoders share, speakers and utterances within them. All encoders see the
same draws, so differences are paired. Probe seeds are averaged first. Three lineages are few: such
an interval covers the truth less often than 90 % where lineages differ more than seeds do (down to
70 % in simulation, see ``tests/test_studies.py``), so PER is also given for each lineage alone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from speechft.evaluation.miniature_score import load_anchors

HERE = Path(__file__).with_name("demo")
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "study-alpha.png"
TASKS = {"pr": "PR, PER %", "sid": "SID, %", "ic": "IC, %", "style": "style, %"}
FLOORS = ("MFCC", "random")
TUNED = ("plain-cnn", "stable", "Speech-FT 0.25")
RATES = ("substitutions", "insertions", "deletions", "blank_ratio")
DRAWS = 2000
LEVEL = 0.90
MARGIN = 1.5
"""Points: "keeps PR" means that the interval of the PER difference lies within plus or minus it."""
Floats = npt.NDArray[np.float64]


@dataclass
class Table:
    """Rows of encoders that belong together: by lineage and tuning seed, every probe seed's."""

    rows: dict[tuple[int, int], dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    def add(self, row: dict[str, Any]) -> None:
        """Take one row in."""
        cell = self.rows.setdefault((row["lineage"], row.get("tuning_seed", 0)), {})
        cell.setdefault(row["task"], []).append(row)


def read() -> tuple[dict[tuple[str, str], Table], dict[str, Any]]:
    """Return tables by (task that was tuned on, encoder), and the items of every task."""
    tables: dict[tuple[str, str], Table] = defaultdict(Table)
    for path in sorted(HERE.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            tables[row.get("tuned_on", ""), row["encoder"]].add(row)
    return dict(tables), json.loads((HERE / "items.json").read_text())


def item_weights(speakers: Sequence[str], draws: int, seed: int) -> Floats:
    """Return (draws, n) weights: speakers drawn, then as many utterances of each as it has."""
    rng = np.random.default_rng(seed)
    names, numbers = np.unique(speakers, return_inverse=True)
    chosen = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    weights = np.zeros((draws, len(numbers)))
    for number in range(len(names)):
        places = np.flatnonzero(numbers == number)
        times = chosen[:, number] * len(places)
        weights[:, places] = rng.multinomial(times, np.full(len(places), 1 / len(places)))
    return weights


def level_draws(cells: Sequence[tuple[int, int]], draws: int, seed: int) -> Floats:
    """Return (draws, cells) weights that add up to 1: lineages drawn, then seeds within each."""
    rng = np.random.default_rng(seed)
    lineages = sorted({lineage for lineage, _ in cells})
    chosen = rng.multinomial(len(lineages), np.full(len(lineages), 1 / len(lineages)), size=draws)
    weights = np.zeros((draws, len(cells)))
    for number, lineage in enumerate(lineages):
        places = [place for place, cell in enumerate(cells) if cell[0] == lineage]
        times = chosen[:, number] * len(places)
        drawn = rng.multinomial(times, np.full(len(places), 1 / len(places)))
        weights[:, places] = drawn / len(places)
    return weights / len(lineages)


def level_means(cells: Sequence[tuple[int, int]]) -> Floats:
    """Return (cells,) weights that add up to 1: every lineage counts alike."""
    weights = np.array([1 / sum(c[0] == cell[0] for c in cells) for cell in cells])
    return weights / weights.sum()


def place_of(encoder: str, cell: tuple[int, int]) -> tuple[int, int]:
    """Return where an encoder's rows stand that are compared with those of a cell."""
    if encoder in FLOORS:
        return 1, 0
    return cell if encoder in TUNED else (cell[0], 0)


class Study:
    """Figures and resampled figures of every encoder.

    Args:
        tables: From `read`.
        items: Speakers and totals by task.
    """

    def __init__(self, tables: dict[tuple[str, str], Table], items: dict[str, Any]) -> None:
        self.tables, self.items = tables, items
        speakers = {task: item_weights(items[task]["speakers"], DRAWS, 0) for task in TASKS}
        self._items = {
            task: np.vstack([np.ones_like(weights[:1]), weights])
            for task, weights in speakers.items()
        }  # the first row is the sample itself

    def values(self, tuned_on: str, encoder: str, task: str) -> dict[tuple[int, int], Floats]:
        """Return by cell (1 + DRAWS,) figures, over the sample and over resampled items."""
        totals = np.array(self.items[task]["totals"], dtype=float)
        weights, result = self._items[task], {}
        for cell, by_task in self.tables[tuned_on, encoder].rows.items():
            amounts = np.mean([np.array(row["amounts"].split(), float) for row in by_task[task]], 0)
            result[cell] = 100 * (weights @ amounts) / (weights @ totals)
        return result

    def figures(self, tuned_on: str, encoder: str, lineage: int | None = None) -> dict[str, Floats]:
        """Return by task (1 + DRAWS,) figures over lineages and tuning seeds.

        What was not tuned is taken from the lineages that are drawn for the tuned encoders.

        Args:
            tuned_on: Task that was tuned on.
            encoder: Which encoder.
            lineage: Only this one; None takes all.
        """
        cells = self.cells(tuned_on, lineage)
        weights = np.vstack([level_means(cells), level_draws(cells, DRAWS, 1)])
        figures = {}
        for task in TASKS:
            known = self.values(tuned_on if encoder in TUNED else "", encoder, task)
            rows = [known[place_of(encoder, cell)] for cell in cells]
            figures[task] = (weights * np.stack(rows, 1)).sum(1)
        return figures

    def cells(self, tuned_on: str, lineage: int | None = None) -> list[tuple[int, int]]:
        """Return the (lineage, tuning seed) for which every tuned encoder is measured."""
        known = [set(self.tables.get((tuned_on, e), Table()).rows) for e in TUNED]
        found = sorted(set.intersection(*known))
        return [cell for cell in found if lineage in (None, cell[0])]


def score(figures: dict[str, Floats]) -> Floats:
    """Return the miniature SUPERB score with the packaged anchors."""
    anchors = load_anchors().tasks
    parts = [
        (figures[task] - anchor.floor) / (anchor.ceiling - anchor.floor)
        for task, anchor in anchors.items()
    ]
    return 1000 * np.mean(parts, 0)


def kept(
    figures: dict[str, Floats], base: dict[str, Floats], floor: dict[str, Floats], tuned_on: str
) -> dict[str, Floats]:
    """Return (x - floor) / (pre-trained - floor) of every task but the one tuned on, in percent."""
    return {
        task: 100 * (figures[task] - floor[task]) / (base[task] - floor[task])
        for task in TASKS
        if task != tuned_on
    }


def retention(
    figures: dict[str, Floats], base: dict[str, Floats], floor: dict[str, Floats], tuned_on: str
) -> Floats:
    """Return the mean of `kept`: the study's primary figure.

    A gain on one task makes up for a loss on another in it, so `kept` stands beside it.
    """
    return np.mean(list(kept(figures, base, floor, tuned_on).values()), 0)


def shown(values: Floats, digits: int = 1, sign: str = "") -> str:
    """Return the figure with its interval."""
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return f"{values[0]:{sign}.{digits}f} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def judged(difference: Floats) -> str:
    """Return whether PR is kept, by the interval of the PER difference.

    A PER that is kept within the margin may be significantly higher or lower: both are said.
    """
    low, high = np.quantile(difference[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if low >= -MARGIN and high <= MARGIN:
        word = "higher" if low > 0 else "lower" if high < 0 else ""
        return f"keeps PR, PER significantly {word}" if word else "keeps PR"
    return "gains PR" if high < 0 else "loses PR" if low > 0 else "open"


def table_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tables_of(study: Study, tuned_on: str) -> str:
    """Return the Markdown tables of a task that was tuned on."""
    names = (*FLOORS, "pre-trained", *TUNED)
    figures = {name: study.figures(tuned_on, name) for name in names}
    cells = study.cells(tuned_on)
    lineages = sorted({lineage for lineage, _ in cells})
    title = f"### Tuned on {tuned_on}: {len(cells)} fine-tunings, {len(lineages)} lineages\n"
    parts = [title, figures_table(figures, tuned_on), differences_table(figures)]
    parts += [kept_table(figures, tuned_on), lineage_table(study, tuned_on, lineages)]
    return "\n".join([*parts, details_table(study, tuned_on, names)])


def figures_table(figures: dict[str, dict[str, Floats]], tuned_on: str) -> str:
    """Return figures, score and retention of every encoder."""
    base, floor = figures["pre-trained"], figures["MFCC"]
    rows = []
    for name, found in figures.items():
        row = [name, *(shown(found[task]) for task in TASKS), shown(score(found), 0)]
        whole = shown(retention(found, base, floor, tuned_on), 0) if name in TUNED else ""
        rows.append([*row, whole])
    return table_of(["encoder", *TASKS.values(), "score", "off-task retention, %"], rows)


def differences_table(figures: dict[str, dict[str, Floats]]) -> str:
    """Return differences to the pre-trained encoder, and of the merged to the stable one."""
    pairs = [(name, "pre-trained") for name in TUNED] + [("Speech-FT 0.25", "stable")]
    rows = []
    for first, second in pairs:
        one, two = figures[first], figures[second]
        row = [f"{first} minus {second}", *(shown(one[t] - two[t], sign="+") for t in TASKS)]
        row.append(shown(score(one) - score(two), 0, "+"))
        rows.append([*row, judged(one["pr"] - two["pr"]) if second == "pre-trained" else ""])
    return table_of(["difference", *TASKS.values(), "score", "PR"], rows)


def kept_table(figures: dict[str, dict[str, Floats]], tuned_on: str) -> str:
    """Return how much of the way from MFCC to pre-trained is left, by task."""
    tasks = [task for task in TASKS if task != tuned_on]
    rows = []
    for name in TUNED:
        parts = kept(figures[name], figures["pre-trained"], figures["MFCC"], tuned_on)
        rows.append([name, *(shown(parts[task], 0) for task in tasks)])
    return table_of(["kept, %", *tasks], rows)


def lineage_table(study: Study, tuned_on: str, lineages: Sequence[int]) -> str:
    """Return the difference of PER to the pre-trained encoder for each lineage by itself."""
    rows = []
    for name in TUNED:
        row = [name]
        for lineage in lineages:
            one, two = (study.figures(tuned_on, n, lineage)["pr"] for n in (name, "pre-trained"))
            row.append(f"{shown(one - two, sign='+')}, {judged(one - two)}")
        rows.append(row)
    return table_of(["PER minus pre-trained", *(f"lineage {n}" for n in lineages)], rows)


def details_table(study: Study, tuned_on: str, names: Sequence[str]) -> str:
    """Return kinds of phone errors and blank frames, of the same cells as all figures."""
    cells = study.cells(tuned_on)
    weights, rows = level_means(cells), []
    for name in names:
        known = study.tables[tuned_on if name in TUNED else "", name].rows
        by_cell = [known[place_of(name, cell)]["pr"] for cell in cells]
        means = [weights @ [np.mean([row[key] for row in r]) for r in by_cell] for key in RATES]
        rows.append([name, *(f"{mean:.1f}" for mean in means[:3]), f"{means[3]:.2f}"])
    header = ["PR in detail", "substitutions, %", "insertions, %", "deletions, %", "blank frames"]
    return table_of(header, rows)


def curve_of(study: Study, tuned_on: str) -> dict[str, dict[float, list[float]]]:
    """Return by task and alpha the dev figures of the first tuning seed, a figure a lineage.

    Only of the lineages for which that seed is measured, so that all points are of the same ones.
    """
    lineages = [lineage for lineage, seed in study.cells(tuned_on) if seed == 1]
    result: dict[str, dict[float, list[float]]] = {task: {} for task in TASKS}
    for (tuned, encoder), table in study.tables.items():
        alpha = alpha_of(encoder)
        cells = [(lineage, 1 if tuned else 0) for lineage in lineages]
        if alpha is None or tuned not in ("", tuned_on) or not set(cells) <= set(table.rows):
            continue
        for task in TASKS:
            rows = [table.rows[cell][task] for cell in cells]
            result[task][alpha] = [float(np.mean([row["dev"] for row in part])) for part in rows]
    return result


def alpha_of(encoder: str) -> float | None:
    """Return the coefficient of an encoder on the way from pre-trained to stably tuned."""
    if encoder.startswith("Speech-FT"):
        return float(encoder.split()[1])
    return {"pre-trained": 0.0, "stable": 1.0}.get(encoder)


def draw(study: Study) -> None:
    """Draw dev figures over alpha, a line for each lineage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(11, 5), sharex=True, layout="constrained")
    for row, tuned_on in zip(axes, ("sid", "pr"), strict=True):
        for axis, (task, title) in zip(row, TASKS.items(), strict=True):
            curve = curve_of(study, tuned_on)[task]
            alphas = sorted(curve)
            for number in range(len(curve.get(0.0, ()))):
                axis.plot(alphas, [curve[a][number] for a in alphas], marker="o", markersize=3)
            axis.set_title(f"tuned on {tuned_on.upper()}: {title}", fontsize=9)
            axis.axvline(0.25, color="0.8", zorder=0)
    figure.supxlabel("alpha; dev, first tuning seed, a line for each lineage", fontsize=9)
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    study = Study(*read())
    for tuned_on in ("sid", "pr"):
        if not study.cells(tuned_on):
            print(f"tuned on {tuned_on}: no fine-tuning is measured yet\n")
            continue
        print(tables_of(study, tuned_on))
        for task, curve in curve_of(study, tuned_on).items():
            points = {alpha: round(float(np.mean(values)), 1) for alpha, values in curve.items()}
            print(f"dev, {task}: {dict(sorted(points.items()))}")
        print()
    if any(encoder == "Speech-FT 0.5" for _, encoder in study.tables):
        draw(study)


if __name__ == "__main__":
    main()
