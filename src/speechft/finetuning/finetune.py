"""Fine-tune an encoder on a task: stably, or plainly as the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from speechft.checkpoint import write_json
from speechft.console import log, warn
from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.batching import Batch, BatchPlan, StepDataset, pad, seed_of
from speechft.data.labels import Vocabulary
from speechft.data.manifest import Corpus, load_waveform
from speechft.encoders.base import Encoder, EncoderOutput
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.load import load_encoder
from speechft.errors import DataError, TrainingError
from speechft.features.extract import DownsamplerCache, downsample_all, group_by_length
from speechft.finetuning.loop import (
    History,
    Hooks,
    Objective,
    Optimization,
    make_accelerator,
    train,
)
from speechft.finetuning.phases import Phase, stable_phases
from speechft.tasks import TASKS, find_task
from speechft.tasks.base import Item, Task, figure

if TYPE_CHECKING:
    from lhotse.cut import Cut

Strategy = Literal["stable", "plain"]

_CACHE_BYTES = 4 << 30
_BYTES_PER_SECOND = 50 * 512 * 4  # of a Base-size downsampler


class FinetuningConfig(Optimization):
    """Fine-tuning on one task."""

    task: str = "sid"
    """Key of the task."""
    strategy: Strategy = "stable"
    """``stable``: head only at first, downsampler frozen; ``plain``: everything from step 0."""
    head_only: float = 0.1
    """Share of the updates in which only the head learns (stable)."""
    hidden: int | None = 256
    """Size of the head's projection; null leaves it out."""
    dropout: dict[str, float] = Field(default_factory=dict)
    """Dropout rates by Hugging Face name; those left out are 0."""
    evaluate_every: int = 0
    """Updates between evaluations on dev; 0 evaluates at the end only."""
    clip: float = 1.0
    """Largest norm of the gradient (official code: 1)."""
    max_duration: float | None = None
    """Longer utterances are cropped at random, in seconds; sequence tasks see them whole."""

    def phases(self) -> list[Phase]:
        """Return what is trainable when."""
        if self.strategy == "plain":
            return [Phase(self.steps, "everything")]
        return stable_phases(self.steps, self.head_only)


