"""What is minimised: the loss of an encoder with heads, and what ties it to its base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from speechft.data.augment import SpecAugment
from speechft.data.batching import Batch
from speechft.data.labels import Vocabulary
from speechft.encoders.base import Encoder, EncoderOutput
from speechft.finetuning.baselines import Regularizer
from speechft.finetuning.encoding import encode
from speechft.finetuning.layers import transformer_layers
from speechft.tasks.base import Task


class Objective(nn.Module):
    """An encoder, a head, and the loss of a batch."""

    encoder: Encoder
    head: nn.Module

    def forward(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        raise NotImplementedError

    def counts(self, batch: Batch) -> Tensor | None:
        """Return what the means of the loss of a batch divide by, (N,) integers.

        Batches of an update, on all processes, are given the mean of their counts: the mean of
        their losses is then the loss of one batch that holds them all. None says that the loss
        is the mean over utterances or frames of a batch, whatever their number: batches then count
        alike. Called before `forward` with the same seed; what it draws, `forward` draws first.
        """
        return None


def counted(
    objective: Objective, group: list[Batch], draw: Callable[[int], None], accelerator: Any
) -> list[Batch]:
    """Return the batches of an update with what the means of their losses divide by.

    Args:
        objective: Whose loss it is.
        group: The batches of this process.
        draw: Seeds what is drawn for the batch of a number.
        accelerator: The processes that make the update together.
    """
    batches = len(group) * accelerator.num_processes
    if batches == 1:
        return group
    counts = []
    for number, batch in enumerate(group):
        draw(number)
        counts.append(objective.counts(batch))
    found = [each for each in counts if each is not None]
    if not found:
        return group
    total = accelerator.reduce(torch.stack(found).sum(0).double(), "sum")
    mean = (total.clamp(min=1) / batches).float()
    return [replace(batch, counts=mean) for batch in group]


@dataclass(frozen=True)
class WeightedTask:
    """One task of a fine-tuning."""

    task: Task
    vocabulary: Vocabulary
    weight: float = 1.0
    """Factor of its loss."""


class TaskObjective(Objective):
    """The heads of tasks on the encoder's last hidden state.

    Args:
        encoder: The encoder in training.
        parts: The tasks; a batch says by ``batch.task`` which of them it is for.
        heads: A head for each, by the task's key.
        augment: Masks on the last hidden state while training.
        tie: What ties the encoder to its base.
    """

    head: nn.ModuleDict

    def __init__(
        self,
        encoder: Encoder,
        parts: Sequence[WeightedTask],
        heads: Mapping[str, nn.Module],
        augment: SpecAugment | None = None,
        tie: Regularizer | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.parts = {part.task.name: part for part in parts}
        self.head = nn.ModuleDict({p.task.folder: heads[p.task.name] for p in parts})
        self.augment, self.tie = augment, tie

    def forward(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a scalar; without targets, the logits.

        Everything goes through here, as the parameters of a sharded module are there only then.
        """
        part = self.part(batch)
        output = self.encode(batch) if batch.hidden is None else None
        lengths = self.encoder.frame_lengths(batch.lengths) if output is None else output.lengths
        hidden = batch.hidden if output is None else output.last_hidden_state
        if self.augment is not None and self.training:
            hidden = self.augment(hidden, lengths)
        logits: Tensor = self.head[part.task.folder](hidden, lengths)
        if batch.targets is None:
            return logits
        losses = part.task.losses(logits, lengths, batch.targets, part.vocabulary)
        loss = part.weight * losses.mean()
        if self.tie is not None and output is not None and _learns(self.encoder):
            loss = loss + self.tie(self.encoder, self.head, batch, output)
        return loss

    def part(self, batch: Batch) -> WeightedTask:
        """Return the task that a batch is for."""
        return self.parts[batch.task] if batch.task else next(iter(self.parts.values()))

    def encode(self, batch: Batch) -> EncoderOutput:
        """Encode a batch of waveforms, or of downsampler outputs where they stand in for them."""
        return encode(self.encoder, batch)


def _learns(encoder: Encoder) -> bool:
    return any(parameter.requires_grad for parameter in encoder.parameters())


def compile_layers(objective: Objective, backend: str = "inductor") -> None:
    """Compile the parts of each layer; the layers themselves carry hooks that differ per batch."""
    for layer in transformer_layers(objective.encoder):
        for part in layer.children():
            part.compile(dynamic=True, backend=backend)
