"""What is trainable when: a fine-tuning strategy as a list of phases."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from speechft.encoders.base import Encoder

Trainable = Literal["head", "head and layers", "everything"]


@dataclass(frozen=True)
class Phase:
    """A stretch of updates with one set of trainable parameters."""

    until: int
    """First update that no longer belongs to the phase, counted from 0."""
    trainable: Trainable
    """``head`` alone; ``head and layers``: all but the downsampler; or ``everything``."""


def stable_phases(steps: int, head_only: float, freeze_downsampler: bool = True) -> list[Phase]:
    """Return the phases of stable fine-tuning.

    The official signature counts updates from 1 and freezes while ``step < head_only * steps``,
    which makes head_only * steps - 1 updates of the head alone.

    Source: Speech-FT (arXiv 2502.12672), ``set_require_grad`` of the official code.

    Args:
        steps: T, all updates.
        head_only: Share of the updates in which only the head learns.
        freeze_downsampler: Keep the downsampling CNN as it is throughout.
    """
    boundary = max(0, int(head_only * steps) - 1)
    rest: Trainable = "head and layers" if freeze_downsampler else "everything"
    phases = [Phase(boundary, "head")] if boundary else []
    return [*phases, Phase(steps, rest)]


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
    frozen = encoder.downsampler_names() if phase.trainable == "head and layers" else frozenset()
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(phase.trainable != "head" and name not in frozen)
        if not parameter.requires_grad:
            parameter.grad = None
    for parameter in head.parameters():
        parameter.requires_grad_(True)
