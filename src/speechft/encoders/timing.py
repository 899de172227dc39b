"""Where the frames of an encoder lie in time; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SAMPLE_RATE = 16_000
"""Samples a second of the waveforms that encoders are given."""


@dataclass(frozen=True)
class FrameTiming:
    """Frames in samples of 16 kHz: frame t reads ``receptive_field`` samples from t hop + start."""

    hop_size: int
    """Samples between frames."""
    receptive_field: int
    """Samples that the downsampler reads for a frame."""
    start: int = 0
    """First of them for frame 0; negative where the downsampler pads in front."""

    @property
    def frame_rate(self) -> float:
        """Return frames per second."""
        return SAMPLE_RATE / self.hop_size

    @property
    def hop_seconds(self) -> float:
        """Return seconds between frames."""
        return self.hop_size / SAMPLE_RATE

    @property
    def centre_seconds(self) -> float:
        """Return the time of the middle of frame 0."""
        return (self.start + self.receptive_field / 2) / SAMPLE_RATE


def timing_of(strides: Sequence[tuple[int, int]]) -> FrameTiming:
    """Return the timing of a chain of windows, (kernel, stride) each, that pads nothing."""
    hop, field = 1, 1
    for kernel, stride in strides:
        field += (kernel - 1) * hop
        hop *= stride
    return FrameTiming(math.prod(stride for _, stride in strides), field)
