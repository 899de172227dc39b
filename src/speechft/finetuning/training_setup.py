"""What a fine-tuning trains on what: heads of tasks on an encoder, batches, dev figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import Dataset

from speechft.data.augment import SpecAugment
from speechft.data.batching import Batch, JointDataset
from speechft.data.kept_cuts import Cuts
from speechft.data.labels import Vocabulary
from speechft.data.manifest import Corpus
from speechft.encoders.base import Encoder
from speechft.encoders.load import digest_of
from speechft.errors import ConfigError
from speechft.features.downsampler import DownsamplerCache
from speechft.finetuning.baselines import Distillation, L2sp, Regularizer
from speechft.finetuning.config import BY_DEV, FinetuningConfig
from speechft.finetuning.distributed import make_accelerator
from speechft.finetuning.examples import CachedFeatures, Examples, keep_downsampled, keep_hidden
from speechft.finetuning.loop import Hooks
from speechft.finetuning.memory import Limits
from speechft.finetuning.objective import Objective, TaskObjective, WeightedTask
from speechft.finetuning.phases import head_only_updates
from speechft.finetuning.selection import DevEvaluator, warn_if_all_blank
from speechft.finetuning.splits import SplitReader, TuningSplits
from speechft.finetuning.task_schedule import task_schedule
from speechft.storage.files import atomic_write, write_json
from speechft.tasks import find_task
from speechft.tasks.base import Split, Task, file_name
from speechft.tasks.left_out import LeftOut
from speechft.tasks.recurrent import RecurrentHead
from speechft.tasks.saved import SavedHead, write_record
from speechft.tasks.text import WAV2VEC2_SYMBOLS

if TYPE_CHECKING:
    from lhotse.cut import Cut

Corpora = Corpus | Mapping[str, Corpus]
"""One corpus for all tasks, or one for each by the task's key."""


class TrainingSetup(ABC):
    """What is trained on what; supervised and self-supervised fine-tuning differ in it.

    Args:
        encoder: The encoder in training.
        config: Tasks, strategy, limits.
        corpus: One for all tasks, or one for each.
        folder: Where checkpoints go.
        seed: Seed of heads, order and crops.
        cache: Downsampler outputs to share with other stages.
        splits: Names of train and dev split, instead of those that the corpus names.
    """

    objective: Objective
    name: str
    """What it is trained on, in words."""
    metric: str
    """Which of the dev figures stands for the training."""
    left_out: dict[str, dict[str, int]]
    """By task, how many items are missing from it by reason."""

    def __init__(
        self,
        encoder: Encoder,
        config: FinetuningConfig,
        corpus: Corpora,
        folder: Path,
        seed: int,
        cache: DownsamplerCache | None,
        splits: tuple[str, str] | None,
    ) -> None:
        self.encoder, self.config, self.seed = encoder, config, seed
        self.accelerator = make_accelerator(config.precision)
        self.prepare(corpus, folder, cache, splits)

    @abstractmethod
    def prepare(
        self,
        corpus: Corpora,
        folder: Path,
        cache: DownsamplerCache | None,
        splits: tuple[str, str] | None,
    ) -> None:
        """Read the labels and build the objective."""

    @abstractmethod
    def largest(self, limits: Limits) -> Batch:
        """Return the largest batch under some limits."""

    @abstractmethod
    def dataset(self, limits: Limits) -> tuple[Dataset[Batch], int]:
        """Return the map from step to batch, and the batches of an update."""

    @abstractmethod
    def has_dev(self) -> bool:
        """Return whether there is anything to select on."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Return figures on dev; the higher ``score``, the better."""

    @abstractmethod
    def unfreeze(self) -> None:
        """Look at the head when the encoder is about to learn."""

    def hooks(self) -> Hooks:
        """Return what the loop calls between updates."""
        config = self.config
        return Hooks(
            self.evaluate if self.has_dev() else None,
            config.evaluate_every,
            select_from=0 if config.select == "official" else head_only_updates(config.phases()),
            keep_best=config.select in BY_DEV and config.strategy != "early-checkpoint",
            unfreeze=self.unfreeze,
        )

    def note_left_out(self, folder: Path, found: Mapping[str, LeftOut]) -> None:
        """Say what the tasks cannot use, count it, and name it in a file beside the weights."""
        self.left_out = {name: left_out.counts() for name, left_out in found.items()}
        for name, left_out in found.items():
            left_out.report()
            if self.accelerator.is_main_process:
                mark = f"-{file_name(name)}" if len(found) > 1 else ""
                left_out.write(folder / f"left_out{mark}.jsonl")

    def take(self, plain: Objective, state: dict[str, Tensor]) -> None:
        """Go on with an objective that is not sharded and a state gathered from one that was."""
        plain.load_state_dict(state)
        self.objective, self.encoder = plain, plain.encoder

    def write(self, folder: Path) -> None:
        """Write the encoder."""
        self.encoder.cpu().save(folder / "encoder")


