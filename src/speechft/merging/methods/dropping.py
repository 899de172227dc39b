"""Shared by the DARE methods: drop entries of task vectors at random and rescale the others."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from speechft.merging.method import Method, option
from speechft.merging.stream import pieces

if TYPE_CHECKING:
    from speechft.encoders.conversion.tensors import Buffer
    from speechft.merging.plan import Plan, TensorPlan
    from speechft.merging.stream import Combiner


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


@dataclass(frozen=True)
class Dare(Method):
    """What the DARE methods have in common; a subclass overrides `merge_dropped`."""

    density: float = option(
        0.5, "probability that an entry of a task vector is kept", above=0, high=1
    )
    rescale: Literal["density", "l1", "none"] = option(
        "density",
        "what is kept is divided by the density (paper, PEFT), scaled to the tensor's L1 norm "
        "(mergekit), or left as it is",
    )
    seed: int = option(0, "seed of the masks", low=0)
    weights: tuple[float, ...] | None = option(None, "one weight per tuned model, 1 by default")

    def bind(self, plan: Plan) -> Combiner:
        """Return a combiner with one mask generator per tensor and model."""
        masks: list[np.random.Generator] = []
        scales: list[float] = []

        def combine(
            tensor: TensorPlan, start: int, base: Buffer, deltas: Sequence[Buffer]
        ) -> Buffer:
            if start == 0:  # pieces of a tensor come in order, so that they and wholes agree
                masks[:], scales[:] = self._generators(tensor), self._rescales(tensor)
            dropped = [
                drop(delta, self.density, mask, scale)
                for delta, mask, scale in zip(deltas, masks, scales, strict=True)
            ]
            return self.merge_dropped(base, dropped, tensor.alpha)

        return combine

    def merge_dropped(self, base: Buffer, dropped: Sequence[Buffer], alpha: float) -> Buffer:
        """Merge task vectors of which entries were dropped."""
        raise NotImplementedError

    def _generators(self, tensor: TensorPlan) -> list[np.random.Generator]:
        name = zlib.crc32(tensor.canonical.encode())
        seeds: list[Any] = [[self.seed, name, index] for index in range(len(tensor.tuned))]
        return [np.random.Generator(np.random.PCG64(np.random.SeedSequence(s))) for s in seeds]

    def _rescales(self, tensor: TensorPlan) -> list[float]:
        count = len(tensor.tuned)
        if self.rescale != "l1":
            return [1.0 / self.density if self.rescale == "density" else 1.0] * count
        whole, kept = np.zeros(count), np.zeros(count)
        masks = self._generators(tensor)
        for _, _, deltas in pieces(tensor):
            for index, delta in enumerate(deltas):
                whole[index] += np.abs(delta).sum(dtype=np.float64)
                left = drop(delta, self.density, masks[index], 1.0)
                kept[index] += np.abs(left).sum(dtype=np.float64)
        return [float(w / k) if k else 1.0 for w, k in zip(whole, kept, strict=True)]
