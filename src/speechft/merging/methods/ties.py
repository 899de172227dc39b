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
    trimmed: Sequence[Buffer],
    tie_sign: float = 1.0,
    election: Election = "unweighted",
    weights: Sequence[float] | None = None,
) -> Buffer:
    r"""Return the elected sign of every entry.

    .. math:: s_j = \mathrm{sgn}\Big(\sum_i \tau_{ij}\Big)

    Args:
        trimmed: Task vectors after trimming.
        election: ``unweighted`` sums the entries (reference, PEFT's "total"), ``weighted`` sums
            them times their weight (mergekit), ``frequency`` counts their signs (PEFT).
        weights: One weight per model, 1 by default; for ``weighted`` only.
        tie_sign: Sign where the sum is zero: +1 in PEFT and mergekit, the sign of the majority of
            all elected entries in the reference.
    """
    votes: Sequence[Buffer] = trimmed
    if election == "frequency":
        votes = [np.sign(delta) for delta in trimmed]
    elif election == "weighted" and weights is not None:
        votes = [d * d.dtype.type(w) for d, w in zip(trimmed, weights, strict=True)]
    total = np.sum(np.stack(votes), axis=0)
    signs: Buffer = np.sign(total)
    signs[total == 0] = tie_sign
    return signs


def disjoint_mean(
    trimmed: Sequence[Buffer],
    signs: Buffer,
    weights: Sequence[float] | None = None,
    divisor: Divisor = "count",
) -> Buffer:
    """Return the mean, entry by entry, over the models that agree with the elected sign.

    Args:
        trimmed: Task vectors after trimming.
        signs: Elected signs.
        weights: One weight per model, applied to its entries; 1 by default.
        divisor: ``count`` divides by the number of agreeing models (reference, PEFT), ``weight``
            by the sum of their weights (mergekit's ties), ``none`` does not divide (mergekit's
            dare_ties, fusion_bench).
    """
    total = np.zeros_like(trimmed[0])
    share = np.zeros_like(trimmed[0])
    for index, delta in enumerate(trimmed):
        weight = delta.dtype.type(1.0 if weights is None else weights[index])
        agrees = np.sign(delta) == signs
        total += np.where(agrees, delta * weight, 0)
        share += agrees * (weight if divisor == "weight" else 1)
    if divisor == "none":
        return total
    mean: Buffer = np.divide(total, share, out=np.zeros_like(total), where=share != 0)
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
    majority sign. PEFT and mergekit trim each tensor on its own; mergekit also weighs the votes
    (``election="weighted"``) and divides by the sum of the agreeing weights.

    Args:
        base: Weights of the base, any shape.
        trimmed: Task vectors, small entries already zero.
        alpha: Scale of the merged task vector (lambda in the paper).
        weights: One weight per model, 1 by default.
        election: What is summed in the election, see `elect_signs`.
        divisor: See `disjoint_mean`; by default ``weight`` in a weighted election, else ``count``.
        tie_sign: Sign where the sum is zero.
    """
    signs = elect_signs(trimmed, tie_sign, election, weights)
    divisor = divisor or ("weight" if election == "weighted" else "count")
    merged = disjoint_mean(trimmed, signs, weights, divisor)
    merged *= alpha
    merged += base
    return merged
