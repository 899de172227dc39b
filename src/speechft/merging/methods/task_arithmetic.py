"""Task arithmetic: the weighted sum of the task vectors, where `linear` takes their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from speechft.merging.method import Method, option
from speechft.merging.methods.linear import total

if TYPE_CHECKING:
    from speechft.encoders.conversion.tensors import Buffer
    from speechft.merging.plan import TensorPlan


@dataclass(frozen=True)
class TaskArithmetic(Method):
    r"""Add the sum of the task vectors, or a weighted sum; a negative alpha forgets.

    .. math:: \hat\theta = \theta_0 + \alpha \sum_i w_i (\theta_i - \theta_0)
    """

    name = "task-arithmetic"
    title = "base + alpha * sum of the task vectors"
    paper = "Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023"

    weights: tuple[float, ...] | None = option(None, "one weight per tuned model, 1 by default")

    def combine(
        self, tensor: TensorPlan, start: int, base: Buffer, deltas: Sequence[Buffer]
    ) -> Buffer:
        """Merge one piece."""
        return task_arithmetic(base, deltas, tensor.alpha, self.weights)


def task_arithmetic(
    base: Buffer, deltas: Sequence[Buffer], alpha: float, weights: Sequence[float] | None = None
) -> Buffer:
    """Return the base plus alpha times the (weighted) sum of the task vectors.

    Args:
        base: Weights of the base, any shape.
        deltas: Task vectors.
        alpha: Scale of the sum.
        weights: One weight per model, 1 by default.
    """
    scaled = deltas if weights is None else [d * w for d, w in zip(deltas, weights, strict=True)]
    merged = total(scaled)
    merged *= alpha
    merged += base
    return merged
