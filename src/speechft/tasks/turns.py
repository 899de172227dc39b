"""Speaker turns and frames: labels of frames, the permutation-free loss, decisions (SUPERB SD).

Shapes: B batch, T frames, D dim, K speakers, P permutations.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from speechft.tasks.metrics.diarization import Turn


def turn_labels(
    turns: Sequence[Turn], first: int, last: int, *, frame_shift: int, rate: int = 16_000
) -> npt.NDArray[np.int64]:
    """Return (T, K) 0/1 labels of the frames ``first`` to ``last - 1``, speakers sorted.

    A turn covers the frames from ``rint(start rate / frame_shift)`` to that of its end. (s3prl 0.4
    and EEND lose a turn that begins before and ends after the frames.)

    Args:
        turns: (speaker, start, end) in seconds, of the whole recording.
        first: First frame.
        last: Frame past the last.
        frame_shift: Samples between frames.
        rate: Samples a second.
    """
    names = sorted({turn[0] for turn in turns})
    labels = np.zeros((last - first, len(names)), dtype=np.int64)
    for name, start, end in turns:
        begin, stop = (int(np.rint(time * rate / frame_shift)) for time in (start, end))
        labels[max(begin - first, 0) : max(stop - first, 0), names.index(name)] = 1
    return labels


def pit_losses(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
    """Return the (B, P) losses of every order of the speakers.

    Binary cross entropy, mean over speakers, sum over the valid frames of an utterance. Source: Yu
    et al. 2017 (PIT); s3prl 0.4 ``pit_loss``, whose batch loss is ``losses.min(1).sum() /
    lengths.sum()``.

    Args:
        logits: (B, T, K).
        labels: (B, T, K) 0 or 1.
        lengths: (B,) valid frames.

    Returns:
        Losses in the order of `itertools.permutations`.
    """
    mask = torch.arange(logits.shape[1], device=logits.device) < lengths[:, None]
    return torch.stack(
        [
            (
                F.binary_cross_entropy_with_logits(
                    logits, labels[..., list(order)].to(logits.dtype), reduction="none"
                ).mean(-1)
                * mask
            ).sum(1)
            for order in itertools.permutations(range(labels.shape[-1]))
        ],
        dim=1,
    )


def turns_of(
    probabilities: npt.NDArray[np.floating] | Tensor,
    *,
    threshold: float = 0.5,
    median: int = 1,
    frame_shift: int,
    rate: int = 16_000,
) -> list[Turn]:
    """Turn (T, K) probabilities into turns: threshold, median filter, runs of frames.

    Speakers are called ``_<number>``. Source: s3prl 0.4 ``make_rttm.py``.

    Args:
        probabilities: Of each speaker in each frame.
        threshold: A speaker talks where the probability is above it.
        median: Frames of the median filter, odd; 1 for none.
        frame_shift: Samples between frames.
        rate: Samples a second.
    """
    from scipy.signal import medfilt

    values = np.asarray(probabilities)
    active = (values > threshold).astype(np.float64)
    if median > 1:
        active = medfilt(active, (median, 1))
    turns: list[Turn] = []
    for number, column in enumerate(active.T):
        padded = np.pad(column, 1)
        edges = np.flatnonzero(np.diff(padded) != 0)
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            first, last = (float(edge) * frame_shift / rate for edge in (start, end))
            turns.append((f"_{number}", first, last))
    return turns
