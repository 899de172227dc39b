"""Bind a method to a plan: what it must know of whole tensors is measured in passes beforehand."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from speechft.encoders.conversion.tensors import Buffer
from speechft.merging import methods
from speechft.merging.coefficients import lines_alphas
from speechft.merging.options import Options
from speechft.merging.plan import Item, Plan
from speechft.merging.stream import Combiner, combine_linear, pieces

Deltas = Callable[[], Iterator[list[Buffer]]]


def bind(method: str, plan: Plan, options: Options, alpha: float) -> tuple[Plan, Combiner]:
    """Return the plan with the method's coefficients, and the method ready to run on pieces.

    Args:
        method: Name of the method.
        plan: The plan, with coefficients from alpha and rules.
        options: Checked options.
        alpha: The coefficient for all; the last layer's for ``lines``.
    """
    names = [item.canonical for item in plan.merged]
    if method == "lines":
        first = 0.0 if options.first is None else options.first
        pre_norm = bool((plan.base.config or {}).get("do_stable_layer_norm"))
        chosen = lines_alphas(names, first, alpha, pre_norm=pre_norm)
        return plan.with_alphas(chosen), combine_linear
    if method == "model-stock":
        ratios = {item.canonical: stock_ratio(item) for item in plan.merged}
        return plan.with_alphas(ratios), combine_linear
    if method == "slerp":
        return plan, Slerp({item.canonical: base_cosine(item) for item in plan.merged})
    if method == "task-arithmetic":
        return plan, TaskArithmetic(options.weights)
    if method == "ties":
        return plan, bind_ties(plan, options)
    if method in ("dare-linear", "dare-ties"):
        return plan, Dare(method, options)
    assert method == "linear", f"method {method} is not bound"
    return plan, combine_linear


@dataclass
class TaskArithmetic:
    """Task arithmetic with weights."""

    weights: tuple[float, ...] | None

    def __call__(self, item: Item, start: int, base: Buffer, deltas: Sequence[Buffer]) -> Buffer:
        """Merge one piece."""
        return methods.task_arithmetic(base, deltas, item.alpha, self.weights)


@dataclass
class Slerp:
    """SLERP with the cosine of every whole tensor."""

    cosines: dict[str, float]

    def __call__(self, item: Item, start: int, base: Buffer, deltas: Sequence[Buffer]) -> Buffer:
        """Merge one piece."""
        return methods.slerp(base, deltas[0], self.cosines[item.canonical], item.alpha)


@dataclass
class Ties:
    """TIES with the trimming thresholds of every tensor and model."""

    thresholds: dict[str, list[float]]
    options: Options
    tie_sign: float

    def trim(self, item: Item, deltas: Sequence[Buffer]) -> list[Buffer]:
        """Return the task vectors with small entries set to zero."""
        limits = self.thresholds[item.canonical]
        return [methods.keep_top(d, t) for d, t in zip(deltas, limits, strict=True)]

    def __call__(self, item: Item, start: int, base: Buffer, deltas: Sequence[Buffer]) -> Buffer:
        """Merge one piece."""
        return methods.ties(
            base,
            self.trim(item, deltas),
            item.alpha,
            weights=self.options.weights,
            election=self.options.election or "unweighted",
            divisor=self.options.divisor,
            tie_sign=self.tie_sign,
        )


class Dare:
    """DARE with one mask generator per tensor and model, so that pieces and wholes agree."""

    def __init__(self, method: str, options: Options) -> None:
        self._ties = method == "dare-ties"
        self._options = options
        self._density = 0.5 if options.density is None else options.density
        self._masks: list[np.random.Generator] = []
        self._scales: list[float] = []

    def __call__(self, item: Item, start: int, base: Buffer, deltas: Sequence[Buffer]) -> Buffer:
        """Merge one piece; pieces of one tensor come in order."""
        if start == 0:
            self._masks = self._generators(item)
            self._scales = self._rescales(item)
        dropped = [
            methods.drop(delta, self._density, mask, scale)
            for delta, mask, scale in zip(deltas, self._masks, self._scales, strict=True)
        ]
        options = self._options
        if not self._ties:
            return methods.dare_linear(base, dropped, item.alpha, options.weights)
        return methods.dare_ties(
            base,
            dropped,
            item.alpha,
            weights=options.weights,
            election=options.election or "unweighted",
            divisor=options.divisor,
        )

    def _generators(self, item: Item) -> list[np.random.Generator]:
        name = zlib.crc32(item.canonical.encode())
        seed = self._options.seed or 0
        seeds = [np.random.SeedSequence([seed, name, index]) for index in range(len(item.tuned))]
        return [np.random.Generator(np.random.PCG64(s)) for s in seeds]

    def _rescales(self, item: Item) -> list[float]:
        rescale = self._options.rescale or "density"
        if rescale != "l1":
            return [1.0 / self._density if rescale == "density" else 1.0] * len(item.tuned)
        whole, kept = np.zeros(len(item.tuned)), np.zeros(len(item.tuned))
        masks = self._generators(item)
        for _, _, deltas in pieces(item):
            for index, delta in enumerate(deltas):
                whole[index] += np.abs(delta).sum(dtype=np.float64)
                left = methods.drop(delta, self._density, masks[index], 1.0)
                kept[index] += np.abs(left).sum(dtype=np.float64)
        return [float(w / k) if k else 1.0 for w, k in zip(whole, kept, strict=True)]


def bind_ties(plan: Plan, options: Options) -> Ties:
    """Measure the trimming thresholds and, for the reference's rule, the majority sign."""
    density = 0.2 if options.density is None else options.density
    if options.trim == "tensor":
        limits = {}
        for item in plan.merged:
            kept = int(density * item.size)
            limits[item.canonical] = _thresholds(
                _item_deltas(item), item.size - kept + 1, item.size
            )
        return Ties(limits, options, 1.0)
    size = sum(item.size for item in plan.merged)
    rank = size - int(density * size)
    shared = _thresholds(_plan_deltas(plan), rank, size)
    ties = Ties({item.canonical: shared for item in plan.merged}, options, 1.0)
    balance = 0.0
    for item in plan.merged:
        for _, _, deltas in pieces(item):
            balance += float(np.sign(np.sum(ties.trim(item, deltas), axis=0)).sum())
    ties.tie_sign = float(np.sign(balance))
    return ties


