"""Merge the effective kernel of a weight-normalised convolution instead of its g and v."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from speechft.encoders.conversion.tensors import ArrayTensor, Buffer, Tensor, encode, numel
from speechft.errors import ConfigError
from speechft.merging.plan import Plan, TensorPlan
from speechft.merging.stream import CHUNK, Combiner, pieces

_G, _V = ".parametrizations.weight.original0", ".parametrizations.weight.original1"
_REASON = "norm of the fused kernel"


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


@dataclass
class _Sum:
    """The tuned tensor that a delta stands for: base plus task vector."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    base: Tensor
    delta: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes as the base stores it."""
        return self.base.nbytes

    def raw(self, start: int, stop: int) -> Buffer:
        """Return stored bytes of the base."""
        return self.base.raw(start, stop)

    def read(self, start: int, out: Buffer) -> None:
        """Fill ``out`` with elements of the sum from ``start`` on."""
        self.base.read(start, out)
        move = np.empty_like(out)
        self.delta.read(start, move)
        out += move


def fuse_weight_norm(plan: Plan) -> Plan:
    """Return the plan with the effective kernel in the place of every merged v; g waits.

    `store_norms` fills in g when the method is bound.

    Raises:
        ConfigError: The model has no weight norm, or one of another kind.
    """
    by_name = {item.canonical: item for item in plan.items}
    replaced: dict[str, TensorPlan] = {}
    pairs = [n for n in by_name if n.endswith(_G)]
    for name in pairs:
        norm, kernel = by_name[name], by_name.get(name.removesuffix(_G) + _V)
        if kernel is None or not (norm.merged and kernel.merged):
            continue
        if numel(norm.base) != kernel.base.shape[-1]:
            raise ConfigError(
                f"{name} of shape {list(norm.base.shape)} is not one number per last index",
                hint="leave --weight-norm at gv",
            )
        tuned = tuple(
            _kernel(_whole(norm.base, g), _whole(kernel.base, v))
            for g, v in zip(norm.tuned, kernel.tuned, strict=True)
        )
        replaced[kernel.canonical] = replace(
            kernel, base=_kernel(norm.base, kernel.base), tuned=tuned
        )
        replaced[name] = replace(norm, merged=False, reason=_REASON, tuned=())
    if not pairs:
        raise ConfigError(
            "the encoder has no weight-normalised convolution to fuse",
            hint="leave --weight-norm at gv",
        )
    return plan.reordered([replaced.get(item.canonical, item) for item in plan.items])


def store_norms(plan: Plan, unfused: Plan, combine: Combiner) -> Plan:
    """Return the plan with g as the norm of the merged kernel, which is stored as v.

    That is the same convolution. A kernel whose alpha is 0 stays as it is in the base.

    Args:
        plan: The plan of `fuse_weight_norm`, with coefficients.
        unfused: The plan before it.
        combine: The method.
    """
    by_name = {item.canonical: item for item in plan.items}
    before = {item.canonical: item for item in unfused.items}
    replaced: dict[str, TensorPlan] = {}
    for name, norm in by_name.items():
        if norm.reason != _REASON:
            continue
        kernel = by_name[name.removesuffix(_G) + _V]
        if kernel.alpha == 0:
            replaced |= {n: before[n] for n in (name, kernel.canonical)}
            continue
        chunk = CHUNK - CHUNK % kernel.base.shape[-1]
        parts = (combine(kernel, s, b, d) for s, b, d in pieces(kernel, chunk))
        data = encode(_norm(parts, norm.size).astype(np.float32), norm.dtype)
        stored = ArrayTensor(norm.name, norm.dtype, norm.base.shape, data)
        replaced[name] = replace(norm, base=stored)
    return plan.reordered([replaced.get(item.canonical, item) for item in plan.items])


def _whole(base: Tensor, tuned: Tensor) -> Tensor:
    if not getattr(tuned, "is_delta", False):
        return tuned
    return _Sum(tuned.name, base.dtype, tuned.shape, base, tuned)


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


def _norm(parts: Iterable[Buffer], size: int) -> Buffer:
    """Return the norm per last index; every piece is a whole number of rows of ``size``."""
    total = np.zeros(size)
    for values in parts:
        total += np.square(values.reshape(-1, size), dtype=np.float64).sum(axis=0)
    return np.sqrt(total)
