"""Which effects can so many lineages show? Simulated from the rows of lineages 1 to 3.

    python studies/power.py

How much the merge differs from stable tuning (off-task, in logits) varies over lineages, tuning
seeds and items; these parts are estimated from ``studies/demo`` and drawn anew for other numbers of
lineages with two tuning seeds each. Printed: the effect that is found in 80 of 100 studies, at the
first step of Holm's list and at the last one, and how often an interval of 95 % holds the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from demo_table import TUNED, Floats, Study, place_of, read, table_of
from inference import ALPHA, logit_error
from scipy import stats

CLAIMS = 10
"""Length of the closed list in ``DESIGN.md``."""
SEEDS = 2
SPEAKERS = 30
STUDIES = 20_000
TASKS = ("pr", "sid", "ic")
POWER = 0.8
WIDER = 1.5
"""Finding equal gain on dev adds noise that the old rows do not hold: spreads also times this."""


@dataclass(frozen=True)
class Parts:
    """Standard deviations of a difference over what it varies with."""

    lineage: float
    seed: float
    items: float
    """Of the mean over three lineages and five seeds."""

    def times(self, factor: float) -> Parts:
        """Return all of them larger."""
        return Parts(factor * self.lineage, factor * self.seed, factor * self.items)


def off_task(study: Study, tuned_on: str, first: str, second: str) -> Floats:
    """Return (1 + draws, cells) of how much better the first is off-task, in logits."""
    tasks = [task for task in TASKS if task != tuned_on]
    cells, total = study.cells(tuned_on), 0.0
    for task in tasks:
        sides = []
        for name in (first, second):
            known = study.values(tuned_on if name in TUNED else "", name, task)
            figures = np.stack([known[place_of(name, cell)] for cell in cells], 1)
            sides.append(logit_error(figures if task == "pr" else 100 - figures))
        total = total + (sides[1] - sides[0]) / len(tasks)
    return np.asarray(total)


def parts_of(differences: Floats, cells: list[tuple[int, int]]) -> Parts:
    """Return the parts of the variance, by the method of moments, none below 0."""
    numbers = sorted({lineage for lineage, _ in cells})
    groups = [differences[0][[lineage == number for lineage, _ in cells]] for number in numbers]
    within = float(np.mean([group.var(ddof=1) for group in groups]))
    between = float(np.var([group.mean() for group in groups], ddof=1))
    lineage = max(0.0, between - within / len(groups[0])) ** 0.5
    return Parts(lineage, within**0.5, float(differences[1:].mean(1).std()))


def simulate(parts: Parts, lineages: int, level: float) -> tuple[float, float]:
    """Return the least effect that is found with ``POWER`` at a level, and the coverage of 95 %."""
    rng = np.random.default_rng(lineages)
    spread = (parts.lineage**2 + parts.seed**2 / SEEDS) ** 0.5
    drawn = spread * rng.normal(size=(STUDIES, lineages))
    between = drawn.var(1, ddof=1) / lineages
    within = parts.items**2 * rng.chisquare(SPEAKERS - 1, STUDIES) / (SPEAKERS - 1)
    error = np.sqrt(between + within)
    freedom = (between + within) ** 2 / (between**2 / (lineages - 1) + within**2 / (SPEAKERS - 1))
    noise = drawn.mean(1) + parts.items * rng.normal(size=STUDIES)
    covered = float(np.mean(np.abs(noise) <= stats.t.ppf(0.975, freedom) * error))
    # found where effect + noise exceeds the critical value: the quantile of what is needed
    needed = stats.t.ppf(1 - level / 2, freedom) * error - noise
    return float(np.quantile(needed, POWER)), covered


def main() -> None:
    study = Study(*read())
    rows = []
    for tuned_on in ("sid", "pr"):
        differences = off_task(study, tuned_on, "Speech-FT 0.25", "stable")
        parts = parts_of(differences, study.cells(tuned_on))
        print(
            f"tuned on {tuned_on}: {differences[0].mean():+.3f}; standard deviations: lineages "
            f"{parts.lineage:.3f}, tuning seeds {parts.seed:.3f}, items {parts.items:.3f}"
        )
        for factor in (1.0, WIDER):
            for lineages in (2, 3, 4):
                first, covered = simulate(parts.times(factor), lineages, ALPHA / CLAIMS)
                last, _ = simulate(parts.times(factor), lineages, ALPHA)
                row = [tuned_on, f"{factor:g}", str(lineages), f"{first:.2f}", f"{last:.2f}"]
                rows.append([*row, f"{100 * covered:.0f}"])
    header = ["tuned on", "spreads times", "lineages", "found first", "found last", "covers, %"]
    print(table_of(header, rows))


if __name__ == "__main__":
    main()