def _item_deltas(item: Item) -> Deltas:
    return lambda: (deltas for _, _, deltas in pieces(item))


def _plan_deltas(plan: Plan) -> Deltas:
    return lambda: itertools.chain.from_iterable(_item_deltas(item)() for item in plan.merged)


def _thresholds(deltas: Deltas, rank: int, size: int) -> list[float]:
    """Return, per model, the magnitude at ``rank`` (1 = smallest) among ``size`` entries.

    Exact, in two passes and constant memory: the bits of a positive float32 sort like the number,
    so a histogram of the upper 16 bits finds the bin and one of the lower 16 the value.
    """
    if rank < 1:
        return [0.0] * len(next(iter(deltas())))
    if rank > size:
        return [float("inf")] * len(next(iter(deltas())))
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


def base_cosine(item: Item) -> float:
    """Return the cosine between base and tuned over a whole tensor; 1 where one of them is zero."""
    base_base = base_tuned = tuned_tuned = 0.0
    for _, base, deltas in pieces(item):
        tuned = base + deltas[0]
        base_base += float(np.dot(base, base))
        base_tuned += float(np.dot(base, tuned))
        tuned_tuned += float(np.dot(tuned, tuned))
    scale = float(np.sqrt(base_base * tuned_tuned))
    return max(-1.0, min(1.0, base_tuned / scale)) if scale else 1.0


def stock_ratio(item: Item) -> float:
    """Return Model Stock's ratio of one tensor; 0 where a task vector is zero."""
    count = len(item.tuned)
    gram = np.zeros((count, count))
    for _, _, deltas in pieces(item):
        stacked = np.stack(deltas).astype(np.float64)
        gram += stacked @ stacked.T
    norms = np.sqrt(np.diag(gram))
    if not norms.all():
        return 0.0
    cosines = gram / np.outer(norms, norms)
    mean = (cosines.sum() - count) / (count * (count - 1))
    return methods.model_stock_ratio(float(mean), count)
