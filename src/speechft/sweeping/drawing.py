"""Pictures beside the files of sweeps, searches and suggestions, drawn from what these say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechft.console import warn
from speechft.errors import RunError
from speechft.reporting import sweep_plots as plots
from speechft.reporting.report import require_extra
from speechft.reporting.sweeps import read_suggestion, read_swept
from speechft.storage.outputs import put_text

CURVE, FRONT, SUGGESTION = "curve.svg", "front.svg", "suggestion.svg"
PICTURES = (CURVE, FRONT)


def draw(content: Mapping[str, Any], folder: Path) -> None:
    """Write the pictures of a sweep; without the extra ``report`` say that there are none.

    Args:
        content: As ``sweep.json`` has it.
        folder: Where they go.
    """
    if _can_draw():
        swept = read_swept(content)
        tasks = list(dict.fromkeys(task for point in swept.points for task in point.changes))
        put_text(folder / CURVE, plots.gain_curve("sweep-curve", tasks, swept, legend=True))
        draw_front(content, folder)


def draw_front(content: Mapping[str, Any], folder: Path) -> None:
    """Write the front alone, for merges that lie on no line; see `draw`."""
    swept = read_swept(content)
    if plots.placed_points(swept) and _can_draw():
        put_text(folder / FRONT, plots.front("sweep-front", swept, legend=True))


def draw_suggestion(content: Mapping[str, Any], folder: Path) -> None:
    """Write the picture of a suggestion, as ``suggestion.json`` has it; see `draw`."""
    if _can_draw():
        picture = plots.suggestion("sweep-suggestion", read_suggestion(content), legend=True)
        put_text(folder / SUGGESTION, picture)


def _can_draw() -> bool:
    try:
        require_extra()
    except RunError as error:
        warn(f"no pictures: {error.message}; {error.hint}")
        return False
    return True
