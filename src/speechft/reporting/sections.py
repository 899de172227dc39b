"""Which figures a report has: each section gathers its numbers and leaves out what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from speechft.analysis.rows import AnalysisRow
from speechft.analysis.sentences import sentences
from speechft.reporting import plots, sweep_plots
from speechft.reporting.figures import Column, Figures, Look, look_of, spread
from speechft.reporting.layers import TITLES, figures_of
from speechft.reporting.plots import Trade
from speechft.reporting.svg import Style, styles_of, swatch, with_prefix
from speechft.reporting.sweeps import Suggestion, Swept
from speechft.results import ResultRow, Role

HEAD_ONLY = 0.1
"""Share of the updates of stable fine-tuning in which only the head learns, if unrecorded."""


@dataclass(frozen=True)
class Panel:
    """One figure with its caption."""

    caption: str
    svg: str
    note: str = ""
    sentences: tuple[str, ...] = ()
    """What the figure says."""


@dataclass(frozen=True)
class Section:
    """Figures that answer one question."""

    key: str
    title: str
    text: str
    panels: tuple[Panel, ...]
    legend: tuple[tuple[str, str], ...] = ()
    """Pairs of swatch (SVG) and name."""
    code: str = ""
    """A command that goes on from here."""

    def with_prefix(self, prefix: str) -> Section:
        """Return it with ids that begin with a prefix, for a page with several of its kind."""
        panels = tuple(replace(one, svg=with_prefix(one.svg, prefix)) for one in self.panels)
        return replace(self, panels=panels)


def alpha_section(curve: Figures, tuned_on: Sequence[str], alpha: float | None) -> Section | None:
    """Return the curves over alpha on the dev split, one panel a task."""
    panels: list[Panel] = []
    for column in curve.columns:
        points = alpha_points(curve, column)
        if len(points) > 1:
            svg = plots.alpha_curve(f"alpha-{len(panels)}", column, points, alpha)
            panels.append(Panel(column.task, svg, _note(column, tuned_on)))
    if not panels:
        return None
    at = f" The diamond marks alpha {alpha:g}, the merged encoder of the table." if alpha else ""
    start = "pre-trained" if curve.reference else "base's"
    text = (
        f"Between the {start} weights (alpha 0) and the fine-tuned ones (alpha 1), measured on "
        f"the development split. In every panel up is better.{at} The dashed line is the "
        f"{start} level."
    )
    if not curve.reference:
        text += " The base is what the tasks before the last one made of the pre-trained encoder."
    return Section("alpha", f"From {start.split(chr(39))[0]} to fine-tuned", text, tuple(panels))


def alpha_points(curve: Figures, column: Column) -> list[tuple[float, float]]:
    """Return pairs of alpha and value in order of alpha."""
    ends = {Look.REFERENCE: 0.0, Look.TUNED: 1.0}
    points = {}
    for name in curve.encoders:
        row, value = curve.row(name, column), curve.value(name, column)
        if row is not None and value is not None:
            alpha = row.alpha if row.alpha is not None else ends.get(curve.looks[name])
            if alpha is not None:
                points[alpha] = value
    return sorted(points.items())


def trade_section(figures: Figures, tuned_on: Sequence[str]) -> Section | None:
    """Return gain on what was tuned on against gain elsewhere."""
    trades = trades_of(figures, tuned_on)
    if len(trades) < 2:
        return None
    styles = styles_of(figures.looks)
    measured = {column.task for column in figures.columns}
    tasks = " and ".join(task for task in tuned_on if task in measured)
    svg = plots.trade_off("trade", tasks, trades, styles)
    text = (
        f"Fine-tuning on {tasks} should move an encoder to the right, and not down. Points are "
        "absolute differences to the pre-trained encoder, counted so that more is better. Small "
        "dashes are the single other tasks."
    )
    legend = _legend([trade.encoder for trade in trades], styles)
    return Section("trade", "What was traded", text, (Panel("", svg),), legend)


def trades_of(figures: Figures, tuned_on: Sequence[str]) -> list[Trade]:
    """Return what each encoder gained over the pre-trained one, floors left out."""
    first = {column.task: column for column in reversed(figures.columns)}
    own = [column for task, column in first.items() if task in tuned_on]
    if figures.reference is None or not own:
        return []
    trades = []
    for name in figures.encoders:
        gains = {column: _gain(figures, name, column) for column in figures.columns}
        on_task = [g for c in own if (g := gains[c]) is not None]
        others = [g for c, g in gains.items() if c.task not in tuned_on and g is not None]
        if figures.looks[name] is not Look.FLOOR and len(on_task) == len(own) and others:
            trades.append(Trade(name, sum(on_task) / len(on_task), tuple(others)))
    return trades


def _gain(figures: Figures, name: str, column: Column) -> float | None:
    value, base = figures.value(name, column), figures.base(name, column)
    return None if value is None or base is None else column.gain(value, base)


def layer_section(figures: Figures, tuned_on: Sequence[str]) -> Section | None:
    """Return which layers the probes use, one panel a task."""
    wanted = {Look.REFERENCE, Look.TUNED, Look.MERGED}
    names = [name for name in figures.encoders if figures.looks[name] in wanted]
    if len(names) < 2:
        names = [name for name in figures.encoders if figures.looks[name] is not Look.FLOOR][:4]
    names = spread(names, 4)
    styles, shown = styles_of(figures.looks), set[str]()
    panels: list[Panel] = []
    by_task: dict[str, Column] = {}
    for column in figures.columns:
        by_task.setdefault(column.task, column)
    for column in by_task.values():
        found = {name: _weights(figures, name, column) for name in names}
        weights = {name: values for name, values in found.items() if values}
        if weights:
            svg = plots.layer_weights(f"layers-{len(panels)}", column.task, weights, styles)
            panels.append(Panel(column.task, svg, _note(column, tuned_on)))
            shown |= set(weights)
    if not panels:
        return None
    text = (
        "Each probe reads a weighted sum of all layers and learns the weights. The dashed line is "
        "an even share."
    )
    legend = _legend([name for name in names if name in shown], styles)
    return Section("layers", "Which layers each task uses", text, tuple(panels), legend)


def _weights(figures: Figures, name: str, column: Column) -> list[float] | None:
    row = figures.row(name, column)
    values = row.details.get("layer_weights") if row is not None else None
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) < 2:
        return None
    numbers = plots.finite(values)
    return None if any(math.isnan(v) for v in numbers) else numbers


def ability_section(rows: Sequence[ResultRow], tuned_on: Sequence[str]) -> Section | None:
    """Return what probes on single layers reach, one panel a task."""
    if not rows:
        return None
    looks = Figures(rows).looks
    styles, shown, panels = styles_of(looks), dict[str, None](), list[Panel]()
    for column in Figures(rows).columns:
        lines: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            here = (row.task, row.metric) == (column.task, column.metric)
            if here and row.layer is not None and math.isfinite(row.value):
                lines.setdefault(row.encoder, []).append((row.layer, row.value))
        if lines:
            svg = plots.layer_ability(f"ability-{len(panels)}", column, lines, styles)
            panels.append(Panel(column.task, svg, _note(column, tuned_on)))
            shown |= dict.fromkeys(lines)
    text = "Probes that each read one layer alone, on the same data. In every panel up is better."
    legend = _legend(list(shown), styles)
    return Section("ability", "What single layers can do", text, tuple(panels), legend)


def analysis_section(rows: Sequence[AnalysisRow]) -> Section | None:
    """Return what fine-tuning did to features and weights, one panel a question."""
    drawn, said = figures_of(rows), sentences(rows)
    panels = [
        Panel(TITLES[question], svg, sentences=tuple(said.get(question, ())))
        for question, svg in drawn.items()
    ]
    if not panels:
        return None
    text = (
        "Similarity to the base, drift of features and weights, and abilities, without probes. "
        "Layer 0 is the input of the first transformer layer. Bands are 95 % jackknife intervals "
        "over speakers; layers are not corrected for how many there are."
    )
    return Section("analysis", "What fine-tuning did, layer by layer", text, tuple(panels))


def sweep_section(swept: Swept | None) -> Section | None:
    """Return gains over alpha with paired bands, the front, and what the rule chose."""
    if swept is None:
        return None
    panels: list[Panel] = []
    tasks = dict.fromkeys(task for point in swept.points for task in point.changes)
    for task in () if swept.searched else tasks:
        svg = sweep_plots.gain_curve(f"sweep-{len(panels)}", [task], swept)
        panels.append(Panel(task, svg, "tuned on this" if task in swept.tuned_on else ""))
    if sweep_plots.placed_points(swept):
        panels.append(Panel("Front: gained against kept", sweep_plots.front("front", swept)))
    if not panels:
        return None
    chosen = swept.chosen
    text = "Merges beside the base on the development split, paired item by item. Up is better."
    if swept.rule:
        text += f" The rule: {swept.rule}."
    if chosen is not None:
        text += f" Chosen: {chosen.name}, the dark diamond."
    text += f" {swept.said}" if swept.said else ""
    legend = (
        (swatch(sweep_plots.OWN), "task that was tuned on"),
        (swatch(sweep_plots.OTHER), "other task; merge on the front"),
        (swatch(Style("ink", "D", (0, (1, 2)))), "choice"),
        (swatch(Style("plain", "", (0, (4, 3)))), "what the rule lets be lost"),
    )
    title = "Which merge: search" if swept.searched else "Which alpha"
    return Section("sweep", title, text, tuple(panels), legend, swept.command)


def suggestion_section(found: Suggestion | None) -> Section | None:
    """Return the alpha that was suggested without labels of other tasks, with its curves."""
    if found is None or not found.curves:
        return None
    text = (
        f"Suggested: alpha {found.alpha:g} ({found.reason}). It looks at the tuned task and at the "
        "drift of the features alone."
    )
    if found.status:
        text += f" Whether it finds the alpha that labels would choose: {found.status}."
    svg = sweep_plots.suggestion("suggestion", found)
    known = sweep_plots.SUGGESTED
    legend = [(swatch(known[key][1]), known[key][0]) for key in found.curves]
    panels = (Panel(f"Gain on {found.task}, and drift", svg),)
    title = "An alpha without labels of other tasks"
    return Section("suggestion", title, text, panels, tuple(legend))


def training_section(
    histories: Mapping[str, Mapping[str, Any]], column: Column | None, main: str | None
) -> Section | None:
    """Return training loss, and the metric on dev where it was measured more than once.

    Args:
        histories: By name; each says its ``strategy``.
        column: The metric of the task that was tuned on.
        main: The strategy that is merged.
    """
    losses = {
        name: plots.finite(history.get("losses") or ()) for name, history in histories.items()
    }
    losses = {name: v for name, v in losses.items() if sum(map(math.isfinite, v)) > 1}
    if not losses:
        return None
    strategies = {name: str(history.get("strategy")) for name, history in histories.items()}
    styles = styles_of({n: look_of(Role.TUNED, s, main) for n, s in strategies.items()})
    boundary = _head_only(losses, histories, main)
    svg = plots.training_loss("loss", losses, styles, boundary)
    panels = [Panel("Training loss", svg)]
    points = _evaluations(histories, column) if column else {}
    if column and points:
        svg = plots.dev_curve("dev", column, points, styles)
        panels.append(Panel("Development split", svg))
    text = "Lines are means, bands hold the middle 80 % of the updates around them."
    if boundary:
        first = "update" if boundary == 1 else f"{boundary} updates"
        text += f" In stable fine-tuning only the head learns in the first {first}."
    return Section("training", "Fine-tuning", text, tuple(panels), _legend(list(losses), styles))


def _head_only(
    losses: Mapping[str, Sequence[float]],
    histories: Mapping[str, Mapping[str, Any]],
    main: str | None,
) -> int | None:
    name = next((name for name in losses if histories[name].get("strategy") == main), None)
    if name is None or main in ("plain", "plain-cnn"):
        return None
    share = histories[name].get("head_only", HEAD_ONLY)
    if not isinstance(share, int | float):
        return None
    return max(0, int(share * len(losses[name])) - 1)  # as in finetuning.phases.stable_phases


def _evaluations(
    histories: Mapping[str, Mapping[str, Any]], column: Column
) -> dict[str, list[tuple[float, float]]]:
    """Return pairs of update and metric by strategy; only those with two or more."""
    found = {}
    for name, history in histories.items():
        evaluations = history.get("evaluations") or ()
        pairs = [(e.get("step"), e.get(column.metric)) for e in evaluations]
        clean = [
            (float(step), float(value))
            for step, value in pairs
            if isinstance(step, int | float)
            and isinstance(value, int | float)
            and math.isfinite(value)
        ]
        if len(clean) > 1:
            found[name] = sorted(clean)
    return found


def _note(column: Column, tuned_on: Sequence[str]) -> str:
    return "tuned on this" if column.task in tuned_on else ""


def _legend(names: Sequence[str], styles: Mapping[str, Style]) -> tuple[tuple[str, str], ...]:
    return tuple((swatch(styles[name]), name) for name in names)
