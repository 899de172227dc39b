"""Cells of the report's tables: figures with intervals and differences, and details of rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from speechft.reporting.figures import MISSING, Column, Figures, Look, number
from speechft.results import ResultRow

Figure = tuple[str, str, str]
"""(encoder, task, metric)."""


@dataclass(frozen=True)
class Cell:
    """One figure of the main table, written out."""

    value: str
    interval: str = ""
    delta: str = ""
    """Difference to the pre-trained encoder, with its sign."""
    verdict: str = ""
    """``better`` or ``worse`` where the paired comparison with the pre-trained encoder says so;
    else ``near``."""
    best: bool = False
    unconverged: bool = False
    """The probe was still improving when its training ended."""


@dataclass(frozen=True)
class Line:
    """One encoder of the main table."""

    encoder: str
    look: Look
    cells: tuple[Cell, ...]


def main_lines(
    figures: Figures,
    scores: Mapping[str, float | None],
    colours: Mapping[Figure, str],
    columns: Sequence[Column] | None = None,
) -> list[Line]:
    """Return the lines of the main table; the score is the last cell where any encoder has one.

    Args:
        figures: All figures.
        scores: By encoder.
        colours: ``better`` or ``worse`` by (encoder, task, metric), from paired comparisons.
        columns: Of the table; None takes those of the figures.
    """
    scored = has_scores(figures, scores)
    columns = figures.columns if columns is None else columns
    lines = []
    for name in figures.encoders:
        cells = [_cell(figures, name, column, colours) for column in columns]
        if scored:
            cells.append(_score(figures, scores, name))
        lines.append(Line(name, figures.looks[name], tuple(cells)))
    return lines


def marked(lines: Iterable[Line], choice: str | None) -> list[Line]:
    """Return lines of a sweep, in which its choice alone looks like the merged encoder."""
    return [line if line.encoder == choice else replace(line, look=Look.OTHER) for line in lines]


def has_scores(figures: Figures, scores: Mapping[str, float | None]) -> bool:
    """Tell whether any encoder of the table has a score."""
    return any(_finite(scores.get(name)) for name in figures.encoders)


def _cell(figures: Figures, name: str, column: Column, colours: Mapping[Figure, str]) -> Cell:
    row, value = figures.row(name, column), figures.value(name, column)
    if row is None or value is None:
        return Cell(MISSING)
    return Cell(
        number(value, column.decimals),
        interval=_interval(row, column.decimals),
        best=figures.is_best(name, column),
        unconverged=row.details.get("converged") is False,
        **_difference(figures, name, column, value, colours),
    )


def _difference(
    figures: Figures, name: str, column: Column, value: float, colours: Mapping[Figure, str]
) -> dict[str, str]:
    """Return text and verdict of the difference to the pre-trained encoder."""
    base = figures.base(name, column)
    if base is None or name == figures.reference or figures.looks[name] is Look.FLOOR:
        return {}
    verdict = colours.get((name, column.task, column.metric), "near")
    return {"delta": number(value - base, column.decimals, signed=True), "verdict": verdict}


def _score(figures: Figures, scores: Mapping[str, float | None], name: str) -> Cell:
    value = scores.get(name)
    if value is None or not math.isfinite(value):
        return Cell(MISSING)
    rivals = {
        other: score
        for other in figures.encoders
        if (score := scores.get(other)) is not None
        and math.isfinite(score)
        and figures.looks[other] is not Look.FLOOR
    }
    best = name in rivals and len(rivals) > 1 and value == max(rivals.values())
    base = scores.get(figures.reference or "")
    if base is None or name not in rivals or name == figures.reference:
        return Cell(number(value, 0), best=best)
    delta = number(value - base, 0, signed=True)
    return Cell(number(value, 0), delta=delta, verdict="near", best=best)


def _interval(row: ResultRow, decimals: int) -> str:
    if row.interval is None or not all(math.isfinite(end) for end in row.interval):
        return ""
    return " to ".join(number(end, decimals) for end in row.interval)


_ROW_COLUMNS = (
    "encoder",
    "task",
    "metric",
    "value",
    "95 % interval",
    "split",
    "n",
    "protocol",
    "seed",
    "learning rate",
    "alpha",
    "layer",
    "dev",
    "grid on dev",
    "converged",
)
_LISTED = {"dev", "grid", "converged", "layer_weights"}


def detail_table(rows: Iterable[ResultRow]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells with all that is known of each row; empty columns are left out."""
    lines = [_details(row) for row in rows]
    extra = dict.fromkeys(key for line in lines for key in line if key not in _ROW_COLUMNS)
    header = [key for key in (*_ROW_COLUMNS, *extra) if any(line.get(key) for line in lines)]
    return header, [[line.get(key) or MISSING for key in header] for line in lines]


def _details(row: ResultRow) -> dict[str, str]:
    details = row.details
    grid = details.get("grid")
    known = {
        "encoder": row.encoder,
        "task": row.task,
        "metric": row.metric.replace("_", " "),
        "value": number(row.value, 2),
        "95 % interval": _interval(row, 2),
        "split": row.split,
        "n": str(row.n),
        "protocol": row.protocol,
        "seed": str(row.seed),
        "learning rate": _text(row.learning_rate),
        "alpha": _text(row.alpha),
        "layer": _text(row.layer),
        "dev": _text(details.get("dev")),
        "grid on dev": _grid(grid) if isinstance(grid, Mapping) else "",
        "converged": _text(details.get("converged")),
    }
    others = {
        key.replace("_", " "): _text(value)
        for key, value in details.items()
        if key not in _LISTED and isinstance(value, bool | int | float | str)
    }
    return {
        **others,
        **known,
        "encoder digest": row.encoder_digest[:12],
        "evaluation": (row.evaluation or "")[:8],
    }


def _grid(grid: Mapping[Any, Any]) -> str:
    return ", ".join(f"{rate}: {_text(value)}" for rate, value in grid.items())


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else MISSING
    return str(value)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def language_table(rows: Iterable[ResultRow]) -> tuple[list[str], list[list[str]]] | None:
    """Return header and lines of the figures by language; None where no task has several.

    Rows hold them in ``details["languages"]``, see `speechft.evaluation.languages`.
    """
    found = [(row, told) for row in rows if (told := _languages(row))]
    names = sorted({name for _, told in found for name in told})
    if not names:
        return None
    header = ["encoder", "task", "figure", *names, "all"]
    lines = []
    for row, told in found:
        column = Column(row.task, row.metric, row.higher_is_better)
        cells = [number(told[name], column.decimals) if name in told else MISSING for name in names]
        whole = number(row.value, column.decimals)
        lines.append([row.encoder, row.task, column.metric_name, *cells, whole])
    return header, lines


def _languages(row: ResultRow) -> dict[str, float]:
    """Return the values of a row by language; nothing where it says something else."""
    told = row.details.get("languages")
    if not isinstance(told, Mapping):
        return {}
    values = {n: v.get("value") for n, v in told.items() if isinstance(v, Mapping)}
    kept = {str(n): float(v) for n, v in values.items() if isinstance(v, int | float)}
    return kept if len(kept) > 1 else {}
