"""Which frames are kept where there is no room for all, what that costs, and how it is said.

Frames of training and dev cuts are read in every epoch, those that are only tested once or twice:
the first go before. Among them the longest go first: a frame of a long utterance takes as much
room and more time, for attention looks at all others.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

_TOLD = 1_000_000_000
"""Bytes of frames that are worth a line."""


class FramePlan:
    """What is kept of so many bytes of frames; who comes is told whether there is room.

    Args:
        often: Bytes of the frames that are read again and again.
        seldom: Bytes of the others.
        room: Bytes that may be kept.
        rare: Ids of the cuts whose frames are read seldom.
    """

    def __init__(self, often: int, seldom: int, room: int, rare: Container[str] = ()) -> None:
        self.total, self.room = often + seldom, room
        self._rare = rare
        self._left = {False: room, True: max(0, room - often)}

    @property
    def kept(self) -> int:
        """Return the bytes that are kept, at most."""
        return min(self.total, self.room)

    def take(self, name: str, size: int) -> bool:
        """Return whether the frames of a cut are kept; they then count."""
        kind = name in self._rare
        if size > self._left[kind] or size > self._left[False]:
            return False
        self._left[kind] -= size
        if kind:
            self._left[False] -= size
        return True

    def text(self, place: Path, free: int) -> str | None:
        """Return what is kept where, before any work; None where it is not worth a line.

        Args:
            place: Folder of the files.
            free: Bytes that are free there.
        """
        if self.total <= self.room and self.total < _TOLD:
            return None
        told = f"frames take {_size(self.total)}; {place} has {_size(free)} free and holds "
        if self.total <= self.room:
            return f"{told}them while this goes on"
        return (
            f"{told}{_size(self.kept)} of them while this goes on: those that are read in every "
            f"epoch first, long ones before short ones; the other {_size(self.total - self.kept)} "
            "are computed again whenever they are read"
        )

    def cost(self, audio: float, spent: float, left: float) -> str | None:
        """Return what the time comes to, after a first batch; None where all is kept.

        Args:
            audio: Seconds in that batch.
            spent: Seconds that it took.
            left: Seconds of audio that are still to be encoded.
        """
        if self.total <= self.room or not audio:
            return None
        pace = spent / audio
        again = pace * left * (1 - self.kept / self.total)
        return (
            f"a minute of audio takes {60 * pace:.2g} s: about {_time(pace * left)} for these "
            f"features, and up to {_time(again)} more for each epoch of a task on frames"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"
