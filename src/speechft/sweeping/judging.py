"""What a merge gains and costs against the base, which are on the front, and which to take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from speechft.evaluation.score import difference_over_seeds, paired_difference
from speechft.sweeping.settings import LEVEL, Point, Rule
from speechft.tasks import find_task
from speechft.tasks.measures import Item, Measure

Items = Mapping[str, Sequence[Sequence[Item]]]
"""Scored items by task and probe seed."""


@dataclass(frozen=True)
class Change:
    """A merged encoder against the base on one task and the same items."""

    task: str
    metric: str
    value: float
    """The figure of the merged encoder, mean over probe seeds."""
    gain: float
    """Points better than the base, negative where it is worse; of a figure that runs from 0 to 1
    a point is a hundredth."""
    interval: tuple[float, float]
    """Paired interval of the gain, at `LEVEL`, over groups of items where they have some."""

    @property
    def lost(self) -> float:
        """Upper bound of what is lost, in points."""
        return -self.interval[0]


@dataclass(frozen=True)
class Judged:
    """A merge, and what it gains and costs."""

    point: Point
    digest: str
    changes: dict[str, Change]
    """By task."""
    gain: float | None
    """Mean gain on the tasks that were tuned on; None where none was measured."""
    kept: float | None
    """Lower bound of the gain on the other task that lost most; None where there is none."""
    within: bool
    """Whether the rule holds."""
    front: bool = False
    """Whether no other merge gains more on the tuned tasks and keeps more elsewhere."""
    further: dict[str, Change] = field(default_factory=dict)
    """The same on test, by task, where it was reported."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "name": self.point.name,
            "alpha": self.point.alpha,
            "part": self.point.part,
            "encoder_digest": self.digest,
            "merge": self.point.settings.changed(),
            "dev": {name: _plain(change) for name, change in self.changes.items()},
            "test": {name: _plain(change) for name, change in self.further.items()},
            "gain": self.gain,
            "kept": self.kept,
            "within": self.within,
            "front": self.front,
        }


def change_of(task: str, own: Sequence[Sequence[Item]], base: Sequence[Sequence[Item]]) -> Change:
    """Compare a merged encoder with the base on one task.

    Args:
        task: Its key; the first of its measures counts.
        own: Items of each probe seed, sorted by id.
        base: Those of the base, the same utterances.
    """
    measure = find_task(task).measures[0]
    sign = (1 if measure.higher_is_better else -1) * (1 if measure.percent else 100)
    values = [_mean(measure, part) for part in (own, base)]
    over_seeds = difference_over_seeds(own, base, level=LEVEL, measure=measure)
    if over_seeds is None:
        _, *ends = paired_difference(own[0], base[0], level=LEVEL, measure=measure)
    else:
        ends = [*over_seeds]
    low, high = sorted(sign * end + 0.0 for end in ends)  # -0.0 is 0
    gain = sign * (values[0] - values[1]) + 0.0
    return Change(task, measure.name, values[0], gain, (low, high))


def _mean(measure: Measure, items: Sequence[Sequence[Item]]) -> float:
    return sum(measure.value(part) for part in items) / len(items)


def judged(
    measured: Sequence[tuple[Point, str, Items]], tuned_on: Sequence[str], rule: Rule
) -> list[Judged]:
    """Judge the merges of a sweep against the first, which is the base.

    Args:
        measured: Merges with digest and items on dev.
        tuned_on: Tasks that were tuned on.
        rule: What may be lost on the others.
    """
    base = measured[0][2]
    found = []
    for number, (point, digest, items) in enumerate(measured):
        changes = {t: change_of(t, items[t], base[t]) for t in base if t in items}
        gains = [change.gain for task, change in changes.items() if task in tuned_on]
        others = [change for task, change in changes.items() if task not in tuned_on]
        gain = sum(gains) / len(gains) if gains else None
        kept = min((0.0 - change.lost for change in others), default=None)
        complete = base.keys() <= changes.keys()  # what is not measured may have been lost
        within = number == 0 or (complete and all(rule.keeps(change.lost) for change in others))
        found.append(Judged(point, digest, changes, gain, kept, within))
    return on_front(found)


def on_front(found: Sequence[Judged]) -> list[Judged]:
    """Say of every merge whether another one is at least as good in both ways and better in one."""
    places = [(_number(one.gain), _number(one.kept)) for one in found]

    def beaten(place: tuple[float, float]) -> bool:
        return any(
            other != place and other[0] >= place[0] and other[1] >= place[1] for other in places
        )

    return [replace(one, front=not beaten(place)) for one, place in zip(found, places, strict=True)]


def chosen(found: Sequence[Judged]) -> Judged | None:
    """Return the merge to take: of those within the rule the one that gains most on tuned tasks.

    The base always is within it. Of equal gains the smaller coefficient is taken. None where no
    task that was tuned on was measured.
    """
    able = [one for one in found if one.within and one.gain is not None]
    return min(able, key=lambda one: (-_number(one.gain), one.point.alpha), default=None)


def in_words(found: Sequence[Judged], choice: Judged | None, tuned_on: Sequence[str]) -> str:
    """Return in a sentence or two which merge to take and whether it helps.

    Args:
        found: Every merge, the base first.
        choice: What `chosen` took.
        tuned_on: Tasks that were tuned on.
    """
    if choice is None:
        return "No task that was tuned on was measured: nothing says what a merge gains."
    own = " and ".join(task for task in found[0].changes if task in tuned_on)
    name = choice.point.name
    if choice is found[0] or not (choice.gain or 0.0) > 0:
        text = f"No merge within the rule gains on {own} over the base: take the base as it is."
        best = max(found, key=lambda one: _number(one.gain))
        if _number(best.gain) > 0 and best.kept is not None:
            text += (
                f" The most, {best.gain:+.1f} points, has {best.point.name}, which may lose "
                f"{max(0.0, -best.kept):.1f} points elsewhere."
            )
        return text
    sure = all(c.interval[0] > 0 for task, c in choice.changes.items() if task in tuned_on)
    text = f"{name} gains {choice.gain:.1f} points on {own} over the base"
    text += "" if sure else ", which may be chance (its 90 % interval holds 0)"
    others = [change for task, change in choice.changes.items() if task not in tuned_on]
    if not others:
        return f"{text}; what it costs elsewhere was not measured."
    worst = max(others, key=lambda change: change.lost)
    if worst.lost <= 0:
        return f"{text}, and loses on none of the other tasks."
    lost = f"{worst.lost:.1f} points on {worst.task}"
    return f"{text}, and may lose up to {lost}, where it loses most."


def _number(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0


def _plain(change: Change) -> dict[str, Any]:
    return {
        "metric": change.metric,
        "value": change.value,
        "gain": change.gain,
        "interval": list(change.interval),
    }
