"""Query-by-example detection by dynamic time warping (SUPERB QbE).

Shapes: Q query frames, T document frames, D dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
StepPattern = Literal["asymmetric", "symmetric1", "symmetric2"]

_TINY = 1e-6
_BLOCK = 64
"""Documents that are warped side by side: bounds the memory."""
LEAST_FRAMES = 5
"""Queries with fewer frames are not matched; they score 0."""


def cosine_distance(query: Floats, document: Floats) -> Floats:
    """Return (Q, T) one minus the cosine of every pair of frames."""
    return 1.0 - _cosines(query, document)


def cosine_exp(query: Floats, document: Floats) -> Floats:
    """Return (Q, T) ``exp(1 - cosine) - 1``, SUPERB's distance."""
    result: Floats = np.exp(1.0 - _cosines(query, document)) - 1.0
    return result


def cosine_neg_log(query: Floats, document: Floats) -> Floats:
    """Return (Q, T) ``-log(cosine)``, for features of positive values; cosines count from 1e-6."""
    result: Floats = -np.log(_cosines(query, document).clip(min=_TINY))
    return result


def euclidean(query: Floats, document: Floats) -> Floats:
    """Return (Q, T) Euclidean distances."""
    from scipy.spatial.distance import cdist

    result: Floats = cdist(query, document, "euclidean")
    return result


def cityblock(query: Floats, document: Floats) -> Floats:
    """Return (Q, T) sums of absolute differences."""
    from scipy.spatial.distance import cdist

    result: Floats = cdist(query, document, "cityblock")
    return result


DISTANCES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "cosine": cosine_distance,
    "cosine_exp": cosine_exp,
    "cosine_neg_log": cosine_neg_log,
    "euclidean": euclidean,
    "cityblock": cityblock,
}
"""Frame distances by name."""


def standardize(features: Sequence[npt.ArrayLike]) -> tuple[Floats, Floats]:
    """Return (D,) mean and unbiased standard deviation over all frames of all features."""
    count = sum(len(np.asarray(item)) for item in features)
    total = sum(np.asarray(item, dtype=np.float64).sum(0) for item in features)
    mean = np.asarray(total / count)
    squares = sum(np.square(np.asarray(item, dtype=np.float64) - mean).sum(0) for item in features)
    return mean, np.sqrt(squares / (count - 1))


def distance_matrix(
    query: npt.ArrayLike,
    document: npt.ArrayLike,
    *,
    distance: str = "cosine_exp",
    normalize_rows: bool = True,
) -> Floats:
    """Return the (Q, T) distances, every row stretched to 0 to 1 if wanted.

    Args:
        query: (Q, D).
        document: (T, D).
        distance: Key of `DISTANCES`.
        normalize_rows: For every query frame, subtract the least distance and divide by the range.
    """
    matrix: Floats = DISTANCES[distance](
        np.asarray(query, dtype=np.float64), np.asarray(document, dtype=np.float64)
    )
    if normalize_rows:
        low, high = matrix.min(1, keepdims=True), matrix.max(1, keepdims=True)
        matrix = (matrix - low) / (high - low).clip(min=1e-9)
    return matrix


def dtw_score(
    matrix: Floats, *, step_pattern: StepPattern = "asymmetric", subsequence: bool = True
) -> float:
    """Return minus the normalised cost of the cheapest warping path.

    Asymmetric: every query frame is used once and advances the document by 0, 1 or 2 frames; the
    cost is divided by Q. Symmetric: steps (1, 1), (0, 1), (1, 0); ``symmetric2`` counts a diagonal
    step twice and divides by Q + T, ``symmetric1`` is not normalised and yields NaN.
    Source: dtw-python 1.9 (Giorgino 2009), as s3prl 0.4 ``quesst14_dtw`` uses it.

    Args:
        matrix: (Q, T) distances.
        step_pattern: Which steps are allowed.
        subsequence: The path may begin and end at any document frame.

    Raises:
        ValueError: No path satisfies the steps.
    """
    queries, frames = matrix.shape
    if step_pattern == "asymmetric":
        cost = matrix[0].copy()
        if not subsequence:
            cost[1:] = np.inf
        for row in matrix[1:]:
            previous = np.minimum(cost, np.r_[np.inf, cost[:-1]])
            cost = row + np.minimum(previous, np.r_[np.inf, np.inf, cost[:-2]][:frames])
        best = cost.min() if subsequence else cost[-1]
        if not np.isfinite(best):
            raise ValueError("no warping path is possible: the document is too long or too short")
        return float(-best / queries)
    diagonal = 2.0 if step_pattern == "symmetric2" else 1.0
    cost = matrix[0].copy() if subsequence else np.cumsum(matrix[0])
    for row in matrix[1:]:
        following = np.empty_like(cost)
        following[0] = cost[0] + row[0]
        for place in range(1, frames):
            following[place] = min(
                cost[place - 1] + diagonal * row[place],
                cost[place] + row[place],
                following[place - 1] + row[place],
            )
        cost = following
    if step_pattern == "symmetric1":
        return float("nan")
    if subsequence:
        raise ValueError("symmetric2 is normalised by both lengths and needs whole sequences")
    return float(-cost[-1] / (queries + frames))


def match(
    query: npt.ArrayLike,
    document: npt.ArrayLike,
    *,
    distance: str = "cosine_exp",
    normalize_rows: bool = True,
    step_pattern: StepPattern = "asymmetric",
    subsequence: bool = True,
) -> float:
    """Return the score of a (Q, D) query in a (T, D) document; higher is more alike."""
    matrix = distance_matrix(query, document, distance=distance, normalize_rows=normalize_rows)
    return dtw_score(matrix, step_pattern=step_pattern, subsequence=subsequence)


def match_all(query: npt.ArrayLike, documents: Sequence[npt.ArrayLike]) -> Floats:
    """Return the (n,) scores of one query in many documents, SUPERB's settings.

    The same as `match` one by one, but documents are warped side by side.
    """
    blocks = [documents[first : first + _BLOCK] for first in range(0, len(documents), _BLOCK)]
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


DECISION = 2.0
"""A standardised score above this says that the document holds the query."""


def _cosines(query: Floats, document: Floats) -> Floats:
    def unit(frames: Floats) -> Floats:
        result: Floats = frames / np.linalg.norm(frames, axis=1, keepdims=True).clip(min=1e-300)
        return result

    result: Floats = unit(query) @ unit(document).T
    return result
