"""Merge the effective kernel of a weight-normalised convolution instead of its g and v."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from speechft.encoders.conversion.tensors import ArrayTensor, Buffer, Tensor, encode, numel
from speechft.errors import ConfigError
from speechft.merging.plan import Item, Plan
from speechft.merging.stream import CHUNK, Combiner, pieces

_G, _V = ".parametrizations.weight.original0", ".parametrizations.weight.original1"


@dataclass
class FusedKernel:
    r"""The effective kernel of a weight-normalised convolution, computed piece by piece.

    .. math:: w_{\cdot\cdot k} = g_k \, v_{\cdot\cdot k} / \lVert v_{\cdot\cdot k} \rVert

    Salimans and Kingma, "Weight Normalization", NeurIPS 2016, with the norm over all but the last
    dimension, as HuBERT, wav2vec 2.0 and WavLM have it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    kernel: Tensor
    scale: Buffer
    """g over the norm of v, one number per last index."""

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes as it is stored."""
        return self.kernel.nbytes

    def raw(self, start: int, stop: int) -> Buffer:
        """Return stored bytes of v."""
        return self.kernel.raw(start, stop)

    def read(self, start: int, out: Buffer) -> None:
        """Fill ``out`` with elements of the effective kernel from ``start`` on."""
        self.kernel.read(start, out)
        out *= np.resize(np.roll(self.scale, -(start % self.scale.size)), out.size)


def fuse_weight_norm(plan: Plan, combine: Combiner) -> Plan:
    """Return the plan with every merged pair of g and v replaced by the effective kernel.

    The merged kernel is stored as v and its norm as g, which is the same convolution. A pair whose
    alpha is 0 stays as it is in the base.

    Raises:
        ConfigError: The model has no weight norm, or g and v have different coefficients.
    """
    by_name = {item.canonical: item for item in plan.items}
    replaced: dict[str, Item] = {}
    pairs = [n for n in by_name if n.endswith(_G)]
    for name in pairs:
        norm, kernel = by_name[name], by_name.get(name.removesuffix(_G) + _V)
        if kernel is None or not (norm.merged and kernel.merged):
            continue
        if norm.alpha != kernel.alpha:
            raise ConfigError(
                f"{name} and its v have different alphas, which a fused kernel cannot have",
                hint="let one rule cover both, such as 'position: 0.2'",
            )
        if kernel.alpha != 0:
            replaced[norm.canonical], replaced[kernel.canonical] = _fuse(norm, kernel, combine)
    if not pairs:
        raise ConfigError(
            "the encoder has no weight-normalised convolution to fuse",
            hint="leave --weight-norm at gv",
        )
    return plan.reordered([replaced.get(item.canonical, item) for item in plan.items])


def _fuse(norm: Item, kernel: Item, combine: Combiner) -> tuple[Item, Item]:
    if numel(norm.base) != kernel.base.shape[-1]:
        raise ConfigError(
            f"{norm.canonical} of shape {list(norm.base.shape)} is not one number per last index",
            hint="leave --weight-norm at gv",
        )
    fused = replace(
        kernel,
        base=_kernel(norm.base, kernel.base),
        tuned=tuple(_kernel(g, v) for g, v in zip(norm.tuned, kernel.tuned, strict=True)),
    )
    merged = _norm(
        (combine(fused, s, b, d) for s, b, d in pieces(fused, _chunk(kernel))), norm.size
    )
    data = encode(merged.astype(np.float32), norm.dtype)
    stored = ArrayTensor(norm.name, norm.dtype, norm.base.shape, data)
    length = replace(norm, merged=False, reason="norm of the fused kernel", base=stored, tuned=())
    return length, fused


def _kernel(norm: Tensor, kernel: Tensor) -> FusedKernel:
    g = np.empty(numel(norm), np.float32)
    norm.read(0, g)
    length = _norm(_parts(kernel, CHUNK - CHUNK % g.size), g.size)
    scale = (g / np.where(length > 0, length, 1)).astype(np.float32)
    return FusedKernel(kernel.name, kernel.dtype, kernel.shape, kernel, scale)


def _parts(kernel: Tensor, chunk: int) -> Iterator[Buffer]:
    for start in range(0, numel(kernel), chunk):
        values = np.empty(min(chunk, numel(kernel) - start), np.float32)
        kernel.read(start, values)
        yield values


def _chunk(kernel: Item) -> int:
    return CHUNK - CHUNK % kernel.base.shape[-1]


def _norm(parts: Iterable[Buffer], size: int) -> Buffer:
    """Return the norm per last index; every piece is a whole number of rows of ``size``."""
    total = np.zeros(size)
    for values in parts:
        total += np.square(values.reshape(-1, size), dtype=np.float64).sum(axis=0)
    return np.sqrt(total)
