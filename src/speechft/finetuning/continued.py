"""Continued self-supervised pre-training as a task of the engine: clusters instead of labels."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from speechft.data.batching import Batch, StepDataset, seed_of
from speechft.data.kept_cuts import Cuts
from speechft.data.manifest import Corpus
from speechft.errors import ConfigError
from speechft.features.downsampler import DownsamplerCache
from speechft.features.extract import group_by_length
from speechft.finetuning.clusters import make_targets
from speechft.finetuning.config import BY_DEV
from speechft.finetuning.distributed import Group
from speechft.finetuning.examples import Examples, whole_batch
from speechft.finetuning.masked_prediction import HubertObjective, pad_clusters
from speechft.finetuning.memory import Limits
from speechft.finetuning.splits import SplitReader
from speechft.finetuning.training_setup import Corpora, TrainingSetup, write_head

if TYPE_CHECKING:
    from lhotse.cut import Cut


class Continued(TrainingSetup):
    """Masked prediction of clusters (HuBERT, arXiv 2106.07447) on speech without labels.

    The clusters are fitted on train and dev together; dev counts under a fixed mask.
    """

    name = "masked prediction of clusters"
    metric = "loss"

    def prepare(
        self,
        corpus: Corpora,
        folder: Path,
        cache: DownsamplerCache | None,
        splits: tuple[str, str] | None,
    ) -> None:
        """Cluster the frames and build the head."""
        if not isinstance(corpus, Corpus):
            raise ConfigError("continued pre-training takes one corpus")
        config, need_dev = self.config, self.config.select in BY_DEV
        reader = SplitReader(corpus, self.encoder, splits, need_dev, config.max_left_out)
        cuts, self.dev_cuts, left_out = reader.read_unlabelled()
        self.note_left_out(folder, {self.name: left_out})
        heard, group = Cuts.of(itertools.chain(cuts, self.dev_cuts)), Group.of(self.accelerator)
        self.clusters = make_targets(config.targets, heard, folder / ".targets", self.seed, group)
        torch.manual_seed(self.seed)
        self.objective = HubertObjective(self.encoder, config.targets.clusters, config.masking)
        self.examples = _Crops(
            cuts, self.encoder, self._target, seed=self.seed, max_duration=config.max_duration
        )

    def largest(self, limits: Limits) -> Batch:
        """Return the largest batch under some limits."""
        dataset, _ = self.dataset(limits)
        return dataset.collated(dataset.plan.largest(), 0, None)

    def dataset(self, limits: Limits) -> tuple[StepDataset, int]:
        """Return the map from step to batch, and the batches of an update."""
        dataset = StepDataset(
            self.examples.plan(limits, self.accelerator),
            target=self.examples.target,
            collate=pad_clusters,
            read=self.examples.waveform,
        )
        return dataset, limits.accumulation

    def has_dev(self) -> bool:
        """Return whether there is anything to select on."""
        return bool(self.dev_cuts)

    def evaluate(self) -> dict[str, float]:
        """Return the loss on dev under a fixed mask; ``score`` is its negative."""
        self.objective.eval()
        total, device = 0.0, self.accelerator.device
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed_of(self.seed, "dev masks"))
            for group in group_by_length(self.dev_cuts, self.config.batch_seconds):
                batch = whole_batch(group, None)
                rows = [torch.from_numpy(self.clusters[n].astype(np.int64)) for n in batch.ids]
                batch = Batch(batch.ids, batch.lengths, batch.waveforms, targets=pad_clusters(rows))
                with self.accelerator.autocast():
                    total += float(self.objective(batch.to(device))) * len(group)
        loss = total / len(self.dev_cuts)
        return {"score": -loss, "loss": loss}

    def unfreeze(self) -> None:
        """Take the head as it is: it has no blank to hide behind."""

    def write(self, folder: Path) -> None:
        """Write the encoder and the head."""
        super().write(folder)
        write_head(self.objective.head, folder / "head.safetensors")

    def _target(self, cut: Cut, frames: int) -> Tensor:
        start = self.examples.starts.pop(cut.id)
        return torch.from_numpy(self.clusters[cut.id][start : start + frames].astype(np.int64))


class _Crops(Examples):
    """Remembers where a cut was cropped until its target is asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.starts: dict[str, int] = {}

    def crop(self, cut: Cut, step: int, samples: int) -> tuple[int, int]:
        """Return the first frame and the number of samples that are read at a step."""
        start, length = super().crop(cut, step, samples)
        self.starts[cut.id] = start
        return start, length
