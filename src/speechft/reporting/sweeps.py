"""What sweep, search and suggestion files say, read as anybody may have written them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """What a task gained over the base, in points, positive where it is better."""

    gain: float
    low: float
    high: float
    """Ends of the paired 90 % interval on dev."""


@dataclass(frozen=True)
class Point:
    """One merge beside the base."""

    name: str
    alpha: float
    part: str | None
    """What moved alone, where parts were swept apart."""
    changes: Mapping[str, Change]
    """By task."""
    gain: float | None
    """Mean gain on the tasks that were tuned on."""
    kept: float | None
    """The lower bound elsewhere."""
    front: bool


@dataclass(frozen=True)
class Swept:
    """Merges, the rule and the choice: ``sweep.json`` or ``search.json``."""

    points: tuple[Point, ...]
    tuned_on: tuple[str, ...]
    rule: str
    keep_within: float | None
    choice: str | None
    command: str
    said: str
    """Which merge to take and whether it helps, in a sentence."""
    searched: bool
    """Whether coefficients were searched: such merges lie on no line."""

    @property
    def chosen(self) -> Point | None:
        """The merge that the rule chose."""
        return next((point for point in self.points if point.name == self.choice), None)


@dataclass(frozen=True)
class Suggestion:
    """An alpha without labels of other tasks, with its curves: ``suggestion.json``."""

    alpha: float
    task: str
    reason: str
    status: str
    alphas: tuple[float, ...]
    curves: Mapping[str, tuple[float, ...]]
    """``gain``, ``gain_of_kept_head`` and ``drift``; empty ones are left out."""


def read_swept(content: Any, *, searched: bool = False) -> Swept:
    """Return what a file of a sweep or a search says.

    Raises:
        ValueError: It says something else.
    """
    try:
        rule = content.get("rule") or {}
        return Swept(
            tuple(_point(point) for point in content["points"]),
            tuple(map(str, content.get("tuned_on") or ())),
            str(rule.get("text", "")),
            _number(rule.get("keep_within")),
            _text(content.get("choice")),
            str(content.get("command") or ""),
            str(content.get("said") or ""),
            searched,
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no sweep: {type(error).__name__} {error}") from None


def read_suggestion(content: Any) -> Suggestion:
    """Return what a file of a suggestion says.

    Raises:
        ValueError: It says something else.
    """
    try:
        alphas = tuple(_sure(value) for value in content["alphas"])
        curves = {
            name: tuple(_sure(value) for value in content.get(name) or ())
            for name in ("gain", "gain_of_kept_head", "drift")
        }
        kept = {name: values for name, values in curves.items() if len(values) == len(alphas) > 1}
        task, reason, status = (
            str(content.get(name) or "") for name in ("task", "reason", "status")
        )
        return Suggestion(_sure(content["alpha"]), task, reason, status, alphas, kept)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no suggestion: {type(error).__name__} {error}") from None


def _point(content: Any) -> Point:
    changes = {
        str(task): Change(_sure(one["gain"]), *(_sure(end) for end in _pair(one)))
        for task, one in content["dev"].items()
    }
    return Point(
        str(content["name"]),
        _number(content.get("alpha")) or 0.0,
        _text(content.get("part")),
        changes,
        _number(content.get("gain")),
        _number(content.get("kept")),
        content.get("front") is True,
    )


def _pair(content: Any) -> tuple[Any, Any]:
    ends = content.get("interval") or (content["gain"], content["gain"])
    return ends[0], ends[-1]


def _sure(value: Any) -> float:
    number = _number(value)
    if number is None:
        raise TypeError(f"{value!r} is no number")
    return number


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
