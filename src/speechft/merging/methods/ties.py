"""TIES: trim, elect sign, merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from speechft.encoders.conversion.tensors import Buffer

Election = Literal["unweighted", "weighted", "frequency"]
Divisor = Literal["count", "weight", "none"]


def keep_top(delta: Buffer, threshold: float) -> Buffer:
    """Return the task vector with every entry of magnitude below ``threshold`` set to zero."""
    kept: Buffer = np.where(np.abs(delta) >= threshold, delta, delta.dtype.type(0))
    return kept


def elect_signs(
    votes: Sequence[Buffer], tie_sign: float = 1.0, *, frequency: bool = False
) -> Buffer:
    r"""Return the elected sign of every entry.

    .. math:: s_j = \mathrm{sgn}\Big(\sum_i \tau_{ij}\Big)

    Args:
        votes: Task vectors after trimming, times their weights where these vote.
        tie_sign: Sign where the sum is zero: +1 in PEFT and mergekit, the sign of the majority of
            all elected entries in the reference.
        frequency: Sum signs instead of entries.
    """
    total = np.sum(np.stack([np.sign(v) for v in votes] if frequency else votes), axis=0)
    signs: Buffer = np.sign(total)
    signs[total == 0] = tie_sign
    return signs


def disjoint_mean(
    entries: Sequence[Buffer], agrees: Sequence[Buffer], shares: Sequence[float] | None
) -> Buffer:
    """Return the mean, entry by entry, over the models that agree with the elected sign.

    Args:
        entries: Task vectors after trimming, times their weights.
        agrees: For every task vector, which entries agree.
        shares: What each agreeing model adds to the divisor; None for the plain sum.
    """
    total = np.zeros_like(entries[0])
    divisor = np.zeros_like(entries[0])
    for index, (entry, agree) in enumerate(zip(entries, agrees, strict=True)):
        total += np.where(agree, entry, 0)
        divisor += agree * entry.dtype.type(1.0 if shares is None else shares[index])
    if shares is None:
        return total
    mean: Buffer = np.divide(total, divisor, out=np.zeros_like(total), where=divisor != 0)
    return mean


def ties(
    base: Buffer,
    trimmed: Sequence[Buffer],
    alpha: float,
    *,
    weights: Sequence[float] | None = None,
    election: Election = "unweighted",
    divisor: Divisor | None = None,
    tie_sign: float = 1.0,
) -> Buffer:
    r"""Merge trimmed task vectors where they agree in sign.

    .. math:: \hat\theta_j = \theta_{0j} + \alpha \;
              \mathrm{mean}\{\tau_{ij} : \mathrm{sgn}(\tau_{ij}) = s_j, \tau_{ij} \ne 0\}

    Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023. Ours is
    the reference: one trimming threshold over the whole model, an unweighted election, ties to the
    majority sign. PEFT and mergekit trim each tensor on its own; mergekit also weighs the votes and
    divides by the sum of the agreeing weights.

    Args:
        base: Weights of the base, any shape.
        trimmed: Task vectors, small entries already zero.
        alpha: Scale of the merged task vector (lambda in the paper).
        weights: One weight per model, applied to its entries; 1 by default.
        election: What is summed for the sign: ``unweighted`` entries (reference, PEFT's "total"),
            ``weighted`` entries (mergekit), or signs (``frequency``, PEFT).
        divisor: ``count`` divides by the number of agreeing models (reference, PEFT), ``weight`` by
            the sum of their weights (mergekit's ties), ``none`` does not divide (mergekit's
            dare_ties, fusion_bench). Default: ``weight`` in a weighted election, else ``count``.
        tie_sign: Sign where the sum is zero.
    """
    each = [1.0] * len(trimmed) if weights is None else list(weights)
    entries = [d * d.dtype.type(w) for d, w in zip(trimmed, each, strict=True)]
    votes = entries if election == "weighted" else trimmed
    signs = elect_signs(votes, tie_sign, frequency=election == "frequency")
    divisor = divisor or ("weight" if election == "weighted" else "count")
    shares = {"count": [1.0] * len(trimmed), "weight": each, "none": None}[divisor]
    merged = disjoint_mean(entries, [np.sign(v) == signs for v in votes], shares)
    merged *= alpha
    merged += base
    return merged
