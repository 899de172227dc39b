"""The batch plan of an epoch and the batches themselves.

The plan is a pure function of (cuts, limits, seed, epoch), that of lhotse's bucketing sampler,
and every random draw derives from (seed, step, cut id). A resumed run needs its step only.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.bucketing import Batches, bucketed_batches
from speechft.data.kept_cuts import Cuts
from speechft.data.waveform import count_samples, load_waveform
from speechft.errors import DataError

if TYPE_CHECKING:
    from lhotse.cut import Cut

PAD_TO = 6_400
"""Batches are padded to a multiple of this many samples: few shapes, so that CPU kernels are set
up once for each (3 to 5 times faster than ever-new lengths)."""

_KEPT_PLANS = 4


@dataclass(frozen=True)
class Batch:
    """A padded batch. Shapes: B batch, S samples, T frames, C channels of the downsampler."""

    ids: tuple[str, ...]
    lengths: Tensor
    """(B,) valid samples."""
    waveforms: Tensor | None = None
    """(B, S) samples, unless ``features`` stand in for them."""
    features: Tensor | None = None
    """(B, T, C) output of the frozen downsampler."""
    targets: Any = None
    """Whatever the task's loss takes."""
    hidden: Tensor | None = None
    """(B, T, D) last hidden state, where a frozen encoder's stands in for the samples."""
    task: str = ""
    """Which task the batch is for, where there are several."""
    counts: Tensor | None = None
    """What the means of its loss divide by, where other batches share the update; see
    `speechft.finetuning.objective.Objective.counts`."""

    def to(self, device: torch.device) -> Batch:
        """Move all tensors to a device."""
        changes: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        if isinstance(self.targets, (list, tuple)):
            changes["targets"] = [item.to(device, non_blocking=True) for item in self.targets]
        return replace(self, **changes)

    @property
    def seconds(self) -> float:
        """Seconds of audio, without padding."""
        return float(self.lengths.sum()) / SAMPLE_RATE


