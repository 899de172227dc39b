"""LiNeS: scale the task vector more with every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from speechft.errors import ConfigError
from speechft.merging.coefficients import along_layers, last_layer, layer_of
from speechft.merging.method import Method, option
from speechft.merging.methods.linear import linear

if TYPE_CHECKING:
    from speechft.encoders.conversion.tensors import Buffer
    from speechft.merging.coefficients import Rules
    from speechft.merging.plan import Plan, TensorPlan


@dataclass(frozen=True)
class Lines(Method):
    r"""Interpolate with a coefficient that grows in a straight line over the layers.

    .. math:: \lambda_\ell = \lambda_1 + (\lambda_L - \lambda_1) \frac{\ell - 1}{L - 1}

    What lies before the first layer has its coefficient, what lies behind the last layer has that
    one's, which is alpha.
    """

    name = "lines"
    title = "alpha grows with depth: layers near the input move less"
    paper = (
        "Wang et al., LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model "
        "Merging, ICLR 2025 (arXiv 2410.17146)"
    )
    takes_rules = False

    first: float = option(0.0, "coefficient of the first layer; alpha is the last layer's")

    def alphas(self, plan: Plan, alpha: float, rules: Rules | None) -> dict[str, float]:
        """Return the coefficient of every tensor by its depth."""
        names = [tensor.canonical for tensor in plan.merged]
        pre_norm = bool((plan.base.config or {}).get("do_stable_layer_norm"))
        return lines_alphas(names, self.first, alpha, pre_norm=pre_norm)

    def combine(
        self, tensor: TensorPlan, start: int, base: Buffer, deltas: Sequence[Buffer]
    ) -> Buffer:
        """Merge one piece."""
        return linear(base, deltas, tensor.alpha)


def lines_alphas(
    names: Sequence[str], first: float, last: float, *, pre_norm: bool = False
) -> dict[str, float]:
    """Return LiNeS coefficients: ``first`` at the input, ``last`` at the last layer and behind it.

    Args:
        names: Hugging Face names of the tensors that are merged.
        first: Coefficient of the first layer and of all before it.
        last: Coefficient of the last layer and of all behind it.
        pre_norm: Whether layers normalise their input (``do_stable_layer_norm``): the encoder's own
            norm is behind the last layer then, else before the first.

    Raises:
        ConfigError: There are no layers.
    """
    layers = last_layer(names) + 1
    if not layers:
        raise ConfigError("method 'lines' needs transformer layers, and the encoder has none")
    result = {}
    for name in names:
        layer = layer_of(name)
        if layer is None:
            behind = pre_norm and name.startswith("encoder.layer_norm")
            layer = layers - 1 if behind else 0
        result[name] = along_layers(layer, layers, first, last)
    return result
