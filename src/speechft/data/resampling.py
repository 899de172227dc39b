"""Resampling by windowed sinc interpolation, as torchaudio does, whatever the two rates are."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

_WIDTH, _ROLLOFF = 6, 0.99
"""Zero crossings on each side, and the edge as a share of the lower Nyquist frequency."""
_KERNEL = 1 << 21
"""Values of a kernel that lhotse may keep; beyond, weights are computed for each sample."""
_BLOCK = 1 << 21
"""Weights at a time."""


def resample(samples: Samples, rate: int, wanted: int) -> Samples:
    """Return (..., S') samples at another rate, S' = ceil(S wanted / rate).

    torchaudio's method (Smith, Digital Audio Resampling; a Hann window over six zero crossings) by
    lhotse's copy of it. Its kernel has (rate / g) (wanted / g) values, g their greatest common
    divisor: 16,000 Hz from 15,999 Hz would take gigabytes. There the same weights are computed
    piece by piece.

    Args:
        samples: (..., S) at ``rate``.
        rate: Samples a second.
        wanted: Samples a second of the result.
    """
    if rate == wanted:
        return samples
    common = math.gcd(rate, wanted)
    if (rate // common + 2 * _width(rate, wanted)) * (wanted // common) > _KERNEL:
        rows = samples.reshape(-1, samples.shape[-1])
        made = np.stack([_by_pieces(row, rate // common, wanted // common) for row in rows])
        return made.reshape(*samples.shape[:-1], -1)
    import torch
    from lhotse.augmentation import get_or_create_resampler

    with torch.autocast("cpu", enabled=False):  # the reader may run inside the encoder's bf16
        resampled: Samples = get_or_create_resampler(rate, wanted)(
            torch.from_numpy(np.ascontiguousarray(samples))
        ).numpy()
    return resampled


def _width(rate: int, wanted: int) -> int:
    return math.ceil(_WIDTH * rate / (min(rate, wanted) * _ROLLOFF))


def _by_pieces(row: Samples, old: int, new: int) -> Samples:
    """Resample (S,) samples, rates without a common divisor."""
    base, width = min(old, new) * _ROLLOFF, _width(old, new)
    count = -(-len(row) * new // old)
    around = np.arange(-width, width + 1)
    padded = np.pad(row, (width, width + 1))
    result = np.empty(count, dtype=np.float32)
    step = max(1, _BLOCK // len(around))
    for first in range(0, count, step):
        numbers = np.arange(first, min(first + step, count), dtype=np.int64)
        places, rest = np.divmod(numbers * old, new)  # in samples of the input
        times = (around - rest[:, None] / new) * (base / old)
        times = times.clip(-_WIDTH, _WIDTH)
        weights = np.sinc(times) * np.cos(times * (np.pi / _WIDTH / 2)) ** 2 * (base / old)
        taken = padded[places[:, None] + around + width]
        result[numbers] = (weights * taken).sum(axis=1)
    return result
