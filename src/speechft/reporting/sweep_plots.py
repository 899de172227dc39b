"""The figures of sweeps, searches and suggestions, for their folders and for reports alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speechft.reporting.figures import Look, number
from speechft.reporting.plots import shorten
from speechft.reporting.svg import LIGHT, WIDTH, Style, panel, spoken, styles_of, to_svg
from speechft.reporting.sweeps import Point, Suggestion, Swept

OWN, OTHER = Style("tuned", "^"), Style("merged", "o")
"""A task that was tuned on, and another one, where a panel has a single task."""
RULE: dict[str, Any] = {"color": LIGHT["plain"], "linewidth": 1, "linestyle": (0, (4, 3))}
CHOICE: dict[str, Any] = {"color": LIGHT["ink"], "linewidth": 1, "linestyle": (0, (1, 2))}
SUGGESTED = {
    "gain": ("gain on the tuned task, head refitted", Style("merged", "D")),
    "gain_of_kept_head": ("the same, head as it was", Style("floor", "s", (0, (1.2, 1.4)))),
    "drift": ("drift of the features, 1 - CKA", Style("plain", "o", (0, (4.0, 1.8)))),
}
"""Curves of a suggestion: what they are and how they look."""


def gain_curve(name: str, tasks: Sequence[str], swept: Swept, *, legend: bool = False) -> str:
    """Draw what tasks gain over the base of a sweep, each with its paired band.

    Where parts were swept apart, each merge has a place of its own.

    Args:
        name: Unique on the page.
        tasks: One or several.
        swept: The sweep.
        legend: Whether the figure says itself what its lines are.
    """
    points = [p for p in swept.points if any(task in p.changes for task in tasks)]
    parts = any(point.part is not None for point in points)
    if not parts:
        points.sort(key=lambda point: point.alpha)
    places = [float(n) if parts else point.alpha for n, point in enumerate(points)]
    styles, told = _styles(tasks, swept.tuned_on), []
    with panel(max(WIDTH, 0.25 * len(points)) if parts else WIDTH) as (figure, axes):
        axes.axhline(0, color=LIGHT["muted"], linewidth=1)
        if not set(tasks) <= set(swept.tuned_on):
            _rule(axes, swept)
        for task in tasks:
            known = [(x, p) for x, p in zip(places, points, strict=True) if task in p.changes]
            xs, changes = [x for x, _ in known], [point.changes[task] for _, point in known]
            gains, lows, highs = zip(*((c.gain, c.low, c.high) for c in changes), strict=True)
            style = styles[task]
            if parts:
                axes.vlines(xs, lows, highs, color=style.hex, linewidth=1)
            else:
                axes.fill_between(xs, lows, highs, color=style.hex, alpha=0.15, linewidth=0)
            label = f"{shorten(task)}{' (tuned on)' * (task in swept.tuned_on)}"
            look = {"marker": style.marker, "color": style.hex, "label": label}
            axes.plot(xs, gains, linestyle="none" if parts else style.dash, zorder=3, **look)
            for x, (_, point), gain in zip(xs, known, gains, strict=True):
                if point.name == swept.choice:
                    axes.plot([x], [gain], "D", color=LIGHT["ink"], markersize=9, zorder=4)
            told += [
                (f"{task}, {p.name}", f"{number(c.gain, signed=True)} ({_ends(c)})")
                for (_, p), c in zip(known, changes, strict=True)
            ]
        for x in (x for x, p in zip(places, points, strict=True) if p.name == swept.choice):
            axes.axvline(x, label="choice", **CHOICE)
        if parts:
            texts = [shorten(point.name) for point in points]
            axes.set_xticks(places, texts, rotation=90, fontsize=8)
        else:
            axes.set_xlabel("alpha (0 base, 1 tuned)")
        axes.set_ylabel("gain over the base, points")
        _legend(axes, legend)
        label = f"Gain over the base on dev, with paired bands. {spoken(told)}."
        return to_svg(figure, name, label)


def front(name: str, swept: Swept, *, legend: bool = False) -> str:
    """Draw gain on the tuned tasks (right) against the lower bound elsewhere (up).

    Args:
        name: Unique on the page.
        swept: The sweep or search.
        legend: Whether the figure says itself what its lines are.
    """
    placed = placed_points(swept)
    told = [
        (p.name, f"{number(gain, signed=True)} gained, {number(kept, signed=True)} kept")
        for p, gain, kept in placed
        if p.front
    ]
    with panel() as (figure, axes):
        axes.axhline(0, color=LIGHT["muted"], linewidth=1)
        axes.axvline(0, color=LIGHT["muted"], linewidth=1)
        _rule(axes, swept)
        line = sorted((gain, kept) for p, gain, kept in placed if p.front)
        if line:
            look = {"color": LIGHT["merged"], "linewidth": 1, "label": "front"}
            axes.plot(*zip(*line, strict=True), zorder=2, **look)
        for point, gain, kept in placed:
            chosen = point.name == swept.choice
            colour = LIGHT["ink" if chosen else "merged" if point.front else "floor"]
            axes.plot(gain, kept, "D" if chosen else "o", color=colour, zorder=5 if chosen else 4)
        for point, gain, kept in _named(placed, swept.choice):
            chosen = point.name == swept.choice
            axes.annotate(
                shorten(point.name.removeprefix("alpha ")),
                (gain, kept),
                xytext=(8, 6),
                textcoords="offset points",
                color=LIGHT["ink" if chosen else "muted"],
                fontsize=10 if chosen else 9,
            )
        axes.margins(0.14)
        axes.set_xlabel("gain on the tuned tasks, points")
        axes.set_ylabel("lower bound elsewhere, points")
        _legend(axes, legend)
        return to_svg(figure, name, f"Front of the merges on dev. {spoken(told)}.")


def placed_points(swept: Swept) -> list[tuple[Point, float, float]]:
    """Return the merges of which both is known: gain on the tuned tasks, and what is kept."""
    return [(p, p.gain, p.kept) for p in swept.points if p.gain is not None and p.kept is not None]


def suggestion(name: str, found: Suggestion, *, legend: bool = False) -> str:
    """Draw gain and drift over alpha as shares of what alpha 1 has.

    Args:
        name: Unique on the page.
        found: The suggestion.
        legend: Whether the figure says itself what its lines are.
    """
    told = [
        (f"alpha {alpha:g}", number(value, 2))
        for alpha, value in zip(found.alphas, found.curves.get("gain", ()), strict=False)
    ]
    with panel() as (figure, axes):
        axes.axhline(0, color=LIGHT["muted"], linewidth=1)
        for key, values in found.curves.items():
            label, style = SUGGESTED[key]
            look = {"color": style.hex, "marker": style.marker, "markersize": 4, "label": label}
            axes.plot(found.alphas, values, linestyle=style.dash, **look)
        axes.axvline(found.alpha, label=f"suggested: {found.alpha:g}", **CHOICE)
        low = min((v for key in ("gain", "drift") for v in found.curves.get(key, ())), default=0)
        axes.set_ylim(max(min(-0.1, low - 0.05), -3.0), 1.2)
        axes.set_xlabel("alpha (0 base, 1 tuned)")
        axes.set_ylabel("share of what alpha 1 has")
        _legend(axes, legend)
        text = f"Suggested alpha {found.alpha:g}: {found.reason}. Gain: {spoken(told)}."
        return to_svg(figure, name, text)


def _ends(change: Any) -> str:
    return f"{number(change.low)} to {number(change.high)}"


def _rule(axes: Any, swept: Swept) -> None:
    """Draw the line that the lower end of no band may lie below."""
    if swept.keep_within is not None:
        axes.axhline(-swept.keep_within, label=f"rule: {swept.keep_within:g} lost", **RULE)


def _legend(axes: Any, wanted: bool) -> None:
    if wanted and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)


def _styles(tasks: Sequence[str], tuned_on: Sequence[str]) -> Mapping[str, Style]:
    if len(tasks) == 1:
        return {tasks[0]: OWN if tasks[0] in tuned_on else OTHER}
    first = next((task for task in tasks if task in tuned_on), None)
    return styles_of({task: Look.TUNED if task == first else Look.OTHER for task in tasks})


def _named(
    placed: Sequence[tuple[Point, float, float]], choice: str | None
) -> list[tuple[Point, float, float]]:
    """Return the merges to name: the choice, and those of the front that are not too near."""
    if not placed:
        return []
    xs, ys = [x for _, x, _ in placed], [y for _, _, y in placed]
    wide, high = (max(max(v) - min(v), 1e-9) for v in (xs, ys))
    named = [p for p in placed if p[0].name == choice]
    for one, x, y in placed:
        near = any(abs(x - a) < 0.09 * wide and abs(y - b) < 0.08 * high for _, a, b in named)
        if one.front and not near:
            named.append((one, x, y))
    return named
