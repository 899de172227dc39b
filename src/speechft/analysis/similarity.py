"""How alike two encoders' hidden states are: cosine of frames, and linear CKA."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from speechft.analysis.intervals import Estimate, Floats, Groups, mean_estimate

Array = npt.NDArray[np.floating]
BATCH = 256
"""Frames of a batch at least: the unbiased estimate needs more than four, a stable ratio many."""


def cosine_of_frames(x: Array, y: Array) -> Floats:
    """Return the cosine of each frame with its counterpart; NaN where one of them is zero.

    Args:
        x: (n, D) frames of one encoder.
        y: (n, D) the same frames of another.
    """
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    norms = np.sqrt(np.square(first).sum(1) * np.square(second).sum(1))
    dots = (first * second).sum(1)
    cosines: Floats = np.divide(dots, norms, out=np.full(len(dots), np.nan), where=norms > 0)
    return cosines


def centred_cosine(x: Array, y: Array, utterances: Groups, groups: Groups) -> Estimate:
    """Return the mean cosine after each encoder's mean frame is taken away.

    Hidden states have a few dimensions that are large in every frame; they alone make the raw
    cosine of any two frames high (Timkey and van Schijndel, EMNLP 2021, arXiv 2109.04404).

    Args:
        x: (n, D) sampled frames of one encoder.
        y: (n, D) the same frames of another.
        utterances: (n,) number of the utterance of each frame: the mean is over frames, then
            utterances.
        groups: (utterances,) number of the speaker of each utterance.
    """
    cosines = cosine_of_frames(_centred(x), _centred(y))
    return mean_estimate(mean_by_utterance(cosines, utterances, len(groups)), groups)


def mean_by_utterance(values: Floats, utterances: Groups, count: int) -> Floats:
    """Return the (count,) mean of the finite values of each utterance; NaN where there are none."""
    kept = np.isfinite(values)
    sums = np.bincount(utterances[kept], values[kept], count)
    numbers = np.bincount(utterances[kept], minlength=count)
    means: Floats = np.divide(sums, numbers, out=np.full(count, np.nan), where=numbers > 0)
    return means


def _centred(x: Array) -> Floats:
    values = np.asarray(x, np.float64)
    centred: Floats = values - values.mean(0)
    # what is left of a dimension that never changes is rounding, and no direction
    centred[:, np.ptp(values, axis=0) == 0] = 0.0
    return centred


def batches_of(utterances: Groups, seed: int, size: int = BATCH) -> list[Groups]:
    """Return the frames of each batch of CKA: whole utterances in a seeded order.

    Every batch has at least ``size`` frames where there are so many; what is left over at the end
    joins the last one.

    Args:
        utterances: (n,) number of the utterance of each frame.
        seed: Of the order.
        size: Frames of a batch at least.
    """
    order = np.random.default_rng(seed).permutation(np.unique(utterances))
    rank = np.empty(int(order.max(initial=-1)) + 1, np.int64)
    rank[order] = np.arange(len(order))
    frames = np.argsort(rank[utterances], kind="stable")
    starts = [0]
    for position in range(1, len(frames)):
        new = utterances[frames[position]] != utterances[frames[position - 1]]
        if new and position - starts[-1] >= size:
            starts.append(position)
    if len(starts) > 1 and len(frames) - starts[-1] < size:
        starts.pop()
    return [part for part in np.split(frames, starts[1:]) if len(part)]


def cka(x: Array, y: Array, batches: Sequence[Groups], groups: Groups) -> Estimate:
    r"""Return the unbiased linear CKA with its delete-one-speaker jackknife.

    .. math:: \mathrm{CKA} = \frac{\sum_b \mathrm{HSIC}_1(K_b, L_b)}
        {\sqrt{\sum_b \mathrm{HSIC}_1(K_b, K_b) \sum_b \mathrm{HSIC}_1(L_b, L_b)}}

    with :math:`K = X X^\top`, :math:`L = Y Y^\top` and :math:`\mathrm{HSIC}_1` as in `hsic`. 1 for
    equal, rotated or scaled features, about 0 for independent ones, and then slightly negative at
    times. The biased estimate of independent features is far above 0 where there are fewer frames
    than dimensions.

    Source: Kornblith et al., ICML 2019 (arXiv 1905.00414); sums over batches: Nguyen et al., ICLR
    2021 (arXiv 2010.15327).

    Args:
        x: (n, p) frames of one encoder.
        y: (n, q) the same frames of another, of any width.
        batches: Numbers of the frames of each batch, see `batches_of`.
        groups: (n,) number of the speaker of each frame.
    """
    total = np.zeros(3)
    changes: dict[int, Floats] = {}
    used = 0
    for batch in batches:
        whole, without = _batch(x[batch], y[batch], groups[batch])
        total += whole
        used += len(batch)
        for group, sums in without.items():
            changes[group] = changes.get(group, np.zeros(3)) + sums - whole
    value = _ratio(total)
    left = {group: _ratio(total + change) for group, change in changes.items()}
    if not np.isfinite(value):
        return Estimate(None)
    return Estimate(value, {g: v for g, v in left.items() if np.isfinite(v)}, used)


def hsic(k: Floats, other: Floats) -> float:
    r"""Return the unbiased estimate of HSIC; NaN for fewer than four rows.

    .. math:: \mathrm{HSIC}_1 = \frac{1}{n (n-3)} \left[\mathrm{tr}(\tilde K \tilde L) +
        \frac{1^\top \tilde K 1 \, 1^\top \tilde L 1}{(n-1)(n-2)} -
        \frac{2}{n-2} 1^\top \tilde K \tilde L 1\right]

    with the diagonals of :math:`\tilde K, \tilde L` set to zero (no centring before).

    Source: Song et al., "Feature selection via dependence maximization", JMLR 13, 2012, equation 5.

    Args:
        k: (n, n) Gram matrix, diagonal zero.
        other: (n, n) that of the other features, diagonal zero.
    """
    rows, columns = k.sum(1), other.sum(1)
    return _hsic(len(k), float((k * other).sum()), rows.sum(), columns.sum(), rows @ columns)


def gram(x: Array) -> Floats:
    """Return the (n, n) Gram matrix of (n, p) features, its diagonal zero.

    Columns are centred first: HSIC does not depend on it, and rounding does.
    """
    values = np.asarray(x, np.float64)
    values = values - values.mean(0)
    product: Floats = values @ values.T
    np.fill_diagonal(product, 0.0)
    return product


def _batch(x: Array, y: Array, groups: Groups) -> tuple[Floats, dict[int, Floats]]:
    """Return HSIC of (x, y), (x, x), (y, y) in a batch, and without each of its speakers."""
    k, other = gram(x), gram(y)
    pairs = [(k, other), (k, k), (other, other)]
    whole = np.nan_to_num(np.array([hsic(a, b) for a, b in pairs]))
    without: dict[int, Floats] = {}
    for group in np.unique(groups):
        out = np.flatnonzero(groups == group)
        kept = groups != group
        sums = {id(m): (m.sum(1) - m[:, out].sum(1))[kept] for m in (k, other)}
        values = []
        for a, b in pairs:
            inside = (a[np.ix_(out, out)] * b[np.ix_(out, out)]).sum()
            trace = (a * b).sum() - 2 * (a[out] * b[out]).sum() + inside
            first, second = sums[id(a)], sums[id(b)]
            values.append(_hsic(int(kept.sum()), trace, first.sum(), second.sum(), first @ second))
        without[int(group)] = np.nan_to_num(np.array(values))
    return whole, without


def _hsic(n: int, trace: float, first: float, second: float, cross: float) -> float:
    if n < 4:
        return float("nan")
    corrected = trace + first * second / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)
    return float(corrected / (n * (n - 3)))


def _ratio(sums: Floats) -> float:
    """Return CKA of three sums; NaN where one of the encoders does not vary."""
    xy, xx, yy = sums
    return float(xy / np.sqrt(xx * yy)) if xx > 0 and yy > 0 else float("nan")
