"""Features of cuts and where they are kept while work goes on: in files, or computed again."""

from __future__ import annotations

from collections.abc import Callable, Container, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from speechft.data.kept_cuts import Cuts, picked
from speechft.encoders.base import EncoderOutput, pooled
from speechft.features.cache import FrameCache, PooledCache, audio_key
from speechft.features.frame_plan import FramePlan
from speechft.features.kept import Picked, TensorRows, TensorsByName
from speechft.storage.scratch import Column, Names

if TYPE_CHECKING:
    from lhotse.cut import Cut

_FLUSH = 2000
"""Utterances after which new pooled statistics are written."""

Compute = Callable[[list["Cut"]], list[Tensor]]
"""From cuts to their (N, T, D) float16 hidden states."""


def _frames_by_name() -> TensorsByName:
    return TensorsByName(ragged=1)


@dataclass
class Features:
    """Features of a set of cuts by cut id. Shapes: N hidden states (L + 1), T frames, D dim."""

    pooled: MutableMapping[str, Tensor] = field(default_factory=TensorsByName)
    """(N, D) float32 mean over time of every hidden state."""
    frames: MutableMapping[str, Tensor] = field(default_factory=_frames_by_name)
    """(N, T, D) float16 hidden states, of those that are kept for the time of the work."""
    lengths: MutableMapping[str, Tensor] = field(default_factory=TensorsByName)
    """(1,) T of those that are not."""
    cache: FrameCache | None = None
    """Where further frames may lie."""
    compute: Compute | None = None
    """How frames are made that lie nowhere."""

    def length(self, cut: Cut) -> int:
        """Return T of a cut whose frames were asked for."""
        if cut.id in self.lengths:
            return int(self.lengths[cut.id])
        return self.frames[cut.id].shape[1]

    def mean(self, cut: Cut) -> Tensor:
        """Return the (N, D) mean over time of the hidden states."""
        return self.pooled[cut.id]

    def means(self, cuts: Sequence[Cut]) -> Picked:
        """Return the means of cuts in their order, each read when it is asked for."""
        ids = cuts.ids if isinstance(cuts, Cuts) else (cut.id for cut in cuts)
        if isinstance(self.pooled, TensorsByName):
            return self.pooled.picked(ids)
        rows = TensorRows()
        numbers = [rows.add(self.pooled[name]) for name in ids]
        return Picked(rows, numbers)

    def rows(self, cuts: Sequence[Cut]) -> list[Tensor]:
        """Return the (N, T, D) hidden states of cuts: kept, read from disk, or computed again."""
        found = {cut.id: self.frames[cut.id] for cut in cuts if cut.id in self.frames}
        missing = [cut for cut in cuts if cut.id not in found]
        if self.cache is not None:
            for cut in missing:
                stored = self.cache.get(audio_key(cut))
                if stored is not None:
                    found[cut.id] = stored
            missing = [cut for cut in missing if cut.id not in found]
        if missing:
            assert self.compute is not None
            found |= zip((cut.id for cut in missing), self.compute(missing), strict=True)
        return [found[cut.id] for cut in cuts]


@dataclass(frozen=True)
class Storage:
    """Where an encoder's features are kept between and during evaluations."""

    pooled: PooledCache | None = None
    frames: FrameCache | None = None
    room: int | None = None
    """Bytes of frames that are kept for the time of the work, in a file without a name; None for
    half of the free space there."""


class Keeper:
    """Keeps an encoder's output for the time of the work and beyond, as far as there is room.

    Args:
        features: Is told everything.
        frames: Ids of the cuts whose frames are kept.
        storage: Where.
        plan: Which of them, where there is no room for all.
    """

    def __init__(
        self, features: Features, frames: Container[str], storage: Storage, plan: FramePlan
    ) -> None:
        self._features, self._frames, self._storage = features, frames, storage
        self._plan = plan
        self._new: dict[str, Tensor] = {}

    def reuse(self, cuts: Cuts) -> Cuts:
        """Take the features that earlier evaluations kept; return the cuts that have none yet."""
        if self._storage.pooled is None:
            return cuts
        keys, key_of = Names(), Column()
        for cut in cuts:
            key_of.add(keys.add(audio_key(cut)))
        pooled, known = self._features.pooled, np.zeros(len(keys), np.bool_)
        assert isinstance(pooled, TensorsByName)
        row_of = np.zeros(len(keys), np.int64)
        for number, tensor in self._storage.pooled.read(keys):
            row_of[number], known[number] = pooled.add_row(tensor), True
        left = Column()
        for place, (cut, number) in enumerate(zip(cuts, key_of.values(), strict=True)):
            if known[number]:
                pooled.name_row(cut.id, int(row_of[number]))
            if not known[number] or (cut.id in self._frames and not self._has_frames(cut)):
                left.add(place)
        found = picked(cuts, left.values().tolist())
        assert isinstance(found, Cuts)
        return found

    def _has_frames(self, cut: Cut) -> bool:
        """Return whether the disk holds the frames of a cut, and note how many."""
        cache = self._storage.frames
        length = None if cache is None else cache.length(audio_key(cut))
        if length is not None:
            self._features.lengths[cut.id] = torch.tensor([length])
        return length is not None

    def keep(self, group: list[Cut], output: EncoderOutput) -> None:
        """Keep what an encoder made of a batch."""
        means = pooled(output).cpu()
        for number, cut in enumerate(group):
            if cut.id not in self._features.pooled:  # else what was kept stays, to the bit
                self._features.pooled[cut.id] = means[number]
                if self._storage.pooled is not None:
                    self._new[audio_key(cut)] = means[number].clone()
            if cut.id in self._frames:
                self._keep_frames(cut, frames_of(output, number))
        if len(self._new) >= _FLUSH:
            self.flush()

    def _keep_frames(self, cut: Cut, states: Tensor) -> None:
        disk = self._storage.frames
        on_disk = disk is not None and disk.put(audio_key(cut), states)
        if disk is not None:
            states = disk.as_kept(states)
        if cut.id in self._features.frames:
            return
        if not on_disk and self._plan.take(cut.id, states.nbytes):
            self._features.frames[cut.id] = states
        else:
            self._features.lengths[cut.id] = torch.tensor([states.shape[1]])

    def flush(self) -> None:
        """Write the pooled statistics that are new."""
        if self._storage.pooled is not None:
            self._storage.pooled.put(self._new)
        self._new = {}


def frames_of(output: EncoderOutput, number: int) -> Tensor:
    """Return the (N, T, D) float16 states of one utterance of a batch."""
    count = int(output.lengths[number])
    return torch.stack([layer[number, :count].half() for layer in output.layers]).cpu()