class SupervisedSetup(TrainingSetup):
    """The heads of one or several tasks on labelled speech."""

    objective: TaskObjective

    def prepare(
        self,
        corpus: Corpora,
        folder: Path,
        cache: DownsamplerCache | None,
        splits: tuple[str, str] | None,
    ) -> None:
        """Read the labels and build the heads."""
        config, encoder = self.config, self.encoder
        weights = config.task_weights()
        tasks = {name: find_task(name).at(encoder.timing) for name in weights}
        self.name = " and ".join(weights)
        self.metric = "score" if len(weights) > 1 else next(iter(tasks.values())).metric
        read: dict[str, TuningSplits] = {}
        for name, task in tasks.items():
            _check_task(task, config)
            source = corpus if isinstance(corpus, Corpus) else corpus[name]
            reader = SplitReader(
                source, encoder, splits, config.select in BY_DEV, config.max_left_out
            )
            read[name] = reader.read(task, _vocabulary(config))
        self.note_left_out(folder, {name: found.left_out for name, found in read.items()})
        cuts = {name: found.train for name, found in read.items()}
        dev_cuts = {name: found.dev for name, found in read.items()}
        vocabularies = {name: found.vocabulary for name, found in read.items()}
        torch.manual_seed(self.seed)
        heads = {
            n: tuning_head(task, encoder.dim, vocabularies[n], config) for n, task in tasks.items()
        }
        share = len(weights) / sum(weights.values()) if config.mixing == "weighted" else 0.0
        parts = [
            WeightedTask(task, vocabularies[n], weights[n] * share if share else 1.0)
            for n, task in tasks.items()
        ]
        augment = SpecAugment(config.specaugment) if config.specaugment else None
        self.objective = TaskObjective(encoder, parts, heads, augment, _tie(encoder, config))
        kept = {n: self._kept(Cuts.different((cuts[n], dev_cuts[n])), cache) for n in tasks}
        self.examples = {
            name: Examples(
                cuts[name],
                encoder,
                partial(_target, task, vocabularies[name]),
                seed=self.seed,
                max_duration=config.max_duration if task.level == "utterance" else None,
                downsampled=kept[name],
            )
            for name, task in tasks.items()
        }
        seconds = config.batch_seconds
        contexts = {name: found.context for name, found in read.items()}
        self.dev = DevEvaluator(self.objective, dev_cuts, kept, self.accelerator, seconds, contexts)
        self.trained = DevEvaluator(self.objective, cuts, kept, self.accelerator, seconds)

    def _kept(self, cuts: Sequence[Cut], cache: DownsamplerCache | None) -> CachedFeatures | None:
        """Return the outputs of the downsampler where it is frozen throughout."""
        if self.config.strategy == "plain-cnn":
            return None
        return keep_downsampled(self.encoder, cuts, self.accelerator.device, cache)

    def largest(self, limits: Limits) -> Batch:
        """Return the largest batch under some limits."""
        batches = []
        for name, examples in self.examples.items():
            dataset = examples.dataset(limits, self.accelerator)
            batch = dataset.collated(dataset.plan.largest(), 0, None)
            batches.append(_for_task(batch, name))
        return max(batches, key=lambda batch: batch.seconds)

    def dataset(self, limits: Limits) -> tuple[JointDataset, int]:
        """Return the map from step to batch, and the batches of an update."""
        config = self.config
        order, accumulation = task_schedule(
            config.task_weights(), config.mixing, config.steps, limits.accumulation, self.seed
        )
        boundary = head_only_updates(config.phases()) * accumulation
        datasets = {}
        for name, examples in self.examples.items():
            batches = order[:boundary].count(name)
            hidden = None
            if batches and config.head_only_mode == "eval":
                plan = examples.plan(limits, self.accelerator)
                hidden = keep_hidden(
                    self.encoder, examples, plan, batches, self.accelerator, limits.seconds
                )
            datasets[name] = examples.dataset(limits, self.accelerator, hidden, batches)
        return JointDataset(datasets, order), accumulation

    def evaluate(self) -> dict[str, float]:
        """Return the metric of each task on dev; ``score`` is their mean."""
        return self.dev.evaluate()

    def has_dev(self) -> bool:
        """Return whether there is anything to select on."""
        return all(self.dev.cuts.values())

    def unfreeze(self) -> None:
        """Warn where CTC is still all blank."""
        warn_if_all_blank(self.trained)

    def write(self, folder: Path) -> None:
        """Write the encoder; head, vocabulary and description (`SavedHead`) of each task."""
        super().write(folder)
        for part in self.objective.parts.values():
            place = part.task.folder
            mark = "" if len(self.objective.parts) == 1 else f"-{place}"
            weights = f"head{mark}.safetensors"
            write_head(self.objective.head[place], folder / weights)
            write_json(folder / f"vocabulary{mark}.json", list(part.vocabulary.symbols))
            record = self._record(part, folder / "encoder", weights)
            write_record(folder / f"pipeline{mark}.json", record)

    def _record(self, part: WeightedTask, encoder: Path, weights: str) -> SavedHead:
        """Describe a head on the last hidden state of the encoder that lies beside it."""
        recurrent = self.config.recurrent
        return SavedHead(
            task=part.task.name,
            protocol="finetuning",
            vocabulary=list(part.vocabulary.symbols),
            states=1,
            dim=self.encoder.dim,
            hidden=self.config.hidden,
            units=[],
            recurrent=[] if recurrent is None else [recurrent.size] * recurrent.layers,
            encoder={"name": encoder.name, "source": encoder.name, "relative": encoder.name},
            encoder_digest=digest_of(encoder),
            precision=self.config.precision,
            layers="last",
            learning_rate=self.config.learning_rate,
            weights=weights,
            weighted=False,
        )


