"""SLERP: spherical interpolation, for completeness."""

from __future__ import annotations

import math

from speechft.encoders.conversion.tensors import Buffer
from speechft.merging.methods.linear import linear

NEARLY_PARALLEL = 0.9995


def slerp_weights(cosine: float, alpha: float) -> tuple[float, float]:
    r"""Return the weights of base and tuned.

    .. math:: \omega = \arccos c, \qquad
              \Big(\frac{\sin((1-\alpha)\omega)}{\sin\omega},
                   \frac{\sin(\alpha\omega)}{\sin\omega}\Big)

    Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985; tensor by tensor on the
    unnormalised weights, as mergekit does. A cosine beyond 0.9995 falls to linear interpolation:
    a fine-tuned model is that close to its base, so that for such pairs SLERP is `linear`.

    Args:
        cosine: Cosine between the two tensors, flattened.
        alpha: 0 gives the base, 1 the tuned model.
    """
    if abs(cosine) > NEARLY_PARALLEL:
        return 1.0 - alpha, alpha
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
