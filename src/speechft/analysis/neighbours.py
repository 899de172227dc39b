"""Whether near utterances have the same label: k nearest neighbours, without any training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from speechft.analysis.intervals import Estimate, Groups, mean_estimate


def neighbours_accuracy(
    means: npt.NDArray[np.floating],
    labels: Groups,
    speakers: Groups,
    *,
    apart: bool,
    k: int = 10,
) -> Estimate:
    """Return how often the k nearest utterances say an utterance's label, in percent.

    Features are mean-pooled and standardised, nearness is the cosine; each utterance is left out in
    turn, the majority of its neighbours decides, and the nearest of those with as many votes.

    Args:
        means: (U, D) mean over time of each utterance.
        labels: (U,) number of the label of each; negative where it has none.
        speakers: (U,) number of the speaker of each.
        apart: Neighbours are of other speakers: what is asked is not who speaks.
        k: Neighbours.
    """
    values = np.asarray(means, np.float64)
    spread = values.std(0)
    values = (values - values.mean(0)) / np.where(spread > 0, spread, 1)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    values = np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)
    known = np.flatnonzero(labels >= 0)
    values, labels, speakers = values[known], labels[known], speakers[known]
    right = np.full(len(known), np.nan)
    for start in range(0, len(known), 512):
        rows = np.arange(start, min(start + 512, len(known)))
        near = values[rows] @ values.T
        near[np.arange(len(rows)), rows] = -np.inf
        if apart:
            near[speakers[rows][:, None] == speakers] = -np.inf
        order = np.argsort(-near, axis=1, kind="stable")[:, :k]
        for row, chosen in zip(rows, order, strict=True):
            votes = labels[chosen[np.isfinite(near[row - start, chosen])]]
            if len(votes):
                right[row] = 100.0 * (_majority(votes) == labels[row])
    return mean_estimate(right, speakers)


def _majority(votes: Groups) -> int:
    names, first, counts = np.unique(votes, return_index=True, return_counts=True)
    best = counts == counts.max()
    return int(names[best][np.argmin(first[best])])
