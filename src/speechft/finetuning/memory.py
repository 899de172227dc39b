"""The largest batch is tried before the first update; what does not fit is halved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from speechft.console import warn
from speechft.data.batching import Batch
from speechft.errors import TrainingError
from speechft.finetuning.distributed import agree
from speechft.finetuning.objective import Objective
from speechft.finetuning.optimization import Optimization
from speechft.finetuning.phases import Phase, apply_phase
from speechft.parallel import process_group
from speechft.storage.files import read_json, write_json


@dataclass(frozen=True)
class Limits:
    """Size of a batch and batches of an update."""

    seconds: float
    """Audio in a batch."""
    utterances: int
    """Utterances in a batch."""
    accumulation: int
    """Batches per update."""

    @classmethod
    def of(cls, settings: Optimization) -> Limits:
        """Return what a configuration asks for."""
        return cls(settings.batch_seconds, settings.batch_utterances, settings.accumulation)

    def halved(self) -> Limits:
        """Return batches of half the size, twice as many an update."""
        return Limits(self.seconds / 2, max(1, self.utterances // 2), 2 * self.accumulation)


def fit_batches(
    asked: Limits,
    largest: Callable[[Limits], Batch],
    objective: Objective,
    phases: list[Phase],
    accelerator: Any,
    record: Path,
) -> Limits:
    """Halve batches until the largest one can be trained on; what was found is kept in ``record``.

    A training that goes on takes what the first process has recorded, so that its batches are those
    it began with.

    Args:
        asked: Limits of the configuration.
        largest: Returns the largest batch under some limits.
        objective: Is run forward and backward, with room for the optimizer's moments.
        phases: The one in which most is trained is tried.
        accelerator: Of the training; all processes halve together.
        record: File that says what was found.

    Raises:
        TrainingError: Not even one utterance fits.
    """
    mine = accelerator.is_main_process and record.exists()
    if known := process_group.from_first(read_json(record) if mine else None):
        return Limits(**known)
    limits = asked
    while not _fits(largest(limits), objective, phases[-1], accelerator):
        batch = largest(limits)
        if len(batch.ids) == 1:
            raise TrainingError(
                f"not even one utterance fits into memory: {batch.ids[0]}, {batch.seconds:.1f} s",
                hint="leave out long utterances, crop them with finetuning.max_duration, or set "
                "finetuning.precision=bf16",
            )
        halved = limits.halved()
        while len(largest(halved).ids) == len(batch.ids):  # the limit that binds must bind harder
            halved = Limits(halved.seconds / 2, max(1, halved.utterances // 2), halved.accumulation)
        limits = halved
        warn(
            f"a batch of {len(batch.ids)} utterances, {batch.seconds:.0f} s, does not fit into "
            f"memory; going on with batches of at most {limits.seconds:g} s and "
            f"{limits.utterances} utterances, {limits.accumulation} an update"
        )
    if accelerator.is_main_process:
        write_json(record, asdict(limits))
    return limits


def _fits(batch: Batch, objective: Objective, phase: Phase, accelerator: Any) -> bool:
    """Return whether forward, backward and the optimizer's moments fit on every process."""
    apply_phase(phase, objective.encoder, objective.head)
    objective.train()
    failed = False
    try:
        with accelerator.autocast():
            loss = objective(batch.to(accelerator.device))
        loss.backward()
        del loss
        trained = [p for p in objective.parameters() if p.grad is not None]
        moments = [torch.empty_like(p) for p in trained for _ in range(2)]
        del moments
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        failed = True
    objective.zero_grad(set_to_none=True)
    if failed and accelerator.device.type == "cuda":
        torch.cuda.empty_cache()
    return not agree(accelerator, failed)


def _out_of_memory(error: RuntimeError) -> bool:
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, torch.OutOfMemoryError) or bool(should_reduce_batch_size(error))
