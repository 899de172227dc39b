"""Metrics of speaker diarisation: diarisation error rate over time and over frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Turn = tuple[str, float, float]
"""(speaker, start, end) in seconds."""


@dataclass(frozen=True)
class DiarizationErrors:
    """Seconds of speaker time that are wrong, and of all speaker time in the reference."""

    missed: float
    false_alarm: float
    confusion: float
    speech: float

    @property
    def total(self) -> float:
        """Return all wrong speaker time."""
        return self.missed + self.false_alarm + self.confusion


def diarization_errors(reference: Sequence[Turn], hypothesis: Sequence[Turn]) -> DiarizationErrors:
    """Compare the turns of one recording, without a collar, overlapped speech included.

    Speakers are matched one to one so that they share the most time. Exact in continuous time.
    Source: NIST ``md-eval`` (RT-09), as dscore runs it for SUPERB SD.

    Args:
        reference: Turns; those of one speaker may overlap and are merged.
        hypothesis: Turns; names of speakers need not agree with the reference.
    """
    names = [sorted({turn[0] for turn in turns}) for turns in (reference, hypothesis)]
    times = np.unique([time for turn in (*reference, *hypothesis) for time in turn[1:]])
    if len(times) < 2:
        return DiarizationErrors(0.0, 0.0, 0.0, 0.0)
    lengths = np.diff(times)
    truth = _activity(reference, names[0], times)
    guess = _activity(hypothesis, names[1], times)
    shared = (truth * lengths) @ guess.T
    rows, columns = linear_sum_assignment(-shared) if shared.size else ([], [])
    expected, found = truth.sum(0), guess.sum(0)
    matched = float(shared[rows, columns].sum()) if shared.size else 0.0
    both = float((np.minimum(expected, found) * lengths).sum())
    return DiarizationErrors(
        missed=float((np.maximum(expected - found, 0) * lengths).sum()),
        false_alarm=float((np.maximum(found - expected, 0) * lengths).sum()),
        confusion=max(0.0, both - matched),
        speech=float((expected * lengths).sum()),
    )


def diarization_error_rate(
    references: Iterable[Sequence[Turn]], hypotheses: Iterable[Sequence[Turn]]
) -> float:
    """Return the diarisation error rate over recordings: wrong / reference speaker time.

    Raises:
        ValueError: Different numbers of recordings, or no reference speech.
    """
    found = [diarization_errors(r, h) for r, h in zip(references, hypotheses, strict=True)]
    speech = sum(errors.speech for errors in found)
    if speech == 0:
        raise ValueError("the references hold no speech: the error rate is not defined")
    return sum(errors.total for errors in found) / speech


der = diarization_error_rate
"""Short name of `diarization_error_rate`."""


def diarization_frame_statistics(
    logits: Tensor, labels: Tensor, lengths: Tensor
) -> dict[str, float]:
    """Count correct and wrong frames of decisions at logit 0, speakers as they are ordered.

    Source: EEND's and s3prl 0.4's ``calc_diarization_error``; ``speaker_miss + speaker_falarm +
    speaker_error`` over ``speaker_scored`` is the frame-level error rate.

    Args:
        logits: (B, T, K) of K speakers.
        labels: (B, T, K) 0 or 1, permuted to fit.
        lengths: (B,) valid frames.
    """
    count = logits.shape[-1]
    mask = torch.arange(logits.shape[1], device=logits.device) < lengths[:, None]
    truth, guess = labels.bool() & mask[..., None], (logits > 0) & mask[..., None]
    expected, found = truth.sum(-1), guess.sum(-1)
    both = (truth & guess).sum(-1)
    values = {
        "correct": ((truth == guess) & mask[..., None]).sum() / count,
        "num_frames": lengths.sum(),
        "speech_scored": (expected > 0).sum(),
        "speech_miss": ((expected > 0) & (found == 0)).sum(),
        "speech_falarm": ((expected == 0) & (found > 0)).sum(),
        "speaker_scored": expected.sum(),
        "speaker_miss": (expected - found).clamp(min=0).sum(),
        "speaker_falarm": (found - expected).clamp(min=0).sum(),
        "speaker_error": (torch.minimum(expected, found) - both).sum(),
    }
    return {name: float(value) for name, value in values.items()}


def _activity(
    turns: Sequence[Turn], names: Sequence[str], times: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return (speakers, intervals) 1 where a speaker talks between two neighbouring times."""
    active = np.zeros((len(names), len(times) - 1))
    for name, start, end in turns:
        first, last = np.searchsorted(times, [start, end])
        active[names.index(name), first:last] = 1.0
    return active