def seed_of(*parts: object) -> int:
    """Return a 63-bit seed that depends on every part and on nothing else."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class BatchPlan:
    """Which cuts make up each step's batch, for as many epochs as there are steps.

    Args:
        cuts: What to train on.
        seconds: Limit of a batch in seconds of audio, padding included; a longer cut makes a
            batch of its own.
        utterances: Limit of a batch in utterances.
        seed: Seed of the order.
        rank: This process among ``world_size``; each takes every world_size-th batch.
        world_size: Number of processes.
        max_duration: Longer cuts count as this long (they are cropped), in seconds.

    Raises:
        DataError: There are no cuts.
    """

    def __init__(
        self,
        cuts: Iterable[Cut],
        *,
        seconds: float,
        utterances: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        max_duration: float | None = None,
    ) -> None:
        self._cuts = Cuts.of(cuts)
        if not self._cuts:
            raise DataError("there is nothing to train on: the training split is empty")
        self._limits = (seconds, utterances)
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._max_duration = max_duration
        self._plans: dict[int, Batches] = {}
        self._starts = [0]  # of the epochs known so far, and where the next one begins

    def batch(self, step: int) -> list[Cut]:
        """Return this process's cuts of a step, counted from 0 through all epochs."""
        return [self._cuts[number] for number in self._numbers(step)]

    def _numbers(self, step: int) -> list[int]:
        position = self.number(step)
        while position >= self._starts[-1]:
            self._starts.append(self._starts[-1] + len(self._epoch(len(self._starts) - 1)))
        epoch = bisect.bisect_right(self._starts, position) - 1
        return self._epoch(epoch)[position - self._starts[epoch]]

    def cuts_of(self, steps: int) -> Cuts:
        """Return the cuts of this process's first steps, each once."""
        seen = np.zeros(len(self._cuts), np.bool_)
        for step in range(steps):
            seen[self._numbers(step)] = True
            if seen.all():
                break
        return self._cuts.take(np.flatnonzero(seen))

    def number(self, step: int) -> int:
        """Return the number of this process's batch of a step among those of all processes.

        It is the step that a single process reads the same batch at.
        """
        return step * self._world_size + self._rank

    def largest(self) -> list[Cut]:
        """Return a batch as large as the limits allow, of the longest cuts."""
        seconds, utterances = self._limits
        longest = float(self._cuts.seconds.max())
        if self._max_duration is not None:
            longest = min(longest, self._max_duration)
        count = max(1, min(utterances, int(seconds / longest)))
        return list(self._cuts.longest(count, self._max_duration))

    def epochs(self, steps: int) -> float:
        """Return how many epochs so many steps are."""
        return steps * self._world_size / len(self._epoch(0))

    @cached_property
    def _seconds(self) -> npt.NDArray[np.float64]:
        """Return how long each cut counts: what is cropped, as lhotse rounds it."""
        seconds, most = self._cuts.seconds, self._max_duration
        for number in () if most is None else np.flatnonzero(seconds > most):
            cut = self._cuts[number.item()]
            seconds[number] = cut.truncate(duration=most, preserve_id=True).duration
        return seconds

    def _epoch(self, epoch: int) -> Batches:
        if epoch not in self._plans:
            if len(self._plans) == _KEPT_PLANS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[epoch] = self._plan_epoch(epoch)
        return self._plans[epoch]

    def _plan_epoch(self, epoch: int) -> Batches:
        seconds, utterances = self._limits
        few = min(20, len(self._cuts) // (2 * utterances))
        many = min(100, len(self._cuts) // (8 * utterances))  # where each still fills 8 batches
        return Batches(
            bucketed_batches(
                self._seconds,
                max_seconds=seconds,
                max_items=utterances,
                buckets=max(1, few, many),
                seed=seed_of(self._seed, "plan", epoch) % 2**31,
            )
        )


Read = Callable[["Cut", int], npt.NDArray[np.float32]]
"""From a cut and a step to its (S,) samples."""
ReadDownsampled = Callable[["Cut", int], tuple[Tensor, int]]
"""From a cut and a step to the (T, C) output of the downsampler, or the (T, D) last hidden state,
and the number of samples."""
Target = Callable[["Cut", int], Any]
"""From a cut and the number of its samples to its target."""


def read_plain(cut: Cut, step: int) -> npt.NDArray[np.float32]:
    """Read the whole cut, the same at every step."""
    return load_waveform(cut)


def pad(rows: Sequence[Tensor], multiple: int = 1) -> Tensor:
    """Stack (n_i, ...) tensors to (B, n, ...), n the longest rounded up to ``multiple``."""
    padded = pad_sequence(list(rows), batch_first=True)
    more = -padded.shape[1] % multiple
    return F.pad(padded, (0, 0) * (padded.ndim - 2) + (0, more)) if more else padded


def read_waveforms(cuts: Sequence[Cut], multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Read whole cuts as a batch (B, S) and its lengths (B,), S rounded up as in `pad`.

    Each goes into its row as it is read: many short ones held side by side would take new memory
    for every batch.

    Raises:
        DataError: One cannot be read.
    """
    lengths = [count_samples(cut) for cut in cuts]
    batch = torch.zeros(len(cuts), -(-max(lengths) // multiple) * multiple)
    for row, cut, length in zip(batch.numpy(), cuts, lengths, strict=True):
        row[:length] = load_waveform(cut)
    return batch, torch.tensor(lengths)


class StepDataset(Dataset[Batch]):
    """A map from step to batch, so that a loader with any number of workers gives the same.

    Args:
        plan: Which cuts make up a step.
        collate: From a list of targets to what the loss takes.
        target: From a cut to its target.
        read: How to read a cut.
        downsampled: How to read a cut's downsampler output instead of its samples.
        hidden: How to read a cut's last hidden state instead of either, while it does not change.
        hidden_until: First step that does not read hidden states.
    """

    def __init__(
        self,
        plan: BatchPlan,
        *,
        target: Target,
        collate: Callable[[list[Any]], Any],
        read: Read = read_plain,
        downsampled: ReadDownsampled | None = None,
        hidden: ReadDownsampled | None = None,
        hidden_until: int = 0,
    ) -> None:
        self.plan, self.target, self.collate = plan, target, collate
        self.read, self.downsampled = read, downsampled
        self.hidden, self.hidden_until = hidden, hidden_until

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step."""
        hidden = self.hidden if step < self.hidden_until else None
        return self.collated(self.plan.batch(step), step, hidden)

    def collated(self, cuts: Sequence[Cut], step: int, hidden: ReadDownsampled | None) -> Batch:
        """Return the batch of some cuts as they are read at a step."""
        ids = tuple(cut.id for cut in cuts)
        waveforms = features = states = None
        if hidden is not None:
            pairs = [hidden(cut, step) for cut in cuts]
            states = pad([pair[0] for pair in pairs])
            lengths = [pair[1] for pair in pairs]
        elif self.downsampled is not None:
            pairs = [self.downsampled(cut, step) for cut in cuts]
            features = pad([pair[0] for pair in pairs])
            lengths = [pair[1] for pair in pairs]
        else:
            rows = [torch.from_numpy(self.read(cut, step)) for cut in cuts]
            waveforms, lengths = pad(rows, PAD_TO), [len(row) for row in rows]
        targets = [self.target(cut, n) for cut, n in zip(cuts, lengths, strict=True)]
        collated = self.collate(targets)
        return Batch(ids, torch.tensor(lengths), waveforms, features, collated, hidden=states)


class JointDataset(Dataset[Batch]):
    """Batches of several tasks in a fixed order.

    Args:
        datasets: By task.
        order: Task of every step.
    """

    def __init__(self, datasets: Mapping[str, Dataset[Batch]], order: Sequence[str]) -> None:
        self.datasets, self.order = dict(datasets), list(order)
        seen = dict.fromkeys(self.datasets, 0)
        self._places: list[int] = []
        for task in self.order:
            self._places.append(seen[task])
            seen[task] += 1

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step."""
        task = self.order[step]
        return replace(self.datasets[task][self._places[step]], task=task)


def load_steps(dataset: Dataset[Batch], first: int, last: int, workers: int = 0) -> Iterator[Batch]:
    """Yield the batches of steps ``first`` to ``last - 1``, read ahead by worker processes."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    yield from loader
