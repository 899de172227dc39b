"""What is trainable when: a fine-tuning strategy as a list of phases."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

    from speechft.encoders.base import Encoder

Trainable = Literal["head", "head and layers", "head and adapters", "everything"]
EncoderMode = Literal["train", "eval"]

ADAPTER_MARK = "lora_"
"""Part of the name of every parameter that PEFT adds."""


@dataclass(frozen=True)
class Phase:
    """A stretch of updates with one set of trainable parameters."""

    until: int
    """First update that no longer belongs to the phase, counted from 0."""
    trainable: Trainable
    """``head`` alone; ``head and layers``: all but the downsampler; ``head and adapters``: LoRA or
    DoRA matrices instead of the layers; or ``everything``."""
    encoder_mode: EncoderMode = "train"
    """``eval`` switches the encoder's dropout off."""


def stable_phases(
    steps: int,
    head_only: float,
    *,
    trainable: Trainable = "head and layers",
    head_only_mode: EncoderMode = "train",
) -> list[Phase]:
    """Return the phases of stable fine-tuning.

    The official signature counts updates from 1 and freezes while ``step < head_only * steps``,
    which makes head_only * steps - 1 updates of the head alone.

    Source: Speech-FT (arXiv 2502.12672), ``set_require_grad`` of the official code.

    Args:
        steps: T, all updates.
        head_only: Share of the updates in which only the head learns.
        trainable: What learns afterwards.
        head_only_mode: Mode of the frozen encoder; ``train`` is what the official code does.
    """
    boundary = max(0, int(head_only * steps) - 1)
    phases = [Phase(boundary, "head", head_only_mode)] if boundary else []
    return [*phases, Phase(steps, trainable)]


def head_only_updates(phases: Iterable[Phase]) -> int:
    """Return how many updates go by before anything of the encoder learns."""
    return max((phase.until for phase in phases if phase.trainable == "head"), default=0)


def phase_at(phases: Iterable[Phase], step: int) -> Phase:
    """Return the phase that an update belongs to."""
    last = None
    for phase in phases:
        last = phase
        if step < phase.until:
            return phase
    if last is None:
        raise ValueError("no phases")
    return last


def apply_phase(phase: Phase, encoder: Encoder, head: nn.Module) -> None:
    """Set ``requires_grad`` of every parameter; gradients of frozen ones are dropped.

    Args:
        phase: What is trainable.
        encoder: The encoder in training.
        head: The task's head, always trainable.
    """
    downsampler = encoder.downsampler_names()
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(_learns(name, phase.trainable, downsampler))
        if not parameter.requires_grad:
            parameter.grad = None
    for parameter in head.parameters():
        parameter.requires_grad_(True)


def _learns(name: str, trainable: Trainable, downsampler: frozenset[str]) -> bool:
    if trainable == "head and adapters":
        return ADAPTER_MARK in name
    if trainable == "head and layers":
        return name not in downsampler
    return trainable == "everything"
