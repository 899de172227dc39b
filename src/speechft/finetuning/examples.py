"""Cuts of one task as batches: samples, kept downsampler outputs, or kept hidden states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechft.console import progress_bar
from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.batching import (
    PAD_TO,
    Batch,
    BatchPlan,
    StepDataset,
    pad,
    read_waveforms,
    seed_of,
)
from speechft.data.kept_cuts import Cuts
from speechft.data.manifest import load_waveform
from speechft.encoders.base import Encoder
from speechft.features.downsampler import DownsamplerCache
from speechft.features.extract import downsample_all, group_by_length
from speechft.features.kept import Timed
from speechft.finetuning.encoding import encode
from speechft.finetuning.memory import Limits

if TYPE_CHECKING:
    from lhotse.cut import Cut

CachedFeatures = Mapping[str, tuple[Tensor, int]]
"""From a cut's id to (T, C) features and the number of its samples."""

CACHE_BYTES = 4 << 30
"""What kept downsampler outputs, and kept hidden states, may take on disk."""


class Examples:
    """The cuts of one task, and how they become batches.

    Args:
        cuts: What to train on.
        encoder: Says how many frames so many samples are.
        target: From a cut and its frames to its target.
        seed: Seed of order and crops.
        max_duration: Longer cuts are cropped at random, in seconds.
        downsampled: Outputs of the frozen downsampler, if they are kept.
    """

    def __init__(
        self,
        cuts: Sequence[Cut],
        encoder: Encoder,
        target: Callable[[Cut, int], Tensor],
        *,
        seed: int,
        max_duration: float | None = None,
        downsampled: CachedFeatures | None = None,
    ) -> None:
        self.cuts, self.seed, self.downsampled = Cuts.of(cuts), seed, downsampled
        self.max_duration = max_duration
        self.longest = None if max_duration is None else int(max_duration * SAMPLE_RATE)
        self.hop = encoder.hop_size
        self.frame_lengths = encoder.frame_lengths
        self._target = target
        self._hidden: CachedFeatures = {}

    def dataset(
        self,
        limits: Limits,
        accelerator: Any,
        hidden: CachedFeatures | None = None,
        hidden_until: int = 0,
    ) -> StepDataset:
        """Return the map from step to batch for this process.

        Args:
            limits: Of a batch.
            accelerator: Says which of how many processes this is.
            hidden: Last hidden states of a frozen encoder.
            hidden_until: First batch that does not use them.
        """
        self._hidden = hidden or {}
        return StepDataset(
            self.plan(limits, accelerator),
            target=self.target,
            collate=list,
            read=self.waveform,
            downsampled=None if self.downsampled is None else self.features,
            hidden=None if hidden is None else self.hidden,
            hidden_until=hidden_until,
        )

    def plan(self, limits: Limits, accelerator: Any) -> BatchPlan:
        """Return which cuts make up each batch of this process."""
        return BatchPlan(
            self.cuts,
            seconds=limits.seconds,
            utterances=limits.utterances,
            seed=self.seed,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            max_duration=self.max_duration,
        )

    def target(self, cut: Cut, samples: int) -> Tensor:
        """Return the target of a cut of which so many samples were read."""
        return self._target(cut, int(self.frame_lengths(torch.tensor(samples))))

    def waveform(self, cut: Cut, step: int) -> npt.NDArray[np.float32]:
        """Return (S,) samples."""
        samples = load_waveform(cut)
        start, length = self.crop(cut, step, len(samples))
        return samples[start * self.hop : start * self.hop + length]

    def features(self, cut: Cut, step: int) -> tuple[Tensor, int]:
        """Return the (T, C) output of the downsampler and the number of samples."""
        assert self.downsampled is not None
        rows, samples = self.downsampled[cut.id]
        start, length = self.crop(cut, step, samples)
        frames = int(self.frame_lengths(torch.tensor(length)))
        return rows[start : start + frames], length

    def hidden(self, cut: Cut, step: int) -> tuple[Tensor, int]:
        """Return the (T, D) last hidden state and the number of samples."""
        return self._hidden[cut.id]

    def crop(self, cut: Cut, step: int, samples: int) -> tuple[int, int]:
        """Return the first frame and the number of samples that are read at a step."""
        if self.longest is None or samples <= self.longest:
            return 0, samples
        rng = np.random.default_rng(seed_of(self.seed, "crop", step, cut.id))
        return int(rng.integers((samples - self.longest) // self.hop + 1)), self.longest


def whole_batch(cuts: Sequence[Cut], downsampled: CachedFeatures | None) -> Batch:
    """Return a batch of whole cuts without targets."""
    ids = tuple(cut.id for cut in cuts)
    if downsampled is not None:
        pairs = [downsampled[name] for name in ids]
        lengths = torch.tensor([n for _, n in pairs])
        return Batch(ids, lengths, features=pad([row for row, _ in pairs]))
    waveforms, lengths = read_waveforms(cuts, PAD_TO)
    return Batch(ids, lengths, waveforms=waveforms)


def keep_downsampled(
    encoder: Encoder, cuts: Sequence[Cut], device: torch.device, cache: DownsamplerCache | None
) -> CachedFeatures | None:
    """Run the frozen downsampler once over everything, if there is one and its outputs fit."""
    names = encoder.downsampler_names()
    if (
        not names
        or encoder.window is not None
        or _bytes(cuts, encoder, _channels(encoder, names)) > CACHE_BYTES
    ):
        return None
    encoder.to(device)
    return downsample_all(encoder, cuts, cache or DownsamplerCache(), device)


def keep_hidden(
    encoder: Encoder,
    examples: Examples,
    plan: BatchPlan,
    batches: int,
    accelerator: Any,
    seconds: float,
) -> CachedFeatures | None:
    """Return the last hidden state of every cut that the first batches hold, if they fit.

    The encoder is frozen and in evaluation mode meanwhile. The cuts are grouped by length, not by
    batch, so that an interrupted training finds the same bits again.

    Args:
        encoder: Frozen.
        examples: Where the cuts' samples or downsampler outputs come from.
        plan: Of this process.
        batches: How many batches there are before the encoder learns.
        accelerator: Says where and in which precision to compute.
        seconds: Audio in a group.
    """
    if examples.longest is not None:
        return None  # a crop's hidden states are not a crop of the whole's
    cuts = plan.cuts_of(batches)
    if _bytes(cuts, encoder, encoder.dim) > CACHE_BYTES:
        return None
    encoder.to(accelerator.device).eval()
    kept = Timed()
    with torch.inference_mode(), progress_bar("frozen encoder", len(cuts)) as bar:
        for group in group_by_length(cuts, seconds):
            batch = whole_batch(group, examples.downsampled).to(accelerator.device)
            with accelerator.autocast():
                output = encode(encoder, batch)
            for name, row, frames, samples in zip(
                batch.ids,
                output.last_hidden_state.float().cpu(),
                output.lengths.tolist(),
                batch.lengths.tolist(),
                strict=True,
            ):
                kept.add(name, row[:frames], samples)
            bar.advance(len(group))
    return kept


def _channels(encoder: Encoder, names: frozenset[str]) -> int:
    """Return the channels of the downsampler's output, those of its last kernel."""
    kernels = [p.shape[0] for n, p in encoder.named_parameters() if n in names and p.dim() == 3]
    return kernels[-1] if kernels else encoder.dim


def _bytes(cuts: Sequence[Cut], encoder: Encoder, channels: int) -> float:
    seconds = float(Cuts.of(cuts).seconds.sum())
    return seconds * encoder.frame_rate * channels * 4
