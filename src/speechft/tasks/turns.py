"""Speaker turns and frames: labels of chunks, the permutation-free loss, RTTM (SUPERB SD).

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


def chunk_bounds(frames: int, size: int) -> list[tuple[int, int]]:
    """Cut ``frames`` into chunks of ``size``, the last one shorter: (first, past the last)."""
    return [(first, min(first + size, frames)) for first in range(0, frames, size)]


def turn_labels(
    turns: Sequence[Turn],
    first: int,
    last: int,
    *,
    frame_shift: int = 320,
    rate: int = 16_000,
    speakers: Sequence[str] | None = None,
    lose_inside: bool = False,
) -> npt.NDArray[np.int64]:
    """Return (T, K) 0/1 labels of the frames ``first`` to ``last - 1`` of a recording.

    A turn covers the frames from ``rint(start rate / frame_shift)`` to that of its end.

    Args:
        turns: (speaker, start, end) in seconds, of the whole recording.
        first: First frame.
        last: Frame past the last.
        frame_shift: Samples between frames.
        rate: Samples a second.
        speakers: Columns; None takes the speakers of all turns, sorted.
        lose_inside: Leave out a turn that begins before and ends after the chunk, which s3prl
            0.4 (and EEND) does by mistake.
    """
    names = sorted({turn[0] for turn in turns}) if speakers is None else list(speakers)
    labels = np.zeros((last - first, len(names)), dtype=np.int64)
    for name, start, end in turns:
        begin, stop = (int(np.rint(time * rate / frame_shift)) for time in (start, end))
        if lose_inside and not (first <= begin < last or first < stop <= last):
            continue
        labels[max(begin - first, 0) : max(stop - first, 0), names.index(name)] = 1
    return labels


def match_frames(features: Tensor, frames: int) -> Tensor:
    """Bring (B, T, D) features to the frames of the labels: repeat, cut, or repeat the last.

    Source: s3prl 0.4 ``_match_length`` of the diarisation expert; the factor is
    ``round(frames / T)``.
    """
    factor = round(frames / features.shape[1])
    if factor > 1:
        features = features.repeat_interleave(factor, dim=1)
    missing = frames - features.shape[1]
    if missing > 0:
        features = torch.cat([features, features[:, -1:].expand(-1, missing, -1)], dim=1)
    return features[:, :frames]


def pit_losses(logits: Tensor, labels: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return every permutation's loss, the best permutation, and the labels in its order.

    Binary cross entropy, mean over speakers, sum over the valid frames of an utterance, for every
    order of the speakers. Source: Yu et al. 2017 (PIT); s3prl 0.4 ``pit_loss``, whose batch loss
    is ``losses.min(1).sum() / lengths.sum()``.

    Args:
        logits: (B, T, K).
        labels: (B, T, K) 0 or 1.
        lengths: (B,) valid frames.

    Returns:
        (B, P) losses, (B,) number of the best in the order of `itertools.permutations`, and
        (B, T, K) permuted labels.
    """
    orders = list(itertools.permutations(range(labels.shape[-1])))
    mask = torch.arange(logits.shape[1], device=logits.device) < lengths[:, None]
    losses = torch.stack(
        [
            (
                F.binary_cross_entropy_with_logits(
                    logits, labels[..., list(order)].to(logits.dtype), reduction="none"
                ).mean(-1)
                * mask
            ).sum(1)
            for order in orders
        ],
        dim=1,
    )
    best = losses.argmin(1)
    permuted = torch.stack(
        [labels[n][:, list(orders[number])] for n, number in enumerate(best.tolist())]
    )
    return losses, best, permuted


def pit_loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
    """Return the loss of a batch: best permutations' losses over all valid frames."""
    return pit_losses(logits, labels, lengths)[0].min(1).values.sum() / lengths.sum()


def turns_of(
    probabilities: npt.NDArray[np.floating] | Tensor,
    *,
    name: str = "",
    threshold: float = 0.5,
    median: int = 1,
    frame_shift: int = 320,
    rate: int = 16_000,
) -> list[Turn]:
    """Turn (T, K) probabilities into turns: threshold, median filter, runs of frames.

    Source: s3prl 0.4 ``make_rttm.py``.

    Args:
        probabilities: Of each speaker in each frame.
        name: Speakers are called ``<name>_<number>``.
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
            turns.append((f"{name}_{number}", first, last))
    return turns


def rttm_lines(recording: str, turns: Sequence[Turn]) -> list[str]:
    """Write turns as lines of an RTTM file, times in hundredths of a second."""
    return [
        f"SPEAKER {recording} 1 {start:7.2f} {end - start:7.2f} <NA> <NA> {name} <NA>"
        for name, start, end in turns
    ]
