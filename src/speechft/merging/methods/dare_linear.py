"""DARE with task arithmetic: drop and rescale, then the sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from speechft.merging.methods.dropping import Dare
from speechft.merging.methods.task_arithmetic import task_arithmetic

if TYPE_CHECKING:
    from speechft.encoders.conversion.tensors import Buffer


@dataclass(frozen=True)
class DareLinear(Dare):
    r"""Add the (weighted) sum of dropped and rescaled task vectors.

    .. math:: \hat\theta = \theta_0 + \alpha \sum_i w_i \tilde\tau_i

    See `speechft.merging.methods.dropping.drop` for the dropped task vectors.
    """

    name = "dare-linear"
    title = "drop entries of the task vectors at random, rescale, then the sum"
    paper = "Yu et al., Language Models are Super Mario, ICML 2024"

    def merge_dropped(self, base: Buffer, dropped: Sequence[Buffer], alpha: float) -> Buffer:
        """Add the sum of the dropped task vectors."""
        return task_arithmetic(base, dropped, alpha, self.weights)
