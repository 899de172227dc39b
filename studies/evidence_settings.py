"""Settings of the rivals: what was tried on lineage 1, on dev alone, and which of three goes on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from demo_table import table_of
from evidence_figures import LEVELS, Judge, Path_, merges
from evidence_units import RIVALS, SEEDS, SHORT_PATH, TRIES, Unit, changes_of

TRIED_ON = 1
_TRIED = """Off-task, logits, on dev of lineage 1 where the path {0, .25, .5, 1} reaches a share of
stable's gain on speakers: what chooses a rival's setting, the same number for each. No verdict.
"""


def settings_of(method: str) -> dict[str, Path_]:
    """Return the paths of a rival's settings by what they change, the first one first."""
    first = Unit("rival", TRIED_ON, "sid", SEEDS[0], method)
    units = [first]
    for number in range(len(TRIES[method])):
        units.append(Unit("attempt", TRIED_ON, "sid", SEEDS[0], f"{method}-{number + 1}"))
    return {_said(unit): merges(unit.kind, unit.variant, SHORT_PATH) for unit in units}


def _said(unit: Unit) -> str:
    """Return what a unit sets beyond the first setting of its method."""
    if unit.kind == "rival":
        return "as it comes"
    key, _, value = changes_of(unit)[-1].partition("=")
    return f"{key.rpartition('.')[2].replace('_', ' ')} {value}"


def tried(judge: Judge, method: str) -> dict[str, tuple[float, ...]]:
    """Return the figures of a rival's settings at each level; NaN where it is not reached.

    Settings that are not measured are left out.

    Args:
        judge: Of lineage 1.
        method: Key of `RIVALS`.
    """
    found = {}
    for name, path in settings_of(method).items():
        if all(np.isfinite(judge.evidence.gain(e)[0]) for e in path(TRIED_ON, "sid", SEEDS[0])):
            (levels,) = judge.at_levels((path,), TRIED_ON, "sid", split="dev")
            found[name] = tuple(levels[:, 0].tolist())
    return found


def chosen(figures: Mapping[str, tuple[float, ...]]) -> str:
    """Return the setting with the best mean over the levels that it reaches; else the first."""
    means = {name: float(np.mean(k)) for name, v in figures.items() if (k := _known(v))}
    return max(means, key=lambda name: means[name]) if means else next(iter(figures))


def _known(values: tuple[float, ...]) -> list[float]:
    return [value for value in values if np.isfinite(value)]


def settings_table(judge: Judge) -> str:
    """Return what was tried of each rival."""
    here, rows = Judge(judge.evidence, (TRIED_ON,)), []
    for method in RIVALS:
        figures = tried(here, method)
        whole = len(figures) == 1 + len(TRIES[method])
        for name, values in figures.items():
            word = "goes on" if whole and name == chosen(figures) else ""
            cells = [f"{v:+.2f}" if np.isfinite(v) else "not reached" for v in values]
            rows.append([method, name, *cells, word if whole else "to be compared"])
    header = ["rival", "setting", *(f"at {level:.0%}" for level in LEVELS), ""]
    return f"{_TRIED}\n{table_of(header, rows)}" if rows else "Nothing is tried yet.\n"
