"""What pre-training hears and predicts: crops, others mixed in, rooms and noise, clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechft.data.acoustics import SAMPLE_RATE, distort, set_level
from speechft.data.batching import BatchPlan, seed_of
from speechft.data.manifest import load_waveform
from speechft.encoders.base import Encoder
from speechft.finetuning.config import PretrainingConfig
from speechft.finetuning.targets import TargetFiles


class Crops:
    """Reads, crops and distorts cuts, and cuts their targets to the same stretch.

    What is drawn for a cut depends on the number of its batch among those of all processes.

    Args:
        config: Seed, longest crop, what is mixed in and whether the sound is distorted.
        targets: Clusters by cut id.
        encoder: Says how many frames so many samples are.
        others: Utterances that may be mixed in.
        plan: Numbers the batches.
    """

    def __init__(
        self,
        config: PretrainingConfig,
        targets: TargetFiles,
        encoder: Encoder,
        others: Sequence[Any],
        plan: BatchPlan,
    ) -> None:
        self.config, self.targets, self.others, self.plan = config, targets, others, plan
        self.hop = encoder.hop_size
        self.offsets: dict[str, int] = {}
        self.frame_lengths = encoder.frame_lengths

    def read(self, cut: Any, step: int) -> npt.NDArray[np.float32]:
        """Return (S,) samples of a cut as they are heard at a step."""
        rng = np.random.default_rng(seed_of(self.config.seed, self.plan.number(step), cut.id))
        waveform = load_waveform(cut)
        longest = int(self.config.max_duration * SAMPLE_RATE)
        offset = 0
        if len(waveform) > longest:
            offset = int(rng.integers((len(waveform) - longest) // self.hop + 1))
            waveform = waveform[offset * self.hop : offset * self.hop + longest]
        self.offsets[cut.id] = offset
        if rng.random() < self.config.mix:
            other = self.others[int(rng.integers(len(self.others)))]
            waveform = mix_in(waveform, load_waveform(other), rng)
        if self.config.distort:
            waveform = set_level(distort(waveform, rng), rng.uniform(-32.0, -20.0))
        return waveform

    def target(self, cut: Any, samples: int) -> Tensor:
        """Return the (T,) clusters of the stretch that was read last."""
        offset = self.offsets.pop(cut.id)
        frames = int(self.frame_lengths(torch.tensor(samples)))
        clusters = self.targets[cut.id][offset : offset + frames]
        return torch.from_numpy(clusters.astype(np.int64))


def mix_in(
    waveform: npt.NDArray[np.float32], other: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Let another speaker talk into a waveform, for at most half of it and 0 to 10 dB below it.

    Source: utterance mixing of WavLM (Chen et al. 2022, arXiv 2110.13900, algorithm 1), where
    ratios go from -5 to 5 dB.

    Args:
        waveform: (S,) samples.
        other: Samples of the other speaker.
        rng: Source of stretch, place and level.
    """
    length = min(int(rng.integers(1, len(waveform) // 2 + 1)), len(other))
    source = int(rng.integers(len(other) - length + 1))
    place = int(rng.integers(len(waveform) - length + 1))
    stretch = other[source : source + length]
    power = float(np.mean(waveform**2)) / (float(np.mean(stretch**2)) + 1e-9)
    mixed = waveform.copy()
    mixed[place : place + length] += stretch * np.sqrt(power) * 10 ** (-rng.uniform(0, 10) / 20)
    return mixed
