"""Several reports side by side: one table of all, and one figure of what each traded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from speechft.reporting import plots
from speechft.reporting.cells import Line, main_lines, marked
from speechft.reporting.figures import Column, Figures, Look, spread, titles_of
from speechft.reporting.plots import Trade
from speechft.reporting.sections import Panel, Section, trades_of
from speechft.reporting.svg import Style, swatch

if TYPE_CHECKING:
    from speechft.reporting.report import Report

_COLOURS = ("merged", "tuned", "other-1", "other-2", "plain", "other-3", "reference")
"""One a run, in this order; names in `LIGHT`."""
_SHAPES = {Look.TUNED: "^", Look.MERGED: "D"}


@dataclass(frozen=True)
class Group:
    """The encoders of one report in the table."""

    title: str
    about: str
    """What it was tuned on, and the split where that is not test."""
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Overview:
    """Several reports in one table; floors are left to each report's own."""

    columns: tuple[Column, ...]
    titles: Mapping[str, str]
    """What the tasks are in words."""
    groups: tuple[Group, ...]
    section: Section | None
    """Gain on the task that each was tuned on against gain elsewhere."""


def overview(reports: Sequence[Report]) -> Overview:
    """Return what stands before several reports."""
    figures = [Figures(report.rows) for report in reports]
    columns = tuple(dict.fromkeys(column for one in figures for column in one.columns))
    groups = []
    for report, one in zip(reports, figures, strict=True):
        lines = main_lines(one, {}, report.colours, columns)
        kept = [line for line in lines if line.look is not Look.FLOOR]
        about = [f"tuned on {' and '.join(report.tuned_on)}"] if report.tuned_on else []
        if report.swept is not None:
            ends = {*spread([line.encoder for line in kept], 2), report.swept.choice}
            kept = [line for line in kept if line.encoder in ends]
            kept = marked(kept, report.swept.choice)
        if report.on_dev:
            about.append("development split")
        groups.append(Group(report.title, ", ".join(about), tuple(kept)))
    return Overview(columns, titles_of(columns), tuple(groups), _trades(reports, figures))


def _trades(reports: Sequence[Report], figures: Sequence[Figures]) -> Section | None:
    trades, styles = [], {}
    for number, (report, one) in enumerate(zip(reports, figures, strict=True)):
        colour = _COLOURS[number % len(_COLOURS)]
        for trade in trades_of(one, report.tuned_on):
            if (look := one.looks[trade.encoder]) in _SHAPES:
                name = f"{number + 1}. {report.title}: {trade.encoder}"
                trades.append(Trade(name, trade.on_task, trade.others))
                styles[name] = Style(colour, _SHAPES[look])
    if len(trades) < 2:
        return None
    svg = plots.trade_off("trade", "what was tuned on", trades, styles)
    text = (
        "Each run beside its own pre-trained encoder, in points, counted so that more is better: "
        "to the right the task that it was tuned on, up the mean of its other tasks. Triangles are "
        "tuned encoders, diamonds merged ones. Runs may have other tasks and data: read the table."
    )
    legend = tuple((swatch(styles[trade.encoder]), trade.encoder) for trade in trades)
    return Section("trade", "What each run traded", text, (Panel("", svg),), legend)
