"""Query-by-example detection by dynamic time warping (SUPERB QbE).

Shapes: Q query frames, T document frames, D dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_BLOCK = 64
"""Documents that are warped side by side: bounds the memory."""
LEAST_FRAMES = 5
"""Queries with fewer frames are not matched; they score 0."""


def standardize(features: Sequence[npt.ArrayLike]) -> tuple[Floats, Floats]:
    """Return (D,) mean and unbiased standard deviation over all frames of all features."""
    count = sum(len(np.asarray(item)) for item in features)
    total = sum(np.asarray(item, dtype=np.float64).sum(0) for item in features)
    mean = np.asarray(total / count)
    squares = sum(np.square(np.asarray(item, dtype=np.float64) - mean).sum(0) for item in features)
    return mean, np.sqrt(squares / (count - 1))


def distance_matrix(query: npt.ArrayLike, document: npt.ArrayLike) -> Floats:
    """Return the (Q, T) distances ``exp(1 - cosine) - 1``, every row stretched to 0 to 1.

    For every query frame, the least distance is subtracted and the range divided by. Source:
    s3prl 0.4 ``quesst14_dtw`` with ``cosine_exp``, SUPERB's distance.

    Args:
        query: (Q, D).
        document: (T, D).
    """
    cosines = _cosines(np.asarray(query, dtype=np.float64), np.asarray(document, dtype=np.float64))
    matrix: Floats = np.exp(1.0 - cosines) - 1.0
    low, high = matrix.min(1, keepdims=True), matrix.max(1, keepdims=True)
    result: Floats = (matrix - low) / (high - low).clip(min=1e-9)
    return result


def match_all(query: npt.ArrayLike, documents: Sequence[npt.ArrayLike]) -> Floats:
    """Return the (n,) scores of one query in many documents: minus the cost of the best path.

    Asymmetric steps, anywhere in the document: every query frame is used once and advances the
    document by 0, 1 or 2 frames; the cost is divided by Q. Documents are warped side by side.
    Source: dtw-python 1.9 (Giorgino 2009), as s3prl 0.4 ``quesst14_dtw`` uses it.

    Args:
        query: (Q, D).
        documents: (T, D) each.
    """
    starts = range(0, len(documents), _BLOCK)
    blocks = (documents[first : first + _BLOCK] for first in starts)
    result: Floats = np.concatenate([_match_block(query, block) for block in blocks])
    return result


def _match_block(query: npt.ArrayLike, documents: Sequence[npt.ArrayLike]) -> Floats:
    matrices = [distance_matrix(query, document) for document in documents]
    longest = max(matrix.shape[1] for matrix in matrices)
    padded = np.full((matrices[0].shape[0], len(matrices), longest), np.inf)
    for number, matrix in enumerate(matrices):
        padded[:, number, : matrix.shape[1]] = matrix
    cost = padded[0].copy()
    for rows in padded[1:]:
        best = cost.copy()
        best[:, 1:] = np.minimum(best[:, 1:], cost[:, :-1])
        best[:, 2:] = np.minimum(best[:, 2:], cost[:, :-2])
        cost = rows + best
    result: Floats = -cost.min(1) / len(padded)
    return result


def query_scores(
    scores: Mapping[str, Mapping[str, float]], frames: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Standardise scores over the documents of each query (population standard deviation).

    Args:
        scores: By query and document.
        frames: Frames of each query; below `LEAST_FRAMES` all its scores are 0.
    """
    result: dict[str, dict[str, float]] = {}
    for query, by_document in scores.items():
        values = np.array(list(by_document.values()))
        if frames[query] < LEAST_FRAMES:
            standard = np.zeros(len(values))
        else:
            standard = (values - values.mean()) / (values.std() or 1.0)
        result[query] = dict(zip(by_document, standard.tolist(), strict=True))
    return result


def _cosines(query: Floats, document: Floats) -> Floats:
    def unit(frames: Floats) -> Floats:
        result: Floats = frames / np.linalg.norm(frames, axis=1, keepdims=True).clip(min=1e-300)
        return result

    result: Floats = unit(query) @ unit(document).T
    return result
