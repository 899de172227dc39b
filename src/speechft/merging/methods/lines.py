"""LiNeS: scale the task vector more with every layer."""

from __future__ import annotations


def lines_alpha(layer: int, layers: int, first: float, last: float) -> float:
    r"""Return the coefficient of one layer.

    .. math:: \lambda_\ell = \lambda_1 + (\lambda_L - \lambda_1) \frac{\ell - 1}{L - 1}

    Wang et al., "LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model
    Merging", ICLR 2025 (arXiv 2410.17146). What lies before the first layer has its
    coefficient, what lies behind the last layer has that one's.

    Args:
        layer: Index of the layer, from 0; clipped to the layers that there are.
        layers: Number of layers.
        first: Coefficient of the first layer.
        last: Coefficient of the last layer.
    """
    if layers < 2:
        return last
    position = min(max(layer, 0), layers - 1) / (layers - 1)
    return first + (last - first) * position
