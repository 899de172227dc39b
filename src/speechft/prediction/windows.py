"""Long recordings in windows: what each window reads, and which of its frames are kept.

Neighbouring windows share context: frames are kept only where they have ``context`` frames of real
audio on both sides, or the recording's own end. An encoder whose frames depend on no more than that
gives the very frames that it gives of the whole; of others, whose attention reads everything, a
frame in a window differs from that in the whole as it would in a shorter recording.
"""

from __future__ import annotations

from dataclasses import dataclass

from speechft.encoders.timing import SAMPLE_RATE, FrameTiming
from speechft.errors import ConfigError


@dataclass(frozen=True)
class Window:
    """A piece of a recording."""

    start: int
    """First sample, a whole number of hops from the beginning."""
    stop: int
    """Sample past the last."""
    skip: int
    """Frames in front that are context."""
    keep: int
    """Frames after them that are kept."""


def cut_windows(
    samples: int, frames: int, timing: FrameTiming, *, longest: int, context: float
) -> list[Window]:
    """Cut a recording into windows whose kept frames, one after the other, are all of its frames.

    Args:
        samples: Of the recording, at 16 kHz.
        frames: That the encoder makes of them.
        timing: Where frames lie in time.
        longest: Samples of a window, at most; a recording that is no longer is one window.
        context: Seconds on each side of what is kept.

    Raises:
        ConfigError: Nothing is left between the contexts.
    """
    if samples <= longest:
        return [Window(0, samples, 0, frames)]
    hop, field = timing.hop_size, timing.receptive_field
    around = -(-round(context * SAMPLE_RATE) // hop)
    kept = (longest - field - hop) // hop + 1 - 2 * around
    if kept < 1:
        raise ConfigError(
            f"windows of {longest / SAMPLE_RATE:g} s leave nothing between contexts of "
            f"{context:g} s",
            hint="give a longer --window, or less --context",
        )
    windows = []
    for first in range(0, frames, kept):
        last = min(first + kept, frames)
        before, after = max(first - around, 0), min(last + around, frames)
        end = samples if after == frames else (after - 1) * hop + timing.start + field
        windows.append(Window(before * hop, min(end, samples), first - before, last - first))
    return windows