class TaskObjective(Objective):
    """A task's head on the encoder's last hidden state."""

    def __init__(
        self, encoder: Encoder, task: Task, vocabulary: Vocabulary, hidden: int | None
    ) -> None:
        super().__init__()
        self.encoder, self.task, self.vocabulary = encoder, task, vocabulary
        self.head = task.head(encoder.dim, vocabulary, hidden)

    def forward(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        output = self.encode(batch)
        logits = self.head(output.last_hidden_state, output.lengths)
        losses = self.task.losses(logits, output.lengths, batch.targets, self.vocabulary)
        return losses.mean()

    def encode(self, batch: Batch) -> EncoderOutput:
        """Encode a batch of waveforms, or of downsampler outputs where they stand in for them."""
        if batch.features is not None:
            return self.encoder.contextualize(batch.features, batch.lengths)
        output: EncoderOutput = self.encoder(batch.waveforms, batch.lengths)
        return output


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning gives."""

    encoder: Path
    """Folder of the tuned encoder."""
    history: History
    dev: float
    """The task's metric of the selected step on dev, with the tuning head."""


def finetune(
    config: FinetuningConfig,
    base: str | Path,
    corpus: Corpus,
    folder: Path,
    *,
    seed: int = 0,
    cache: DownsamplerCache | None = None,
) -> Tuned:
    """Fine-tune an encoder; resumable.

    Writes ``encoder/``, ``head.safetensors``, ``vocabulary.json`` and ``history.json``.

    Args:
        config: Task, strategy, steps.
        base: The encoder to start from, as `load_encoder` takes it.
        corpus: A corpus whose tuning splits have the task's labels.
        folder: Where results and checkpoints go.
        seed: Seed of head, order and dropout.
        cache: Downsampler outputs to share with other stages.

    Raises:
        DataError: The corpus lacks what the task needs.
        TrainingError: Training diverged.
    """
    encoder = load_encoder(base)
    return finetune_encoder(encoder, config, corpus, folder, seed=seed, cache=cache)


def finetune_encoder(
    encoder: Encoder,
    config: FinetuningConfig,
    corpus: Corpus,
    folder: Path,
    *,
    seed: int = 0,
    cache: DownsamplerCache | None = None,
    splits: tuple[str, str] | None = None,
) -> Tuned:
    """Fine-tune a loaded encoder, see `finetune`; ``splits`` overrides the tuning splits."""
    if not isinstance(encoder, HuggingFaceEncoder):
        raise TrainingError("these features have no weights to fine-tune")
    encoder.set_dropout(config.dropout)
    task = find_task(config.task)
    train_cuts, dev_cuts = _splits(task, corpus, encoder, splits)
    longest = config.max_duration if task.level == "utterance" else None
    vocabulary = task.vocabulary(train_cuts)
    torch.manual_seed(seed)
    objective = TaskObjective(encoder, task, vocabulary, config.hidden)
    device = make_accelerator(config.precision).device
    frozen = config.strategy == "stable"
    downsampled = _downsampled(encoder, [*train_cuts, *dev_cuts], device, cache) if frozen else None
    dev = _Dev(objective, dev_cuts, downsampled, device, config.batch_seconds)
    phases = config.phases()
    unfrozen_from = phases[0].until if len(phases) > 1 else 0
    history = train(
        objective,
        _dataset(config, task, vocabulary, encoder, train_cuts, downsampled, seed, longest),
        config,
        phases,
        folder / ".checkpoints",
        seed=seed,
        hooks=Hooks(dev.evaluate, config.evaluate_every, select_from=unfrozen_from),
        description=f"{config.strategy} fine-tuning on {task.name}",
    )
    value = figure(dev.items())
    if make_accelerator(config.precision).is_main_process:
        _write(folder, objective, history, vocabulary)
    log(f"{config.strategy} fine-tuning on {task.name}: dev {task.metric} {value:.2f}")
    return Tuned(folder / "encoder", history, value)


def _splits(
    task: Task, corpus: Corpus, encoder: Encoder, splits: tuple[str, str] | None
) -> tuple[list[Cut], list[Cut]]:
    """Return the cuts to train on and to select on; those that cannot be aligned are left out."""
    names = splits or corpus.tuning_splits()
    for name in names:
        statistics = corpus.statistics.get(name, {"utterances": 0, "labels": {}})
        if not statistics["utterances"]:
            raise DataError(f"corpus {corpus.name} has no split {name!r} to fine-tune with")
        if statistics["labels"].get(task.label, 0) < statistics["utterances"]:
            raise DataError(
                f"fine-tuning on {task.name} needs label {task.label!r} for every utterance of "
                f"split {name}; corpus {corpus.name} does not have that",
                hint=f"set finetuning.task to one that it supports: {_tunable(corpus, names)}",
            )
    train_cuts, dev_cuts = (list(corpus.split(name)) for name in names)
    kept = [cut for cut in train_cuts if task.usable(cut, _frames(cut, encoder))]
    if len(kept) < len(train_cuts):
        dropped = sorted({cut.id for cut in train_cuts} - {cut.id for cut in kept})
        warn(f"{len(dropped)} utterances are too short for their target, left out: {dropped[:5]}")
    if not kept:
        raise DataError(f"no utterance of split {names[0]} can be trained on")
    return kept, dev_cuts


def _tunable(corpus: Corpus, splits: Sequence[str]) -> str:
    """Return the names of the tasks whose labels these splits have throughout."""

    def has(split: str, label: str) -> bool:
        statistics = corpus.statistics.get(split, {"utterances": 0, "labels": {}})
        return bool(0 < statistics["utterances"] == statistics["labels"].get(label, 0))

    names = [t.name for t in TASKS.values() if all(has(split, t.label) for split in splits)]
    return ", ".join(names) or "none"


def _frames(cut: Cut, encoder: Encoder) -> int:
    samples = round(cut.duration * 16_000)
    return int(encoder.frame_lengths(torch.tensor(samples)))


def _downsampled(
    encoder: Encoder,
    cuts: Sequence[Cut],
    device: torch.device,
    cache: DownsamplerCache | None,
) -> Mapping[str, tuple[Tensor, int]] | None:
    """Run the frozen downsampler once over everything, if the outputs fit into memory."""
    if sum(cut.duration for cut in cuts) * _BYTES_PER_SECOND > _CACHE_BYTES:
        return None
    encoder.to(device)
    return downsample_all(encoder, cuts, cache or DownsamplerCache(), device)


def _dataset(
    config: FinetuningConfig,
    task: Task,
    vocabulary: Vocabulary,
    encoder: Encoder,
    cuts: Sequence[Cut],
    downsampled: Mapping[str, tuple[Tensor, int]] | None,
    seed: int,
    longest: float | None,
) -> StepDataset:
    from lhotse import CutSet

    accelerator = make_accelerator(config.precision)
    plan = BatchPlan(
        CutSet.from_cuts(cuts),
        seconds=config.batch_seconds,
        utterances=config.batch_utterances,
        seed=seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        max_duration=longest,
    )
    reader = _Reader(encoder, downsampled, longest, seed)

    def target(cut: Cut, samples: int) -> Tensor:
        frames = int(encoder.frame_lengths(torch.tensor(samples)))
        return task.target(cut, vocabulary, frames)

    return StepDataset(
        plan,
        target=target,
        collate=list,
        read=reader.waveform,
        downsampled=None if downsampled is None else reader.features,
    )


class _Reader:
    """Reads cuts, cropped at the same random frame whether as samples or as downsampler output."""

    def __init__(
        self,
        encoder: Encoder,
        downsampled: Mapping[str, tuple[Tensor, int]] | None,
        max_duration: float | None,
        seed: int,
    ) -> None:
        self.downsampled, self.seed = downsampled or {}, seed
        self.longest = None if max_duration is None else int(max_duration * SAMPLE_RATE)
        self.hop = round(SAMPLE_RATE / encoder.frame_rate)
        self.frame_lengths = encoder.frame_lengths

    def waveform(self, cut: Cut, step: int) -> npt.NDArray[np.float32]:
        """Return (S,) samples."""
        samples = load_waveform(cut)
        start, length = self._crop(cut, step, len(samples))
        return samples[start * self.hop : start * self.hop + length]

    def features(self, cut: Cut, step: int) -> tuple[Tensor, int]:
        """Return the (T, C) output of the downsampler and the number of samples."""
        rows, samples = self.downsampled[cut.id]
        start, length = self._crop(cut, step, samples)
        frames = int(self.frame_lengths(torch.tensor(length)))
        return rows[start : start + frames], length

    def _crop(self, cut: Cut, step: int, samples: int) -> tuple[int, int]:
        """Return the first frame and the number of samples."""
        if self.longest is None or samples <= self.longest:
            return 0, samples
        rng = np.random.default_rng(seed_of(self.seed, "crop", step, cut.id))
        return int(rng.integers((samples - self.longest) // self.hop + 1)), self.longest


class _Dev:
    """Evaluates the objective on the dev split with its own head."""

    def __init__(
        self,
        objective: TaskObjective,
        cuts: Sequence[Cut],
        downsampled: Mapping[str, tuple[Tensor, int]] | None,
        device: torch.device,
        batch_seconds: float,
    ) -> None:
        self.objective, self.cuts, self.downsampled = objective, cuts, downsampled
        self.device, self.batch_seconds = device, batch_seconds

    def evaluate(self) -> dict[str, float]:
        task, value = self.objective.task, figure(self.items())
        return {"score": value if task.higher_is_better else -value, task.metric: value}

    def items(self) -> list[Item]:
        self.objective.eval()
        items: list[Item] = []
        with torch.inference_mode():
            for group in group_by_length(self.cuts, self.batch_seconds):
                items += self._score(group)
        return items

    def _score(self, group: list[Cut]) -> list[Item]:
        objective, task, vocabulary = self.objective, self.objective.task, self.objective.vocabulary
        output = objective.encode(self._batch(group).to(self.device))
        logits = objective.head(output.last_hidden_state, output.lengths)
        predictions = task.predict(logits, output.lengths, vocabulary)
        return [
            task.score(cut, prediction, task.target(cut, vocabulary, frames), vocabulary)
            for cut, prediction, frames in zip(
                group, predictions, output.lengths.tolist(), strict=True
            )
        ]

    def _batch(self, group: list[Cut]) -> Batch:
        ids = tuple(cut.id for cut in group)
        if self.downsampled is not None:
            pairs = [self.downsampled[name] for name in ids]
            lengths = torch.tensor([n for _, n in pairs])
            return Batch(ids, lengths, features=pad([row for row, _ in pairs]))
        rows = [torch.from_numpy(load_waveform(cut)) for cut in group]
        return Batch(ids, torch.tensor([len(row) for row in rows]), waveforms=pad(rows))


def _write(
    folder: Path, objective: TaskObjective, history: History, vocabulary: Vocabulary
) -> None:
    objective.cpu()
    objective.encoder.save(folder / "encoder")
    save_file(_contiguous(objective.head), folder / "head.safetensors")
    write_json(folder / "vocabulary.json", list(vocabulary.symbols))
    content: dict[str, Any] = {
        "losses": [round(loss, 5) for loss in history.losses],
        "evaluations": history.evaluations,
        "skipped": history.skipped,
        "hours_of_audio": round(history.seconds_of_audio / 3600, 4),
        "seconds": round(history.seconds, 1),
    }
    write_json(folder / "history.json", content)


def _contiguous(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}
