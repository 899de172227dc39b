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
    elsewhere: float | None = None
    """Mean gain on the other tasks, for merges that are equal so far; None where there is none."""
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
        elsewhere = sum(change.gain for change in others) / len(others) if others else None
        found.append(Judged(point, digest, changes, gain, kept, within, elsewhere))
    return on_front(found)


def on_front(found: Sequence[Judged]) -> list[Judged]:
    """Say of every merge whether it is on the front.

    It is where no other one is at least as good in both ways, gained and kept, and better in one;
    of those that are equal in both, where none gains more elsewhere. None is on it where no task
    that was tuned on was measured.
    """
    places = [tuple(map(_number, (one.gain, one.kept, one.elsewhere))) for one in found]

    def beaten(place: tuple[float, ...]) -> bool:
        return any(o > place and o[0] >= place[0] and o[1] >= place[1] for o in places)

    return [
        replace(one, front=one.gain is not None and not beaten(place))
        for one, place in zip(found, places, strict=True)
    ]


def chosen(found: Sequence[Judged]) -> Judged | None:
    """Return the merge to take: of those within the rule the one that gains most on tuned tasks.

    The base always is within it. Of equal gains the one that gains most on the other tasks is
    taken, on the mean, then the smaller coefficient. None where no task that was tuned on was
    measured.
    """

    def order(one: Judged) -> tuple[float, float, float]:
        return -_number(one.gain), -_number(one.elsewhere), one.point.alpha

    return min((o for o in found if o.within and o.gain is not None), key=order, default=None)


def in_words(found: Sequence[Judged], choice: Judged | None, tuned_on: Sequence[str]) -> str:
    """Return in a sentence or two which merge to take and whether it helps.

    Args:
        found: Every merge, the base first.
        choice: What `chosen` took.
        tuned_on: Tasks that were tuned on.
    """
    if choice is None:
        return "No task that was tuned on was measured: nothing says what a merge gains."
    own = [task for task in found[0].changes if task in tuned_on]
    others = [change for task, change in choice.changes.items() if task not in tuned_on]
    name, tasks = choice.point.name, " and ".join(own)
    if (choice.gain or 0.0) > 0:
        sure = all(c.interval[0] > 0 for task, c in choice.changes.items() if task in tuned_on)
        text = f"{name} gains {choice.gain:.1f} points on {tasks} over the base"
        return f"{text}{_chance(sure)}{_cost(others)}"
    alike = _alike(found, own)
    text = f"No merge within the rule gains on {tasks} over the base"
    if alike:
        text = f"What a merge gains on {tasks} cannot be judged: it is {alike} on dev for every "
        text += "merge"
    if choice is not found[0]:  # of equal ones
        most = max(others, key=lambda change: change.gain)
        text += f"; {name} loses nothing there and gains {most.gain:.1f} points on {most.task}"
        return f"{text}{_chance(most.interval[0] > 0)}{_cost(others)}"
    if alike:
        how = "No merge within the rule gains elsewhere" if others else "Nothing else was measured"
        text += f". {how}"
    return f"{text}: take the base as it is.{_most(found)}"


def _alike(found: Sequence[Judged], tasks: Sequence[str]) -> str:
    """Say what tasks are on which no merge differs from the base; empty where one does."""
    base = found[0].changes
    changes = [one.changes[task] for one in found[1:] for task in tasks if task in one.changes]
    if not changes or any(change.value != base[change.task].value for change in changes):
        return ""
    best = all(base[task].value == find_task(task).measures[0].best for task in tasks)
    return "at its ceiling" if best else "the same"


def _chance(sure: bool) -> str:
    return "" if sure else ", which may be chance (its 90 % interval holds 0)"


def _cost(others: Sequence[Change]) -> str:
    if not others:
        return "; what it costs elsewhere was not measured."
    worst = max(others, key=lambda change: change.lost)
    if worst.lost <= 0:
        return ", and loses on none of the other tasks."
    return f", and may lose up to {worst.lost:.1f} points on {worst.task}, where it loses most."


def _most(found: Sequence[Judged]) -> str:
    """Return in a sentence what gains most, the rule aside; empty where nothing gains."""
    best = max(found, key=lambda one: _number(one.gain))
    if not _number(best.gain) > 0 or best.kept is None:
        return ""
    return (
        f" The most, {best.gain:+.1f} points, has {best.point.name}, which may lose "
        f"{max(0.0, -best.kept):.1f} points elsewhere."
    )


def _number(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0


def _plain(change: Change) -> dict[str, Any]:
    return {
        "metric": change.metric,
        "value": change.value,
        "gain": change.gain,
        "interval": list(change.interval),
    }
