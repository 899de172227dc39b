"""The figures of a report: numbers in, an SVG string out, one function each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from speechft.reporting.figures import Column, number
from speechft.reporting.svg import LIGHT, Style, panel, spoken, to_svg

_BINS = 60


@dataclass(frozen=True)
class Trade:
    """What one encoder gained on the tasks it was tuned on (mean), and elsewhere, in points."""

    encoder: str
    on_task: float
    others: tuple[float, ...]
    """Gain on each other task; positive is better."""

    @property
    def off_task(self) -> float:
        """Mean gain on the other tasks."""
        return sum(self.others) / len(self.others)


def alpha_curve(
    name: str, column: Column, points: Sequence[tuple[float, float]], mark: float | None
) -> str:
    """Draw a task's metric over alpha, oriented so that up is better.

    Args:
        name: Unique on the page.
        column: The metric.
        points: Pairs of alpha and value.
        mark: Alpha of the merged encoder in the table.
    """
    points = sorted(points)
    figures = [(f"alpha {alpha:g}", number(value, column.decimals)) for alpha, value in points]
    label = f"{column.task}, {column.metric_name} over alpha. {spoken(figures)}."
    with panel() as (figure, axes):
        axes.plot(*zip(*points, strict=True), color=LIGHT["merged"], marker="o", zorder=3)
        if points[0][0] == 0:
            axes.axhline(points[0][1], color=LIGHT["muted"], linewidth=1, linestyle=(0, (4, 3)))
        at = next((point for point in points if mark is not None and point[0] == mark), None)
        if at is not None:
            axes.axvline(at[0], color=LIGHT["muted"], linewidth=1, linestyle=(0, (1, 2)))
            axes.plot(*at, "D", color=LIGHT["merged"], markersize=11, zorder=4)
        axes.set_xlim(-0.05, 1.05)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        _room(axes, [value for _, value in points])
        axes.set_xlabel("alpha (0 pre-trained, 1 fine-tuned)")
        axes.set_ylabel(f"{shorten(column.metric_name)} {column.arrow}")
        if not column.higher_is_better:
            axes.invert_yaxis()
        return to_svg(figure, name, label)


def trade_off(name: str, task: str, trades: Sequence[Trade], styles: Mapping[str, Style]) -> str:
    """Draw gain on the tuned tasks (right) against mean gain on the others (up).

    Args:
        name: Unique on the page.
        task: What was tuned on, in words.
        trades: By encoder; the pre-trained one is the origin.
        styles: By encoder.
    """
    gains = [
        (
            trade.encoder,
            f"{number(trade.on_task, signed=True)} points on {task}, "
            f"{number(trade.off_task, signed=True)} on average elsewhere",
        )
        for trade in trades
    ]
    with panel(5.2, 4.2) as (figure, axes):
        axes.axhline(0, color=LIGHT["muted"], linewidth=1)
        axes.axvline(0, color=LIGHT["muted"], linewidth=1)
        for trade in trades:
            style, xs = styles[trade.encoder], [trade.on_task] * len(trade.others)
            if len(xs) > 1:
                axes.plot(xs, trade.others, color=style.hex, linewidth=1, alpha=0.45, zorder=2)
                axes.plot(xs, trade.others, "_", color=style.hex, alpha=0.75, zorder=2)
            axes.plot(*xs[:1], trade.off_task, style.marker, color=style.hex, ms=10, zorder=4)
        axes.margins(0.14)
        axes.set_xlabel(f"gain on {shorten(task)}, points (right is better)")
        axes.set_ylabel("mean gain elsewhere, points (up is better)")
        return to_svg(figure, name, f"Gain over pre-trained. {spoken(gains)}.")


def layer_weights(
    name: str, task: str, weights: Mapping[str, Sequence[float]], styles: Mapping[str, Style]
) -> str:
    """Draw which layers the probe of a task uses, by encoder.

    Args:
        name: Unique on the page.
        task: The task.
        weights: (layers + 1) weights by encoder; 0 is the input of the first layer.
        styles: By encoder.
    """
    peaks = [(key, f"most on layer {int(np.argmax(w))}") for key, w in weights.items()]
    count = max(len(values) for values in weights.values())
    with panel() as (figure, axes):
        axes.axhline(1 / count, color=LIGHT["muted"], linewidth=1, linestyle=(0, (4, 3)))
        for encoder, values in weights.items():
            _line(axes, range(len(values)), values, styles[encoder], marked=True)
        axes.set_xticks(range(0, count, max(1, count // 7)))
        axes.set_ylim(0, max(2 / count, *(1.1 * max(values) for values in weights.values())))
        axes.set_xlabel("layer (0: input of the first)")
        axes.set_ylabel("weight")
        return to_svg(figure, name, f"Layer weights of {task}. {spoken(peaks)}.")


def training_loss(
    name: str,
    losses: Mapping[str, Sequence[float]],
    styles: Mapping[str, Style],
    head_only: float | None,
) -> str:
    """Draw the training loss by strategy: mean and spread of stretches of updates.

    Args:
        name: Unique on the page.
        losses: One per update.
        styles: By strategy.
        head_only: Last update in which only the head learns; None draws nothing.
    """
    ends = []
    with panel() as (figure, axes):
        for strategy, values in losses.items():
            steps, mean, low, high = _stretches(np.asarray(values, dtype=np.float64))
            colour = styles[strategy].hex
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            _line(axes, steps, mean, styles[strategy], marked=False)
            ends.append((strategy, f"from {number(mean[0], 2)} to {number(mean[-1], 2)}"))
        if head_only:
            axes.axvspan(0, head_only, color=LIGHT["muted"], alpha=0.12, linewidth=0)
            axes.annotate(
                "head only",
                (head_only, 1),
                xycoords=("data", "axes fraction"),
                xytext=(5, -12),
                textcoords="offset points",
                color=LIGHT["muted"],
                fontsize=10,
            )
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("update")
        axes.set_ylabel("training loss ↓")
        return to_svg(figure, name, f"Training loss. {spoken(ends)}.")


def dev_curve(
    name: str,
    column: Column,
    points: Mapping[str, Sequence[tuple[float, float]]],
    styles: Mapping[str, Style],
) -> str:
    """Draw the tuning head's metric on dev during fine-tuning, by strategy.

    Args:
        name: Unique on the page.
        column: The metric.
        points: Pairs of update and value.
        styles: By strategy.
    """
    ends = [(key, f"ends at {number(pairs[-1][1])}") for key, pairs in points.items()]
    with panel() as (figure, axes):
        for strategy, pairs in points.items():
            steps, values = zip(*pairs, strict=True)
            _line(axes, steps, values, styles[strategy], marked=len(pairs) < 30)
        axes.set_xlim(left=0)
        axes.set_xlabel("update")
        axes.set_ylabel(f"{shorten(column.metric_name)} on dev {column.arrow}")
        if not column.higher_is_better:
            axes.invert_yaxis()
        return to_svg(figure, name, f"{column.metric_name} on dev. {spoken(ends)}.")


def layer_ability(
    name: str,
    column: Column,
    lines: Mapping[str, Sequence[tuple[int, float]]],
    styles: Mapping[str, Style],
) -> str:
    """Draw what probes on single layers reach, by encoder.

    Args:
        name: Unique on the page.
        column: The metric.
        lines: Pairs of layer and value by encoder.
        styles: By encoder.
    """
    pick = max if column.higher_is_better else min
    tops = {key: pick(pairs, key=lambda pair: pair[1]) for key, pairs in lines.items()}
    best = [
        (key, f"best at layer {layer} with {number(value, column.decimals)}")
        for key, (layer, value) in tops.items()
    ]
    with panel() as (figure, axes):
        for encoder, pairs in lines.items():
            xs, ys = zip(*sorted(pairs), strict=True)
            _line(axes, xs, ys, styles[encoder], marked=True)
        layers = sorted({layer for pairs in lines.values() for layer, _ in pairs})
        axes.set_xticks(layers[:: max(1, len(layers) // 7)])
        axes.set_xlabel("layer (0: input of the first)")
        axes.set_ylabel(f"{shorten(column.metric_name)} {column.arrow}")
        if not column.higher_is_better:
            axes.invert_yaxis()
        return to_svg(figure, name, f"{column.task} by single layers. {spoken(best)}.")


def shorten(text: str, length: int = 24) -> str:
    """Return text for a figure: one line, printable, not too long."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return clean if len(clean) <= length else f"{clean[: length - 1]}…"


