"""DARE: drop and rescale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechft.encoders.conversion.tensors import Buffer
from speechft.merging.methods.linear import task_arithmetic
from speechft.merging.methods.ties import Divisor, Election, ties


def drop(delta: Buffer, density: float, generator: np.random.Generator, scale: float) -> Buffer:
    r"""Keep each entry with probability ``density`` and multiply what is kept.

    .. math:: \tilde\tau_j = m_j \tau_j \cdot \mathrm{scale}, \quad
              m_j \sim \mathrm{Bernoulli}(\mathrm{density})

    Args:
        delta: A task vector or a piece of it; pieces drawn in order from one generator give the
            same as the whole.
        density: Probability of keeping an entry (1 - p in the paper).
        generator: Source of the mask.
        scale: ``1 / density`` in the paper and PEFT (keeps the expectation); mergekit restores the
            L1 norm of the tensor instead.
    """
    kept = generator.random(delta.shape, dtype=np.float32) < density
    dropped: Buffer = np.where(kept, delta * delta.dtype.type(scale), delta.dtype.type(0))
    return dropped


def dare_linear(
    base: Buffer, dropped: Sequence[Buffer], alpha: float, weights: Sequence[float] | None = None
) -> Buffer:
    """Add the sum of dropped and rescaled task vectors.

    Yu et al., "Language Models are Super Mario", ICML 2024, with task arithmetic.

    Args:
        base: Weights of the base.
        dropped: Task vectors after `drop`.
        alpha: Scale of the sum.
        weights: One weight per model, 1 by default.
    """
    return task_arithmetic(base, dropped, alpha, weights)


def dare_ties(
    base: Buffer,
    dropped: Sequence[Buffer],
    alpha: float,
    *,
    weights: Sequence[float] | None = None,
    election: Election = "unweighted",
    divisor: Divisor | None = None,
) -> Buffer:
    """Elect signs among dropped and rescaled task vectors and average those that agree.

    Yu et al., ICML 2024, with the election of TIES. The defaults are PEFT's: a mean over the number
    of agreeing models. mergekit elects with weights and takes the plain sum
    (``election="weighted", divisor="none"``).

    Args:
        base: Weights of the base.
        dropped: Task vectors after `drop`.
        alpha: Scale of the merged task vector.
        weights: One weight per model, 1 by default.
        election: See `speechft.merging.methods.ties.ties`.
        divisor: The same.
    """
    return ties(base, dropped, alpha, weights=weights, election=election, divisor=divisor)