def _check_task(task: Task, config: FinetuningConfig) -> None:
    if config.recurrent is not None and not task.per_frame:
        raise ConfigError(
            f"finetuning.recurrent is for tasks that work on frames; {task.name} does not",
            hint="set finetuning.recurrent=null",
        )
    if config.vocabulary == "wav2vec2" and task.label != "text":
        raise ConfigError(
            f"finetuning.vocabulary=wav2vec2 is for tasks on text; {task.name} needs {task.label}",
            hint="set finetuning.vocabulary=corpus",
        )


def _vocabulary(config: FinetuningConfig) -> Callable[[Split], Vocabulary] | None:
    """Return how symbols are collected; None as the task does it."""
    if config.vocabulary == "wav2vec2":
        return lambda cuts: Vocabulary(WAV2VEC2_SYMBOLS)
    return None


def tuning_head(
    task: Task, dim: int, vocabulary: Vocabulary, config: FinetuningConfig
) -> nn.Module:
    """Return the head that a task is tuned with, on features of so many dimensions."""
    if config.recurrent is None:
        return task.head(dim, vocabulary, config.hidden)
    settings = config.recurrent
    return RecurrentHead(
        dim,
        len(vocabulary),
        projection=config.hidden,
        hidden=[settings.size] * settings.layers,
        dropout=settings.dropout,
    )


def _tie(encoder: Encoder, config: FinetuningConfig) -> Regularizer | None:
    if config.strategy == "l2sp":
        return L2sp(encoder, config.l2sp.weight, config.l2sp.head_weight)
    if config.strategy == "distill":
        return Distillation(encoder, config.distill.weight, config.distill.layers)
    return None


def _target(task: Task, vocabulary: Vocabulary, cut: Cut, frames: int) -> Tensor:
    return task.target(cut, vocabulary, frames)


def _for_task(batch: Batch, name: str) -> Batch:
    return replace(batch, task=name)


def write_head(head: nn.Module, path: Path) -> None:
    """Write the weights of a head as safetensors, as readable for others as any new file."""
    state = {n: tensor.detach().cpu().contiguous() for n, tensor in head.state_dict().items()}
    with atomic_write(path) as file:
        file.write(save(state))
