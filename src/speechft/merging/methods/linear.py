"""Linear interpolation and task arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechft.encoders.conversion.tensors import Buffer


def linear(base: Buffer, deltas: Sequence[Buffer], alpha: float) -> Buffer:
    r"""Interpolate between the base and the mean of the tuned models.

    .. math:: \hat\theta = \theta_0 + \alpha \, \frac{1}{N} \sum_i (\theta_i - \theta_0)

    Speech-FT (Lin et al., TASLP 2026, doi 10.1109/TASLPRO.2025.3635827) with one model; the same as
    WiSE-FT (Wortsman et al., CVPR 2022). Several models: the official code averages the task
    vectors and scales the mean once. The order of operations is the official one, so that float32
    results agree to the bit.

    Args:
        base: Weights of the base, any shape.
        deltas: Task vectors (tuned minus base), each of the shape of ``base``.
        alpha: 0 gives the base, 1 the mean of the tuned models.
    """
    merged = _total(deltas)
    if len(deltas) > 1:
        merged /= len(deltas)
    merged *= alpha
    merged += base
    return merged


def task_arithmetic(
    base: Buffer, deltas: Sequence[Buffer], alpha: float, weights: Sequence[float] | None = None
) -> Buffer:
    r"""Add the sum of the task vectors, or a weighted sum.

    .. math:: \hat\theta = \theta_0 + \alpha \sum_i w_i (\theta_i - \theta_0)

    Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023. A negative alpha forgets. This
    is a sum where `linear` takes a mean.

    Args:
        base: Weights of the base, any shape.
        deltas: Task vectors.
        alpha: Scale of the sum.
        weights: One weight per model, 1 by default.
    """
    scaled = deltas if weights is None else [d * w for d, w in zip(deltas, weights, strict=True)]
    merged = _total(scaled)
    merged *= alpha
    merged += base
    return merged


def _total(deltas: Sequence[Buffer]) -> Buffer:
    if len(deltas) == 1:
        return np.array(deltas[0])
    total = deltas[0] + deltas[1]
    for delta in deltas[2:]:
        total += delta
    return total
