"""Merge methods: each a file with its equation and paper; arrays in, arrays out."""

from __future__ import annotations

from speechft.merging.methods.dare import dare_linear, dare_ties, drop
from speechft.merging.methods.linear import linear, task_arithmetic
from speechft.merging.methods.lines import lines_alpha
from speechft.merging.methods.slerp import slerp, slerp_weights
from speechft.merging.methods.stock import model_stock_ratio
from speechft.merging.methods.ties import disjoint_mean, elect_signs, keep_top, ties

METHODS: dict[str, str] = {
    "linear": "base + alpha * mean of the task vectors (Speech-FT; WiSE-FT for one model)",
    "task-arithmetic": "base + alpha * sum of the task vectors",
    "ties": "trim, elect signs, disjoint mean of the task vectors",
    "dare-linear": "drop entries of the task vectors at random, rescale, then the sum",
    "dare-ties": "drop entries of the task vectors at random, rescale, then elect and average",
    "model-stock": "the ratio between base and mean comes from the angle of the task vectors",
    "lines": "alpha grows with depth: layers near the input move less",
    "slerp": "along the arc between base and tuned; near-identical models fall to linear",
}
"""Names of the methods with one line each."""

__all__ = [
    "METHODS",
    "dare_linear",
    "dare_ties",
    "disjoint_mean",
    "drop",
    "elect_signs",
    "keep_top",
    "linear",
    "lines_alpha",
    "model_stock_ratio",
    "slerp",
    "slerp_weights",
    "task_arithmetic",
    "ties",
]
