"""Where the weights moved: by layer and kind of module, in which directions, and how much alike."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from speechft.finetuning.layers import layer_numbers, transformer_layers
from speechft.merging.coefficients import KINDS

if TYPE_CHECKING:
    from speechft.encoders.base import Encoder

TOP = 8
"""Singular directions whose share of the energy is reported."""
_MASK = "mask"


@dataclass(frozen=True)
class Weight:
    """A weight as it acts, the kernel of a weight-normalised convolution fused."""

    layer: int
    """The hidden state that it first makes a difference to: 0 below the first layer."""
    kind: str
    """Kind of module, see `speechft.merging.coefficients.KINDS`."""
    value: Tensor


@dataclass
class Sums:
    """Sums over the weights of a layer and kind, of a base and of one or two task vectors."""

    base: float = 0.0
    moved: float = 0.0
    other: float = 0.0
    product: float = 0.0
    matrices: float = 0.0
    """Squared moves of the matrices alone, whose directions are counted."""
    top: float = 0.0
    """Their energy in the first `TOP` singular directions."""
    gaussian: float = 0.0
    """What that would be if each matrix were Gaussian noise of the same norm."""

    @property
    def move(self) -> float:
        """Root of the summed squares of the task vector over that of the base."""
        return (self.moved / self.base) ** 0.5 if self.base > 0 else float("nan")

    @property
    def cosine(self) -> float:
        """Cosine between the two task vectors; NaN where one of them is zero."""
        norms = (self.moved * self.other) ** 0.5
        return self.product / norms if norms > 0 else float("nan")

    def share(self, energy: float) -> float:
        """Return a share of the energy of the matrices; NaN where they did not move."""
        return energy / self.matrices if self.matrices > 0 else float("nan")


@dataclass
class Moves:
    """Sums by (layer, kind); None stands for all of them."""

    sums: dict[tuple[int | None, str | None], Sums] = field(
        default_factory=lambda: defaultdict(Sums)
    )

    def add(self, weight: Weight, **values: float) -> None:
        """Add to the sums of a weight's layer and kind, and to those that hold them."""
        for layer in (weight.layer, None):
            for kind in (weight.kind, None):
                sums = self.sums[layer, kind]
                for name, value in values.items():
                    setattr(sums, name, getattr(sums, name) + value)


def weights_of(encoder: Encoder) -> dict[str, Weight]:
    """Return an encoder's weights by name, on the processor.

    Left out are buffers and the embedding of masked frames, which features do not depend on; heads
    are no part of an encoder. Empty for an encoder without transformer layers.
    """
    if not transformer_layers(encoder):
        return {}
    numbers = layer_numbers(encoder)
    found = {}
    for name, owner, value in _effective(encoder):
        kind = _kind(name)
        if kind != _MASK:
            layer = max(n for key, n in numbers.items() if key.startswith(owner))
            found[name] = Weight(numbers.get(name, layer), kind, value.detach().float().cpu())
    return found


def moves(base: Mapping[str, Weight], tuned: Mapping[str, Weight]) -> Moves:
    r"""Return how far an encoder's weights moved from the base's, and in how many directions.

    The move is :math:`\sqrt{\sum_i \tau_i^2 / \sum_i \theta_{0,i}^2}` over the weights of a layer
    and kind. The energy in the top k directions is :math:`\sum_{j \le k} \sigma_j^2 / \sum_j
    \sigma_j^2` with the singular values of each matrix of the task vector (kernels as a matrix of
    output channels by the rest), matrices weighted by their energy; ``gaussian`` is that of one
    seeded Gaussian matrix of each shape, which is not 0: it is what no structure at all looks like.

    Args:
        base: See `weights_of`.
        tuned: Of the same names and shapes.
    """
    result = Moves()
    for name, weight in base.items():
        tau = tuned[name].value - weight.value
        energy = _energy(tau)
        result.add(weight, base=_energy(weight.value), moved=energy)
        matrix = tau.flatten(1) if tau.dim() > 1 else tau
        if energy > 0 and matrix.dim() == 2 and min(matrix.shape) > TOP:
            share = top_share(matrix)
            noise = _gaussian_share(*matrix.shape)
            result.add(weight, matrices=energy, top=share * energy, gaussian=noise * energy)
    return result


def agreement(
    base: Mapping[str, Weight], first: Mapping[str, Weight], second: Mapping[str, Weight]
) -> Moves:
    """Return the inner products of two task vectors: `Sums.cosine` by layer and kind.

    Near 0 for tasks that move weights independently of each other (Ilharco et al., ICLR 2023, arXiv
    2212.04089, figure 5).
    """
    result = Moves()
    for name, weight in base.items():
        one, two = first[name].value - weight.value, second[name].value - weight.value
        dot = float((one.double() * two.double()).sum())
        result.add(weight, moved=_energy(one), other=_energy(two), product=dot)
    return result


def top_share(matrix: Tensor, top: int = TOP) -> float:
    """Return the share of a matrix's energy in its first singular directions.

    Args:
        matrix: (rows, columns), not zero.
        top: How many directions.
    """
    wide = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().T
    energies = torch.linalg.eigvalsh(wide @ wide.T).clamp(min=0)
    return float(energies[-top:].sum() / energies.sum())


@cache
def _gaussian_share(rows: int, columns: int) -> float:
    return top_share(torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)))


def _energy(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())


def _effective(encoder: Encoder) -> Iterator[tuple[str, str, Tensor]]:
    """Yield name, what the names of its parameters begin with, and value of every weight."""
    for path, module in encoder.named_modules():
        start = f"{path}." if path else ""
        if parametrize.is_parametrized(module):
            for name in module.parametrizations:
                yield f"{start}{name}", f"{start}parametrizations.{name}.", getattr(module, name)
        if not isinstance(module, parametrize.ParametrizationList) and "parametriz" not in path:
            for name, parameter in module.named_parameters(recurse=False):
                yield f"{start}{name}", f"{start}{name}", parameter


def _kind(name: str) -> str:
    inside = name.removeprefix("model.")
    return next((kind for kind, pattern in KINDS.items() if re.match(pattern, inside)), "other")
