"""The part of a recording that a row of a table means: from when to when, and which channel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

_LONGEST = 1e9
"""Seconds: thirty years; what is later is no time in a recording."""


@dataclass(frozen=True)
class Segment:
    """The part of a recording that a row means."""

    start: float | None = None
    end: float | None = None
    channel: int | None = None


def segment_of(row: Mapping[str, str]) -> Segment:
    """Return the part of a recording that a row means: start and end, or start and duration.

    An empty start is the recording's beginning. A duration in a table without any start cuts
    nothing: most tables have it as a note on the recording.

    Raises:
        ValueError: In words, what is no number.
    """
    start, end = _seconds(row, "start"), _seconds(row, "end")
    if "start" in row and end is None and row.get("duration"):
        end = (start or 0.0) + (_seconds(row, "duration") or 0.0)
    channel = row.get("channel", "")
    if channel and not channel.isdecimal():
        raise ValueError(f"the channel {channel!r} is not a number from 0")
    return Segment(start, end, int(channel) if channel else None)


def _seconds(row: Mapping[str, str], column: str) -> float | None:
    text = row.get(column, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= _LONGEST:
        raise ValueError(f"the {column} {text!r} is not a number of seconds")
    return value