def _line(axes: Any, xs: Any, ys: Any, style: Style, *, marked: bool) -> None:
    marker = style.marker if marked else None
    axes.plot(xs, ys, color=style.hex, linestyle=style.dash, marker=marker, zorder=3)


def _room(axes: Any, values: Sequence[float]) -> None:
    """Leave room around the values, and at least two points, so that noise does not look big."""
    low, high = min(values), max(values)
    least = 2.0 if max(abs(low), abs(high)) >= 2 else 0.02
    margin = max(0.12 * (high - low), (least - (high - low)) / 2)
    axes.set_ylim(low - margin, high + margin)


def _stretches(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return middle step, mean, 10 % and 90 % quantile of at most ``_BINS`` stretches."""
    steps = np.arange(1, len(values) + 1, dtype=np.float64)
    keep = np.isfinite(values)
    groups = zip(
        np.array_split(steps[keep], min(_BINS, keep.sum())),
        np.array_split(values[keep], min(_BINS, keep.sum())),
        strict=True,
    )
    table = [(step.mean(), v.mean(), *np.quantile(v, (0.1, 0.9))) for step, v in groups]
    return tuple(np.array(table).T)


def finite(values: Sequence[Any]) -> list[float]:
    """Return the values that are finite numbers; others become NaN."""
    return [
        float(v) if isinstance(v, int | float) and math.isfinite(v) else math.nan for v in values
    ]
