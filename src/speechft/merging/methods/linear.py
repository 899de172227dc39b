"""Linear interpolation between the base and the mean of the tuned models: Speech-FT's method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from speechft.merging.method import Method

if TYPE_CHECKING:
    from speechft.encoders.conversion.tensors import Buffer
    from speechft.merging.plan import TensorPlan


@dataclass(frozen=True)
class Linear(Method):
    r"""Interpolate between the base and the mean of the tuned models.

    .. math:: \hat\theta = \theta_0 + \alpha \, \frac{1}{N} \sum_i (\theta_i - \theta_0)
    """

    name = "linear"
    title = "base + alpha * mean of the task vectors (Speech-FT; WiSE-FT for one model)"
    paper = (
        "Lin et al., Speech-FT, TASLP 2026, doi 10.1109/TASLPRO.2025.3635827; with one model as "
        "Wortsman et al., WiSE-FT, CVPR 2022"
    )

    def combine(
        self, tensor: TensorPlan, start: int, base: Buffer, deltas: Sequence[Buffer]
    ) -> Buffer:
        """Merge one piece."""
        return linear(base, deltas, tensor.alpha, in_place=True)


def linear(base: Buffer, deltas: Sequence[Buffer], alpha: float, in_place: bool = False) -> Buffer:
    """Return the base plus alpha times the mean of the task vectors.

    Several models: the official code averages the task vectors and scales the mean once. The order
    of operations is the official one, so that float32 results agree to the bit.

    Args:
        base: Weights of the base, any shape.
        deltas: Task vectors (tuned minus base), each of the shape of ``base``.
        alpha: 0 gives the base, 1 the mean of the tuned models.
        in_place: Whether the result of one model may be put into ``deltas[0]``: new memory for
            every piece costs as much as the arithmetic.
    """
    merged = deltas[0] if in_place and len(deltas) == 1 else total(deltas)
    if len(deltas) > 1:
        merged /= len(deltas)
    merged *= alpha
    merged += base
    return merged


def total(deltas: Sequence[Buffer]) -> Buffer:
    """Return the sum of task vectors as a new array, added in the order given."""
    if len(deltas) == 1:
        return deltas[0].copy()
    result = deltas[0] + deltas[1]
    for delta in deltas[2:]:
        result += delta
    return result
