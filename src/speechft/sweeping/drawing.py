"""Pictures of a sweep: what is gained and lost over alpha, and the front between the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechft.console import warn
from speechft.errors import RunError
from speechft.outputs import put_text
from speechft.reporting.figures import Look, number
from speechft.reporting.plots import shorten
from speechft.reporting.report import require_extra
from speechft.reporting.svg import LIGHT, Style, panel, spoken, styles_of, to_svg
from speechft.sweeping.judging import Judged
from speechft.sweeping.settings import LEVEL, Rule

CURVE, FRONT, SUGGESTION = "curve.svg", "front.svg", "suggestion.svg"
PICTURES = (CURVE, FRONT)


def draw(
    found: Sequence[Judged],
    choice: Judged | None,
    rule: Rule,
    tuned_on: Sequence[str],
    folder: Path,
) -> None:
    """Write the pictures of a sweep; without the extra ``report`` say that there are none."""
    if not _can_draw():
        return
    put_text(folder / CURVE, curve(found, choice, rule, tuned_on))
    _draw_front(found, choice, rule, folder)


def draw_front(found: Sequence[Judged], choice: Judged | None, rule: Rule, folder: Path) -> None:
    """Write the front alone, for merges that lie on no line."""
    if _can_draw():
        _draw_front(found, choice, rule, folder)


def _draw_front(found: Sequence[Judged], choice: Judged | None, rule: Rule, folder: Path) -> None:
    if any(one.gain is not None and one.kept is not None for one in found):
        put_text(folder / FRONT, front(found, choice, rule))


def _can_draw() -> bool:
    try:
        require_extra()
    except RunError as error:
        warn(f"no pictures: {error.message}; {error.hint}")
        return False
    return True


def curve(
    found: Sequence[Judged], choice: Judged | None, rule: Rule, tuned_on: Sequence[str]
) -> str:
    """Draw what each task gains over the base, with its paired band, over alpha.

    Where parts are swept apart, each merge has a place of its own instead.
    """
    tasks = list(found[0].changes)
    styles = _styles(tasks, tuned_on)
    parts = any(one.point.part is not None for one in found)
    places = [float(n) if parts else one.point.alpha for n, one in enumerate(found)]
    told = [
        (f"{one.point.name}, {task}", number(one.changes[task].gain, signed=True))
        for one in found
        for task in tasks
        if task in one.changes
    ]
    with panel(max(6.2, 0.3 * len(found) if parts else 0.0), 4.2) as (figure, axes):
        axes.axhline(0, color=LIGHT["muted"], linewidth=1)
        if len(tasks) > len(set(tuned_on) & set(tasks)):
            _draw_rule(axes, rule)
        for task in tasks:
            style = styles[task]
            xs = [x for x, one in zip(places, found, strict=True) if task in one.changes]
            changes = [one.changes[task] for one in found if task in one.changes]
            lows, highs = zip(*(change.interval for change in changes), strict=True)
            label = f"{shorten(task)}{' (tuned on)' * (task in tuned_on)}"
            gains = [change.gain for change in changes]
            if parts:
                errors = [
                    [gain - low for gain, low in zip(gains, lows, strict=True)],
                    [high - gain for gain, high in zip(gains, highs, strict=True)],
                ]
                errors = [[max(0.0, e) for e in side] for side in errors]
                axes.errorbar(
                    xs, gains, errors, fmt=style.marker, color=style.hex, label=label, linewidth=1
                )
            else:
                axes.fill_between(xs, lows, highs, color=style.hex, alpha=0.15, linewidth=0)
                axes.plot(
                    xs,
                    gains,
                    color=style.hex,
                    linestyle=style.dash,
                    marker=style.marker,
                    label=label,
                )
        if choice is not None:
            at = places[[one is choice for one in found].index(True)]
            axes.axvline(at, color=LIGHT["ink"], linewidth=1, linestyle=(0, (1, 2)), label="choice")
        if parts:
            axes.set_xticks(places, [one.point.name for one in found], rotation=90, fontsize=8)
        else:
            axes.set_xlabel("alpha (0 base, 1 tuned)")
        axes.set_ylabel("gain over the base, points (up is better)")
        axes.legend(frameon=False, fontsize=9)
        label = f"Gain over the base on dev with paired {LEVEL:.0%} bands. {spoken(told)}."
        return to_svg(figure, "sweep-curve", label)


def front(found: Sequence[Judged], choice: Judged | None, rule: Rule) -> str:
    """Draw the gain on the tuned tasks (right) against what is kept elsewhere (up)."""
    placed = [
        (one, one.gain, one.kept) for one in found if one.gain is not None and one.kept is not None
    ]
    told = [
        (one.point.name, f"{number(gain, signed=True)} gained, {number(kept, signed=True)} kept")
        for one, gain, kept in placed
        if one.front
    ]
    with panel(5.2, 4.2) as (figure, axes):
        axes.axhline(0, color=LIGHT["muted"], linewidth=1)
        axes.axvline(0, color=LIGHT["muted"], linewidth=1)
        _draw_rule(axes, rule)
        line = sorted((gain, kept) for one, gain, kept in placed if one.front)
        axes.plot(*zip(*line, strict=True), color=LIGHT["merged"], linewidth=1, zorder=2)
        for one, gain, kept in placed:
            colour = LIGHT["merged"] if one.front else LIGHT["floor"]
            size = 11 if one is choice else 6.5
            axes.plot(gain, kept, "D" if one is choice else "o", color=colour, ms=size, zorder=4)
        for one, gain, kept in _labelled(placed, choice):
            axes.annotate(
                one.point.name.removeprefix("alpha "),
                (gain, kept),
                xytext=(6, 5),
                textcoords="offset points",
                fontsize=9,
                color=LIGHT["muted"],
            )
        axes.margins(0.12)
        axes.legend(frameon=False, fontsize=9)
        axes.set_xlabel("gain on the tuned tasks, points (right is better)")
        axes.set_ylabel(f"kept elsewhere: lower {LEVEL:.0%} bound, points")
        return to_svg(figure, "sweep-front", f"The front of the sweep on dev. {spoken(told)}.")


def draw_suggestion(found: Mapping[str, Any], folder: Path) -> None:
    """Write the picture of a suggestion; without the extra ``report`` say that there is none."""
    if _can_draw():
        put_text(folder / SUGGESTION, suggestion(found))


def suggestion(found: Mapping[str, Any]) -> str:
    """Draw what the tuned task gains and how far the features drift, as shares of alpha 1.

    Args:
        found: As ``suggestion.json`` has it.
    """
    lines = {
        "gain": (f"gain on {found['task']}, head refitted", "merged", "D", "-"),
        "gain_of_kept_head": ("the same, head as it was", "muted", "s", (0, (1.2, 1.4))),
        "drift": ("drift of the features (1 - CKA)", "plain", "o", (0, (4.0, 1.8))),
    }
    with panel(6.2, 4.2) as (figure, axes):
        axes.axhline(0, color=LIGHT["muted"], linewidth=1)
        for key, (label, colour, marker, dash) in lines.items():
            if found[key]:
                style = {"color": LIGHT[colour], "marker": marker, "linestyle": dash}
                axes.plot(found["alphas"], found[key], label=label, markersize=4, **style)
        label = f"suggested: {found['alpha']:g}"
        axes.axvline(
            found["alpha"], color=LIGHT["ink"], linewidth=1, linestyle=(0, (1, 2)), label=label
        )
        shown = [0.0, 1.0, *found["gain"], *found["drift"]]
        axes.set_ylim(min(shown) - 0.1, max(shown) + 0.1)
        axes.set_xlabel("alpha (0 base, 1 tuned)")
        axes.set_ylabel("share of what alpha 1 has")
        axes.legend(frameon=False, fontsize=9)
        told = [
            (f"alpha {a:g}", number(g, 2))
            for a, g in zip(found["alphas"], found["gain"], strict=False)
        ]
        text = f"Suggested alpha {found['alpha']:g}: {found['reason']}. Gain: {spoken(told)}."
        return to_svg(figure, "sweep-suggestion", text)


def _draw_rule(axes: Any, rule: Rule) -> None:
    """Draw the line that the lower end of no band may lie below."""
    label = f"rule: {rule.keep_within:g} lost"
    style: dict[str, Any] = {"linewidth": 1, "linestyle": (0, (4, 3)), "label": label}
    axes.axhline(-rule.keep_within, color=LIGHT["plain"], **style)


def _labelled(
    placed: Sequence[tuple[Judged, float, float]], choice: Judged | None
) -> list[tuple[Judged, float, float]]:
    """Return the merges to name: the choice, and those of the front that are not too near."""
    xs, ys = [x for _, x, _ in placed], [y for _, _, y in placed]
    wide, high = (max(max(v) - min(v), 1e-9) for v in (xs, ys))
    named: list[tuple[Judged, float, float]] = [p for p in placed if p[0] is choice]
    for one, x, y in placed:
        near = any(abs(x - a) < 0.09 * wide and abs(y - b) < 0.06 * high for _, a, b in named)
        if one.front and not near:
            named.append((one, x, y))
    return named


def _styles(tasks: Sequence[str], tuned_on: Sequence[str]) -> dict[str, Style]:
    first = next((task for task in tasks if task in tuned_on), None)
    return styles_of({task: Look.TUNED if task == first else Look.OTHER for task in tasks})
