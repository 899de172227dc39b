"""TIES: trim, elect sign, merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from speechft.merging.method import Method, option
from speechft.merging.methods.election import (
    ABOUT_DIVISOR,
    ABOUT_ELECTION,
    Divisor,
    Election,
    merge_agreeing,
)
from speechft.merging.methods.thresholds import keep_top, plan_deltas, tensor_deltas, thresholds
from speechft.merging.stream import pieces

if TYPE_CHECKING:
    from speechft.encoders.conversion.tensors import Buffer
    from speechft.merging.plan import Plan, TensorPlan
    from speechft.merging.stream import Combiner


@dataclass(frozen=True)
class Ties(Method):
    """Keep the largest entries of each task vector and average those that agree in sign.

    The equation is in `speechft.merging.methods.election.merge_agreeing`. Ours is the reference:
    one trimming threshold over the whole model, an unweighted election, ties to the majority sign.
    PEFT and mergekit trim each tensor on its own; mergekit also weighs the votes and divides by the
    sum of the agreeing weights.
    """

    name = "ties"
    title = "trim, elect signs, disjoint mean of the task vectors"
    paper = "Yadav et al., TIES-Merging: Resolving Interference When Merging Models, NeurIPS 2023"

    density: float = option(
        0.2, "share of each task vector's entries that is kept", above=0, high=1
    )
    trim: Literal["global", "tensor"] = option(
        "global",
        "one threshold over the whole model (the reference) or per tensor (PEFT, mergekit)",
    )
    election: Election = option("unweighted", ABOUT_ELECTION)
    divisor: Divisor | None = option(None, ABOUT_DIVISOR)
    weights: tuple[float, ...] | None = option(None, "one weight per tuned model, 1 by default")

    def bind(self, plan: Plan) -> Combiner:
        """Measure the trimming thresholds and, for the reference's rule, the majority sign."""
        if self.trim == "tensor":
            limits = {}
            for tensor in plan.merged:
                rank = tensor.size - int(self.density * tensor.size) + 1
                limits[tensor.canonical] = thresholds(tensor_deltas(tensor), rank, tensor.size)
            return self._combiner(limits, 1.0)
        size = sum(tensor.size for tensor in plan.merged)
        shared = thresholds(plan_deltas(plan), size - int(self.density * size), size)
        balance = 0.0
        for tensor in plan.merged:
            for _, _, deltas in pieces(tensor):
                balance += float(np.sign(np.sum(_trimmed(deltas, shared), axis=0)).sum())
        limits = {tensor.canonical: shared for tensor in plan.merged}
        return self._combiner(limits, float(np.sign(balance)))

    def _combiner(self, limits: dict[str, list[float]], tie_sign: float) -> Combiner:
        def combine(
            tensor: TensorPlan, start: int, base: Buffer, deltas: Sequence[Buffer]
        ) -> Buffer:
            return merge_agreeing(
                base,
                _trimmed(deltas, limits[tensor.canonical]),
                tensor.alpha,
                weights=self.weights,
                election=self.election,
                divisor=self.divisor,
                tie_sign=tie_sign,
            )

        return combine


def _trimmed(deltas: Sequence[Buffer], limits: Sequence[float]) -> list[Buffer]:
    return [keep_top(d, limit) for d, limit in zip(deltas, limits, strict=True)]
