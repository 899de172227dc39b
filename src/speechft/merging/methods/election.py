"""Shared by ``ties`` and ``dare-ties``: elect the sign of every entry, average those that agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from speechft.encoders.conversion.tensors import Buffer

Election = Literal["unweighted", "weighted", "frequency"]
Divisor = Literal["count", "weight", "none"]


ABOUT_ELECTION = (
    "what is summed for the sign: unweighted entries (the reference; PEFT's total), weighted "
    "entries (mergekit), or signs (frequency; PEFT)"
)
ABOUT_DIVISOR = (
    "what the sum of the agreeing entries is divided by: their count (the reference, PEFT; "
    "default), their weight (mergekit's ties; default of a weighted election), or none "
    "(mergekit's dare_ties)"
)


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


def merge_agreeing(
    base: Buffer,
    trimmed: Sequence[Buffer],
    alpha: float,
    *,
    weights: Sequence[float] | None = None,
    election: Election = "unweighted",
    divisor: Divisor | None = None,
    tie_sign: float = 1.0,
) -> Buffer:
    r"""Merge task vectors, of which small or random entries are already zero, where signs agree.

    .. math:: \hat\theta_j = \theta_{0j} + \alpha \;
              \mathrm{mean}\{\tau_{ij} : \mathrm{sgn}(\tau_{ij}) = s_j, \tau_{ij} \ne 0\}

    Args:
        base: Weights of the base, any shape.
        trimmed: Task vectors, some entries zero.
        alpha: Scale of the merged task vector (lambda in the TIES paper).
        weights: One weight per model, applied to its entries; 1 by default.
        election: See `ABOUT_ELECTION`.
        divisor: See `ABOUT_DIVISOR`; ``none`` is fusion_bench's too.
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
