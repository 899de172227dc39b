"""What a sweep or a search found, as a table for the terminal."""

from __future__ import annotations

from typing import Protocol

from speechft.sweeping.judging import Change, Judged


class Found(Protocol):
    """What a sweep and a search have in common."""

    @property
    def judged(self) -> list[Judged]:
        """Every merge against the base, which is the first."""

    @property
    def choice(self) -> Judged | None:
        """The merge to take."""

    @property
    def tuned_on(self) -> tuple[str, ...]:
        """Tasks that were tuned on."""


def table(result: Found) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of a sweep for a terminal: gains with their intervals on dev."""
    tasks = list(result.judged[0].changes)
    header = ["merge", *(f"{t}{' (tuned)' * (t in result.tuned_on)}" for t in tasks), "kept", ""]
    cells = []
    for one in result.judged:
        marks = ["front"] * one.front + ["choice"] * (one is result.choice)
        gains = [_cell(one.changes.get(task)) for task in tasks]
        kept = "-" if one.kept is None else f"{one.kept:+.1f}"
        cells.append([one.point.name, *gains, kept, ", ".join(marks)])
    return header, cells


def _cell(change: Change | None) -> str:
    if change is None:
        return "-"
    low, high = change.interval
    return f"{change.gain:+.1f} [{low:+.1f}, {high:+.1f}]"
