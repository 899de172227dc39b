"""Model Stock: how far to go from the base, out of the angle between tuned models."""

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
    from speechft.merging.coefficients import Rules
    from speechft.merging.plan import Plan, TensorPlan


@dataclass(frozen=True)
class ModelStock(Method):
    r"""Interpolate between the base and the mean with a ratio that is read off the weights.

    .. math:: t = \frac{N c}{1 + (N - 1) c}, \qquad
              \hat\theta = t \, \bar\theta + (1 - t) \, \theta_0

    c is the mean cosine between task vectors, tensor by tensor (mergekit's reading).
    """

    name = "model-stock"
    title = "the ratio between base and mean comes from the angle of the task vectors"
    paper = "Jang et al., Model Stock: All we need is just a few fine-tuned models, ECCV 2024"
    models = (2, math.inf)
    takes_alpha = False
    takes_rules = False

    def alphas(self, plan: Plan, alpha: float, rules: Rules | None) -> dict[str, float]:
        """Return the ratio of every tensor."""
        return {tensor.canonical: stock_ratio(tensor) for tensor in plan.merged}

    def combine(
        self, tensor: TensorPlan, start: int, base: Buffer, deltas: Sequence[Buffer]
    ) -> Buffer:
        """Merge one piece."""
        return linear(base, deltas, tensor.alpha)


def model_stock_ratio(mean_cosine: float, models: int) -> float:
    """Return the weight of the mean of the tuned models; the base has the rest.

    Negative cosines are taken as zero: the models share no direction and the base is kept.

    Args:
        mean_cosine: Mean cosine over all pairs of task vectors of one tensor.
        models: Number of tuned models, at least 2.
    """
    cosine = min(max(mean_cosine, 0.0), 1.0)
    return models * cosine / (1.0 + (models - 1) * cosine)


def stock_ratio(tensor: TensorPlan) -> float:
    """Return the ratio of one tensor; 0 where a task vector is zero."""
    count = len(tensor.tuned)
    gram = np.zeros((count, count))
    for _, _, deltas in pieces(tensor):
        stacked = np.stack(deltas).astype(np.float64)
        gram += stacked @ stacked.T
    norms = np.sqrt(np.diag(gram))
    if not norms.all():
        return 0.0
    cosines = gram / np.outer(norms, norms)
    mean = (cosines.sum() - count) / (count * (count - 1))
    return model_stock_ratio(float(mean), count)
