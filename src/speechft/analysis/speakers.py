"""How well mean-pooled hidden states tell speakers apart without any training: equal error rate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from speechft.analysis.intervals import Estimate, Floats, Groups

MOST_PAIRS = 50_000
"""Pairs of utterances; a seeded draw where there are more."""


def speaker_eer(means: npt.NDArray[np.floating], speakers: Groups, seed: int = 0) -> Estimate:
    """Return the equal error rate in percent of "the same speaker?", over pairs of utterances.

    Scored by the cosine of utterances' mean hidden states, the mean over all utterances taken away;
    all pairs, up to a seeded `MOST_PAIRS`. Without a speaker: without the pairs that it is part of.
    50 is chance.

    Args:
        means: (U, D) mean over time of each utterance.
        speakers: (U,) number of the speaker of each.
        seed: Of the draw of pairs.
    """
    first, second = pairs_of(len(speakers), seed)
    centred = np.asarray(means, np.float64) - np.asarray(means, np.float64).mean(0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)
    scores = (unit[first] * unit[second]).sum(1)
    order = np.argsort(-scores, kind="stable")
    scores, first, second = scores[order], speakers[first[order]], speakers[second[order]]
    same = first == second

    def rate(kept: npt.NDArray[np.bool_]) -> float:
        return 100 * _sorted_eer(same[kept], scores[kept])

    whole = rate(np.ones(len(same), bool))
    if not np.isfinite(whole):
        return Estimate(None)
    left = {int(s): rate((first != s) & (second != s)) for s in np.unique(speakers)}
    return Estimate(whole, {s: v for s, v in left.items() if np.isfinite(v)}, len(same))


def pairs_of(count: int, seed: int) -> tuple[Groups, Groups]:
    """Return both numbers of each pair of utterances, all of them or a seeded draw."""
    first, second = np.triu_indices(count, 1) if count <= 2000 else _drawn(count, seed)
    if len(first) > MOST_PAIRS:
        drawn = np.sort(np.random.default_rng(seed).choice(len(first), MOST_PAIRS, replace=False))
        first, second = first[drawn], second[drawn]
    return first, second


def _drawn(count: int, seed: int) -> tuple[Groups, Groups]:
    drawn = np.random.default_rng(seed).integers(count, size=(2 * MOST_PAIRS, 2))
    drawn = np.unique(np.sort(drawn[drawn[:, 0] != drawn[:, 1]], axis=1), axis=0)
    return drawn[:, 0], drawn[:, 1]


def _sorted_eer(same: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Return the EER of pairs in falling order of their scores, as a fraction.

    The crossing of the ROC curve, linear between its corners, as `equal_error_rate` of
    `speechft.tasks.metrics` has it by root finding.
    """
    hits, alarms = np.cumsum(same), np.cumsum(~same)
    if not len(same) or not hits[-1] or not alarms[-1]:
        return float("nan")
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # ties are one corner
    alarm = np.append(0.0, alarms[ends] / alarms[-1])
    miss = np.append(1.0, 1 - hits[ends] / hits[-1])
    after = int(np.argmax(alarm >= miss))
    gap = miss - alarm
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(alarm[after - 1] + share * (alarm[after] - alarm[after - 1]))
