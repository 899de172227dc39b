"""SLERP: spherical interpolation, for completeness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from speechft.merging.method import Method
from speechft.merging.methods.linear import linear
from speechft.merging.stream import pieces

if TYPE_CHECKING:
    from speechft.encoders.conversion.tensors import Buffer
    from speechft.merging.plan import Plan, TensorPlan
    from speechft.merging.stream import Combiner

NEARLY_PARALLEL = 0.9995


@dataclass(frozen=True)
class Slerp(Method):
    r"""Go along the arc between base and tuned, tensor by tensor on the unnormalised weights.

    .. math:: \omega = \arccos c, \qquad \hat\theta =
              \frac{\sin((1-\alpha)\omega)}{\sin\omega} \theta_0 +
              \frac{\sin(\alpha\omega)}{\sin\omega} \theta_1

    As mergekit does it. A cosine c beyond 0.9995 falls to linear interpolation: a fine-tuned model
    is that close to its base, so that for such pairs SLERP is `linear`.
    """

    name = "slerp"
    title = "along the arc between base and tuned; near-identical models fall to linear"
    paper = "Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985"
    models = (1, 1)

    def bind(self, plan: Plan) -> Combiner:
        """Measure the cosine of every whole tensor."""
        cosines = {tensor.canonical: base_cosine(tensor) for tensor in plan.merged}

        def combine(
            tensor: TensorPlan, start: int, base: Buffer, deltas: Sequence[Buffer]
        ) -> Buffer:
            return slerp(base, deltas[0], cosines[tensor.canonical], tensor.alpha)

        return combine


def slerp_weights(cosine: float, alpha: float) -> tuple[float, float]:
    """Return the weights of base and tuned.

    Args:
        cosine: Cosine between the two tensors, flattened; not nearly parallel.
        alpha: 0 gives the base, 1 the tuned model.
    """
    angle = math.acos(cosine)
    whole = math.sin(angle)
    return math.sin((1 - alpha) * angle) / whole, math.sin(alpha * angle) / whole


def slerp(base: Buffer, delta: Buffer, cosine: float, alpha: float) -> Buffer:
    """Return the point at ``alpha`` on the arc from the base to the tuned model.

    Args:
        base: Weights of the base.
        delta: Task vector, tuned minus base.
        cosine: Cosine between base and tuned over the whole tensor.
        alpha: Position on the arc.
    """
    if abs(cosine) > NEARLY_PARALLEL:
        return linear(base, [delta], alpha)
    first, second = slerp_weights(cosine, alpha)
    merged: Buffer = base * base.dtype.type(first + second) + delta * base.dtype.type(second)
    return merged


def base_cosine(tensor: TensorPlan) -> float:
    """Return the cosine between base and tuned over a whole tensor; 1 where one of them is zero."""
    base_base = base_tuned = tuned_tuned = 0.0
    for _, base, deltas in pieces(tensor):
        tuned = base + deltas[0]
        base_base += float(np.dot(base, base))
        base_tuned += float(np.dot(base, tuned))
        tuned_tuned += float(np.dot(tuned, tuned))
    scale = float(np.sqrt(base_base * tuned_tuned))
    return max(-1.0, min(1.0, base_tuned / scale)) if scale else 1.0
