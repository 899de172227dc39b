"""Result rows as a table: which columns there are, what encoders stand for, how numbers look."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from speechft.belonging import measured_on, newest_test
from speechft.results import ResultRow, Role
from speechft.tasks import find_task, is_task, measure_of

MISSING = "–"
MINUS = "−"


class Look(StrEnum):
    """How an encoder looks in tables and figures: its role, tuned ones told apart by strategy."""

    FLOOR = "floor"
    REFERENCE = "reference"
    """The pre-trained encoder."""
    PLAIN = "plain"
    """Fine-tuned without precautions, beside another strategy."""
    TUNED = "tuned"
    """Fine-tuned by the strategy that is merged: the other end of the interpolation."""
    MERGED = "merged"
    OTHER = "other"
    """Anything else."""


def look_of(role: Role, strategy: str | None, main: str | None) -> Look:
    """Return how an encoder looks.

    Args:
        role: What it stands for.
        strategy: How it was fine-tuned.
        main: The strategy whose result is merged.
    """
    if role is Role.TUNED:
        if strategy == main:
            return Look.TUNED
        return Look.PLAIN if strategy in ("plain", "plain-cnn") else Look.OTHER
    if role is Role.MERGED and strategy != main:
        return Look.OTHER
    fixed = {
        Role.FLOOR: Look.FLOOR,
        Role.PRE_TRAINED: Look.REFERENCE,
        Role.MERGED: Look.MERGED,
    }
    return fixed.get(role, Look.OTHER)


def main_strategy(rows: Iterable[ResultRow]) -> str | None:
    """Return the strategy that is merged, the first where baselines are merged too.

    Without a merge it is the last one that was tuned by.
    """
    rows = list(rows)
    merged = [row.strategy for row in rows if row.role is Role.MERGED]
    tuned = [row.strategy for row in reversed(rows) if row.role is Role.TUNED]
    return next(iter([*merged, *tuned]), None)


@dataclass(frozen=True)
class Column:
    """A metric of a task."""

    task: str
    metric: str
    higher_is_better: bool
    decimals: int = 1

    @property
    def arrow(self) -> str:
        """The direction in which the metric gets better."""
        return "↑" if self.higher_is_better else "↓"

    @property
    def metric_name(self) -> str:
        """The metric as the field writes it, with its unit."""
        return measure_of(self.task, self.metric).heading

    @property
    def direction(self) -> str:
        """The direction in words."""
        return "higher is better" if self.higher_is_better else "lower is better"

    def gain(self, value: float, reference: float) -> float:
        """Return how much better ``value`` is than ``reference``; negative where it is worse."""
        return value - reference if self.higher_is_better else reference - value


class Figures:
    """Rows by encoder and column, both in order of appearance; see `side_by_side` for the rows."""

    def __init__(self, rows: Iterable[ResultRow]) -> None:
        self.rows = tuple(rows)
        self.encoders = tuple(dict.fromkeys(row.encoder for row in self.rows))
        self.columns = _columns(self.rows)
        self._cells = {(row.encoder, row.task, row.metric): row for row in self.rows}
        self.main = main_strategy(self.rows)
        """The strategy whose result is merged."""
        self.looks = {row.encoder: look_of(row.role, row.strategy, self.main) for row in self.rows}

    def row(self, encoder: str, column: Column) -> ResultRow | None:
        """Return the row of an encoder in a column."""
        return self._cells.get((encoder, column.task, column.metric))

    def value(self, encoder: str, column: Column) -> float | None:
        """Return a figure, or None where it is missing or not finite."""
        row = self.row(encoder, column)
        return row.value if row is not None and math.isfinite(row.value) else None

    @property
    def reference(self) -> str | None:
        """The pre-trained encoder, where there is one."""
        return self.with_look(Look.REFERENCE)

    def with_look(self, look: Look) -> str | None:
        """Return the first encoder with a look."""
        return next((name for name in self.encoders if self.looks[name] is look), None)

    def base(self, encoder: str, column: Column) -> float | None:
        """Return the pre-trained encoder's figure, where another was measured on the same test."""
        own, base = (self.row(name or "", column) for name in (encoder, self.reference))
        alike = own is not None and base is not None and measured_on(own) == measured_on(base)
        return self.value(self.reference or "", column) if alike else None

    def is_best(self, encoder: str, column: Column) -> bool:
        """Return whether an encoder's displayed value is the best of several that are no floors.

        Of what was measured on several tests, figures of the newest count.
        """
        rivals = [name for name in self.encoders if self.looks[name] is not Look.FLOOR]
        rows = {name: row for name in rivals if (row := self.row(name, column)) is not None}
        test = newest_test(rows.values()) if rows else {}
        alike = [name for name, row in rows.items() if measured_on(row) == test]
        values = {n: value for n in alike if (value := self.value(n, column)) is not None}
        if encoder not in values or len(values) < 2:
            return False
        pick: Callable[[Iterable[float]], float] = max if column.higher_is_better else min
        best = number(pick(values.values()), column.decimals)
        return number(values[encoder], column.decimals) == best


def _columns(rows: Sequence[ResultRow]) -> tuple[Column, ...]:
    directions = {(row.task, row.metric): row.higher_is_better for row in rows}
    return tuple(
        Column(*key, better, measure_of(*key).decimals) for key, better in directions.items()
    )


def number(value: float | None, decimals: int = 1, *, signed: bool = False) -> str:
    """Write a number with a real minus sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:{'+' if signed else ''}.{decimals}f}"
    if signed and not text.strip("+-0."):
        return f"±{text[1:]}"
    return text.replace("-", MINUS)


def table(
    report_rows: Sequence[ResultRow], scores: Mapping[str, float | None]
) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of the plain table: encoder, one column per task, score.

    The score's column is left out when no encoder has one.

    Args:
        report_rows: Figures; encoders and tasks keep their order.
        scores: Miniature SUPERB score by encoder.
    """
    figures = Figures(report_rows)
    scored = any(scores.get(name) is not None for name in figures.encoders)
    header = ["encoder", *(f"{c.task} {c.metric_name} {c.arrow}" for c in figures.columns)]
    cells = [
        [name, *(number(figures.value(name, c), c.decimals) for c in figures.columns)]
        for name in figures.encoders
    ]
    if scored:
        header.append("score ↑")
        for line in cells:
            line.append(number(scores.get(line[0]), 0))
    return header, cells


def titles_of(columns: Sequence[Column]) -> dict[str, str]:
    """Return what the tasks are in words, for those that the library knows."""
    return {c.task: find_task(c.task).title for c in columns if is_task(c.task)}


def spread(names: Sequence[str], count: int) -> list[str]:
    """Return at most so many names, of more the ends and some between, as of a sweep."""
    if len(names) <= count:
        return list(names)
    return [names[round(k * (len(names) - 1) / (count - 1))] for k in range(count)]
