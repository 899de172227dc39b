"""Metrics of two-class decisions by threshold: equal error rate, minimum detection cost, MTWV."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def equal_error_rate(labels: Sequence[int] | Floats, scores: Sequence[float] | Floats) -> float:
    """Return the equal error rate as a fraction; see `equal_error_rate_and_threshold`."""
    return equal_error_rate_and_threshold(labels, scores)[0]


def equal_error_rate_and_threshold(
    labels: Sequence[int] | Floats, scores: Sequence[float] | Floats
) -> tuple[float, float]:
    """Return (rate, threshold) where misses and false alarms are equally frequent.

    The crossing of the ROC curve, linear between its corners, with 1 - x; the threshold is
    interpolated between the same corners and infinite on the first segment. Source: s3prl 0.4
    ``compute_eer``, with the same root finder.

    Args:
        labels: (n,) 1 for a target trial, 0 for another.
        scores: (n,) higher means target.

    Raises:
        ValueError: There are no target trials or no others, or a score is not finite.
    """
    from scipy.interpolate import interp1d
    from scipy.optimize import brentq

    alarms, hits, thresholds = _roc(labels, scores)
    curve = interp1d(alarms, hits)
    rate = float(brentq(lambda x: 1.0 - x - curve(x), 0.0, 1.0))
    with np.errstate(invalid="ignore"):
        threshold = float(interp1d(alarms, thresholds)(rate))
    return rate, float("inf") if np.isnan(threshold) else threshold


def min_dcf(
    labels: Sequence[int] | Floats,
    scores: Sequence[float] | Floats,
    *,
    p_target: float = 0.01,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> float:
    """Return the normalised minimum detection cost; see `min_dcf_and_threshold`."""
    found = min_dcf_and_threshold(labels, scores, p_target=p_target, c_miss=c_miss, c_fa=c_fa)
    return found[0]


def min_dcf_and_threshold(
    labels: Sequence[int] | Floats,
    scores: Sequence[float] | Floats,
    *,
    p_target: float = 0.01,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> tuple[float, float]:
    """Return (cost, threshold) of the cheapest threshold (NIST SRE; s3prl ``compute_minDCF``).

    The cost is ``c_miss p_target P_miss + c_fa (1 - p_target) P_fa``, divided by that of the
    better of always accepting and always refusing.

    Raises:
        ValueError: There are no target trials or no others, or a score is not finite.
    """
    alarms, hits, thresholds = _roc(labels, scores)
    costs = c_miss * (1.0 - hits) * p_target + c_fa * alarms * (1.0 - p_target)
    best = int(np.argmin(costs))
    default = min(c_miss * p_target, c_fa * (1.0 - p_target))
    return float(costs[best] / default), float(thresholds[best])


def mtwv(
    queries: Sequence[str],
    labels: Sequence[int] | Floats,
    scores: Sequence[float] | Floats,
    *,
    p_target: float = 0.0008,
    c_miss: float = 100.0,
    c_fa: float = 1.0,
) -> float:
    """Return the maximum term-weighted value of query-by-example detection.

    ``max over thresholds of 1 - mean over queries (P_miss + beta P_fa)`` with
    ``beta = c_fa (1 - p_target) / (c_miss p_target)``, over queries that have both a matching and
    another document. Never below 0, the value of answering nothing. Source: NIST STD 2006 and
    QUESST 2014 (Anguera et al. 2014), whose constants are the defaults.

    Args:
        queries: (n,) query of each query-document pair.
        labels: (n,) 1 where the document holds the query.
        scores: (n,) higher means that it does.
        p_target: Assumed share of matching documents.
        c_miss: Cost of a miss.
        c_fa: Cost of a false alarm.

    Raises:
        ValueError: No query has both kinds of documents, or a score is not finite.
    """
    return mtwv_and_threshold(queries, labels, scores, p_target=p_target, c_miss=c_miss, c_fa=c_fa)[
        0
    ]


def mtwv_and_threshold(
    queries: Sequence[str],
    labels: Sequence[int] | Floats,
    scores: Sequence[float] | Floats,
    *,
    p_target: float = 0.0008,
    c_miss: float = 100.0,
    c_fa: float = 1.0,
) -> tuple[float, float]:
    """Return (`mtwv`, the lowest score that counts as a detection there; inf for none)."""
    is_target, values = _checked(labels, scores)
    names, numbers = np.unique(np.asarray(queries), return_inverse=True)
    targets = np.bincount(numbers, is_target, len(names))
    others = np.bincount(numbers, ~is_target, len(names))
    counted = (targets > 0) & (others > 0)
    if not counted.any():
        raise ValueError("MTWV is not defined: no query has both matching and other documents")
    beta = c_fa * (1.0 - p_target) / (c_miss * p_target)
    kept = counted[numbers]
    order = np.argsort(-values[kept], kind="stable")
    sorted_values, hit = values[kept][order], is_target[kept][order]
    query = numbers[kept][order]
    gains = np.where(hit, 1.0 / targets[query], -beta / others[query]) / counted.sum()
    total = np.cumsum(gains)
    ends = np.append(sorted_values[1:] != sorted_values[:-1], True)
    best = int(np.argmax(total[ends]))
    if total[ends][best] <= 0.0:
        return 0.0, float("inf")
    return float(total[ends][best]), float(sorted_values[ends][best])


def _checked(
    labels: Sequence[int] | Floats, scores: Sequence[float] | Floats
) -> tuple[npt.NDArray[np.bool_], Floats]:
    truth, values = np.asarray(labels) == 1, np.asarray(scores, dtype=np.float64)
    if truth.shape != values.shape:
        raise ValueError(f"{len(truth)} labels but {len(values)} scores")
    if not np.isfinite(values).all():
        raise ValueError("a score is NaN or infinite")
    return truth, values


def _roc(
    labels: Sequence[int] | Floats, scores: Sequence[float] | Floats
) -> tuple[Floats, Floats, Floats]:
    """Return false alarm rates, hit rates and thresholds at the corners of the ROC curve."""
    truth, values = _checked(labels, scores)
    targets = int(truth.sum())
    if targets == 0 or targets == len(truth):
        raise ValueError(
            f"there are {targets} target trials and {len(truth) - targets} others: "
            "error rates need at least one of each"
        )
    order = np.argsort(-values, kind="stable")
    values, truth = values[order], truth[order]
    ends = np.append(values[1:] != values[:-1], True)
    hits = np.cumsum(truth)[ends].astype(np.float64)
    alarms = np.cumsum(~truth)[ends].astype(np.float64)
    if len(hits) > 2:  # only corners, so that thresholds are interpolated between them
        corner = np.r_[True, (np.diff(alarms, 2) != 0) | (np.diff(hits, 2) != 0), True]
    else:
        corner = np.ones(len(hits), dtype=bool)
    return (
        np.r_[0.0, alarms[corner] / alarms[-1]],
        np.r_[0.0, hits[corner] / hits[-1]],
        np.r_[np.inf, values[ends][corner]],
    )
