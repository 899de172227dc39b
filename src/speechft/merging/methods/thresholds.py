"""Shared by methods that trim: the magnitude at a rank, over a model of any size, exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from speechft.encoders.conversion.tensors import Buffer
from speechft.merging.stream import pieces

if TYPE_CHECKING:
    from speechft.merging.plan import Plan, TensorPlan

Deltas = Callable[[], Iterator[list[Buffer]]]
"""Gives the task vectors piece by piece, as often as it is called."""


def keep_top(delta: Buffer, threshold: float) -> Buffer:
    """Return the task vector with every entry of magnitude below ``threshold`` set to zero."""
    kept: Buffer = np.where(np.abs(delta) >= threshold, delta, delta.dtype.type(0))
    return kept


def tensor_deltas(tensor: TensorPlan) -> Deltas:
    """Return the task vectors of one tensor."""
    return lambda: (deltas for _, _, deltas in pieces(tensor))


def plan_deltas(plan: Plan) -> Deltas:
    """Return the task vectors of all tensors that are merged, one tensor after the other."""
    return lambda: itertools.chain.from_iterable(tensor_deltas(t)() for t in plan.merged)


def thresholds(deltas: Deltas, rank: int, size: int) -> list[float]:
    """Return, per model, the magnitude at ``rank`` (1 = smallest) among ``size`` entries.

    Exact, in two passes and constant memory: the bits of a positive float32 sort like the number,
    so a histogram of the upper 16 bits finds the bin and one of the lower 16 the value.
    """
    if rank < 1:
        return [0.0] * len(next(iter(deltas()), []))
    if rank > size:
        return [float("inf")] * len(next(iter(deltas()), []))
    upper = _histograms(deltas, lambda model, bits: bits >> 16)
    bins = [int(np.searchsorted(np.cumsum(counts), rank)) for counts in upper]
    below = [int(counts[:b].sum()) for counts, b in zip(upper, bins, strict=True)]
    lower = _histograms(deltas, lambda model, bits: bits[bits >> 16 == bins[model]] & 0xFFFF)
    result = []
    for counts, upper_bits, skipped in zip(lower, bins, below, strict=True):
        low = int(np.searchsorted(np.cumsum(counts), rank - skipped))
        bits = np.array([(upper_bits << 16) | low], np.uint32)
        result.append(float(bits.view(np.float32)[0]))
    return result


def _histograms(deltas: Deltas, select: Callable[[int, Buffer], Buffer]) -> list[Buffer]:
    counts: list[Buffer] = []
    for group in deltas():
        for model, delta in enumerate(group):
            if len(counts) <= model:
                counts.append(np.zeros(1 << 16, np.int64))
            bits = np.abs(np.ascontiguousarray(delta, np.float32)).view(np.uint32)
            counts[model] += np.bincount(select(model, bits), minlength=1 << 16)
    return counts
