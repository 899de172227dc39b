"""A split's features and targets as probes take them, in batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from speechft.data.batching import seed_of
from speechft.data.kept_cuts import Cuts
from speechft.data.labels import Vocabulary
from speechft.features.keeping import Features
from speechft.features.kept import TensorRows
from speechft.tasks.base import Task

if TYPE_CHECKING:
    from lhotse.cut import Cut

_EVALUATED = 128
"""Most utterances in a batch of evaluation."""
_EVALUATED_BYTES = 1 << 29
"""Most bytes of hidden states in it."""
_HELD_BYTES = 1 << 26
"""Of a batch whose memory the next one gets: new memory for each costs as much as filling it."""


class SplitData:
    """A split's features and targets.

    Args:
        task: Whose level decides whether frames or pooled statistics are read.
        features: Of all cuts.
        cuts: Of the split; all can be used, see `speechft.tasks.left_out`.
        vocabulary: Of the training split.
        context: What scoring needs beside the cuts.
    """

    def __init__(
        self,
        task: Task,
        features: Features,
        cuts: Sequence[Cut],
        vocabulary: Vocabulary,
        *,
        context: Any = None,
    ) -> None:
        framed = task.level == "frame"
        self.cuts, self.targets = Cuts.of(cuts), TensorRows()
        self.lengths = np.ones(len(self.cuts), dtype=np.int64)
        for number, cut in enumerate(self.cuts):
            if framed:
                self.lengths[number] = features.length(cut)
            self.targets.add(task.target(cut, vocabulary, int(self.lengths[number])))
        self.context = context
        self._features = features
        self._held: Tensor | None = None
        self._means = None if framed else features.means(self.cuts)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Return the number of hidden states and their dim."""
        if self._means is not None:
            states, dim = self._means[0].shape
            return states, dim
        states, _, dim = self._features.rows(self.cuts[:1])[0].shape
        return states, dim

    def batch(
        self, chosen: Sequence[int], device: torch.device | None, starts: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return padded (N, B, T, D) float32 states, (B,) lengths and targets.

        The states of frames are good until the next batch is asked for.

        Args:
            chosen: Numbers of the cuts.
            device: Where they go.
            starts: First frame and number of frames of every cut, one after the other.
        """
        targets = [self.targets[n].to(device) for n in chosen]
        if self._means is not None:
            ones = torch.ones(len(chosen), dtype=torch.int64, device=device)
            means = self._means.stack(chosen).float().transpose(0, 1).contiguous()
            return means[:, :, None].to(device), ones, targets
        rows = self._features.rows([self.cuts[n] for n in chosen])
        if starts:
            rows = [
                row[:, first : first + count]
                for row, first, count in zip(rows, starts[::2], starts[1::2], strict=True)
            ]
        lengths = torch.tensor([row.shape[1] for row in rows])
        states, _, dim = rows[0].shape
        padded = self._room((states, len(rows), int(lengths.max()), dim), device)
        for number, row in enumerate(rows):
            padded[:, number, : row.shape[1]] = row.to(device)
            padded[:, number, row.shape[1] :] = 0
        return padded, lengths.to(device), targets

    def _room(self, shape: tuple[int, ...], device: torch.device | None) -> Tensor:
        """Return a float32 tensor of a shape, of the same memory each time unless it is large."""
        size = math.prod(shape)
        if 4 * size > _HELD_BYTES:
            return torch.empty(shape, device=device)
        held, kind = self._held, "cpu" if device is None else device.type
        if held is None or len(held) < size or held.device.type != kind:
            held = self._held = torch.empty(min(2 * size, _HELD_BYTES // 4), device=device)
        return held[:size].view(shape)


def evaluation_batches(data: SplitData, order: Sequence[int]) -> Iterator[list[int]]:
    """Yield batches of evaluation, from short to long, of bounded size."""
    states, dim = data.shape
    group: list[int] = []
    for number in order:
        size = 4 * states * dim * int(data.lengths[number]) * (len(group) + 1)
        if group and (len(group) == _EVALUATED or size > _EVALUATED_BYTES):
            yield group
            group = []
        group.append(number)
    yield group


def random_windows(
    data: SplitData, chosen: Sequence[int], limit: int, seed: int, step: int
) -> list[int]:
    """Return the first frame and number of frames of a window of every cut, one after the other.

    Args:
        data: The split.
        chosen: Numbers of the cuts.
        limit: Most frames of a window.
        seed: Of the windows' places.
        step: Of the training; every step has windows of its own.
    """
    starts: list[int] = []
    for number in chosen:
        length = int(data.lengths[number])
        count = min(limit, length)
        place = seed_of(seed, "window", step, data.cuts[number].id)
        starts += [place % (length - count + 1), count]
    return starts
