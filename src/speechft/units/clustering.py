"""K-means on frames, and how well clusters and phones agree; arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from speechft.errors import DataError
from speechft.extras import needs

BATCH = 10_000
"""Frames of a step of k-means."""

Floats = npt.NDArray[np.floating[Any]]
Units = npt.NDArray[np.int64]


def fit_centroids(frames: Floats, clusters: int, seed: int) -> npt.NDArray[np.float32]:
    """Return k-means centroids, (K, D).

    Source: MiniBatchKMeans of scikit-learn (Sculley 2010), with the settings of HuBERT's first
    stage but for the number of starts (Hsu et al. 2021, arXiv 2106.07447): k-means++, the best of
    three starts, at most 100 passes.

    Args:
        frames: (F, D) float32, in memory or mapped from a file; read in steps of `BATCH`.
        clusters: K.
        seed: Of starts and of the order of frames.

    Raises:
        DataError: There are fewer frames than clusters.
    """
    with needs("pretrain", "k-means", "scikit-learn"):
        from sklearn.cluster import MiniBatchKMeans

    if len(frames) < clusters:
        raise DataError(f"{len(frames)} frames of speech cannot form {clusters} clusters")
    model = MiniBatchKMeans(
        clusters,
        batch_size=BATCH,
        n_init=3,
        max_iter=100,
        random_state=seed,
        compute_labels=False,
    ).fit(frames)
    return np.asarray(model.cluster_centers_, np.float32)


def assign(frames: Floats, centroids: Floats) -> tuple[Units, Floats]:
    """Return the nearest centroid of every frame, the first of equals, and the squared distances.

    Computed in float64: |x - c|^2 = |x|^2 - 2 x c + |c|^2.

    Args:
        frames: (F, D).
        centroids: (K, D).
    """
    wide, middles = frames.astype(np.float64), centroids.astype(np.float64)
    scores = np.einsum("kd,kd->k", middles, middles) - 2 * (wide @ middles.T)
    nearest = scores.argmin(axis=1)
    apart = wide - middles[nearest]
    return nearest, np.einsum("fd,fd->f", apart, apart)


def without_repeats(units: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return units with neighbours that are equal taken together, and how many there were."""
    runs = [(unit, len(list(same))) for unit, same in groupby(units)]
    return [unit for unit, _ in runs], [count for _, count in runs]


@dataclass(frozen=True)
class Agreement:
    """How well clusters and phones agree.

    Source: HuBERT (Hsu et al. 2021, arXiv 2106.07447, section IV-E).
    """

    phone_purity: float
    """Share of frames whose phone is the most frequent one of their cluster."""
    cluster_purity: float
    """Share of frames whose cluster is the most frequent one of their phone."""
    pnmi: float
    """Mutual information of phones and clusters over the entropy of phones."""
    frames: int
    phones: int


def agreement(units: Sequence[int], phones: Sequence[str]) -> Agreement | None:
    """Compare clusters and phones frame by frame; None where fewer than two phones occur."""
    names = sorted(set(phones))
    if len(names) < 2:
        return None
    index = {name: number for number, name in enumerate(names)}
    clusters, rows = np.unique(np.asarray(units), return_inverse=True)
    table = np.zeros((len(names), len(clusters)))
    np.add.at(table, (np.array([index[phone] for phone in phones]), rows), 1.0)
    joint = table / table.sum()
    of_phones, of_clusters = joint.sum(axis=1), joint.sum(axis=0)
    there = joint > 0
    expected = np.outer(of_phones, of_clusters)[there]
    information = float((joint[there] * np.log(joint[there] / expected)).sum())
    entropy = float(-(of_phones * np.log(of_phones)).sum())
    return Agreement(
        float(joint.max(axis=0).sum()),
        float(joint.max(axis=1).sum()),
        information / entropy,
        len(phones),
        len(names),
    )
