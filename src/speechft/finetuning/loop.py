"""The training loop on Accelerate: phases, schedule, clipping, checkpoints, exact resume."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechft.config import Config
from speechft.console import log, progress_bar
from speechft.data.batching import Batch, StepDataset, load_steps, seed_of
from speechft.devices import Precision, pick_device, resolve_precision
from speechft.encoders.base import Encoder
from speechft.errors import RunError, TrainingError
from speechft.finetuning.checkpointing import load_checkpoint, save_checkpoint
from speechft.finetuning.phases import Phase, apply_phase, phase_at
from speechft.finetuning.schedules import Schedule

_MAX_SKIPPED = 20


class Optimization(Config):
    """How an objective is optimised, whatever it is."""

    steps: int
    """Updates."""
    learning_rate: float
    """Peak learning rate, the same for head and encoder."""
    schedule: Schedule = Schedule()
    """Learning rate over the steps."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW); 0 is plain Adam, as in the official code."""
    clip: float = 1.0
    """Largest norm of the gradient over all trainable parameters."""
    batch_seconds: float = 80.0
    """Limit of a batch in seconds of audio."""
    batch_utterances: int = 16
    """Limit of a batch in utterances."""
    accumulation: int = 1
    """Batches per update."""
    precision: Precision = "auto"
    """fp32, bf16, fp16, or auto: bf16 where the hardware has it."""
    workers: int = 0
    """Processes that read ahead."""
    checkpoint_every: int = 50
    """Updates between checkpoints."""


class Objective(nn.Module):
    """An encoder, a head, and the loss of a batch."""

    encoder: Encoder
    head: nn.Module

    def forward(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        raise NotImplementedError


@dataclass
class History:
    """What happened in a training."""

    losses: list[float] = field(default_factory=list)
    """Loss of every update, NaN where it was skipped."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """Step, dev figures, by evaluation."""
    skipped: int = 0
    """Updates left out because loss or gradient was not finite."""
    seconds_of_audio: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Hooks:
    """What a training calls between updates."""

    evaluate: Callable[[], dict[str, float]] | None = None
    """Returns dev figures; ``score`` among them decides the best step, higher is better."""
    evaluate_every: int = 0
    select_from: int = 0
    """First number of updates after which a step may be selected."""


def train(
    objective: Objective,
    dataset: StepDataset,
    settings: Optimization,
    phases: list[Phase],
    folder: Path,
    *,
    seed: int,
    hooks: Hooks | None = None,
    description: str = "training",
) -> History:
    """Train an objective; an interrupted training in ``folder`` goes on to the same bits.

    After the last update the objective holds the weights of the best evaluated step, or the last
    ones where there is no evaluation.

    Args:
        objective: Encoder, head and loss.
        dataset: From step to batch, for this process.
        settings: Optimiser and limits.
        phases: What is trainable when.
        folder: Where checkpoints go.
        seed: Seed of dropout and of whatever else is drawn inside the objective.
        hooks: Evaluation between updates.
        description: Text of the progress bar.

    Raises:
        TrainingError: Too many updates were not finite.
        RunError: The process group is not what the launcher asked for, or the disk is full.
    """
    return _Training(objective, dataset, settings, phases, folder, seed, hooks or Hooks()).run(
        description
    )


def make_accelerator(precision: Precision) -> Any:
    """Return an Accelerator, and make sure that it is what the launcher asked for.

    Raises:
        RunError: ``WORLD_SIZE`` processes were started but do not form one group.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    device = pick_device()
    mixed = {"fp32": "no"}.get(resolved := resolve_precision(precision, device), resolved)
    # the mask embedding takes no part in fine-tuning
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    if AcceleratorState._shared_state.get("_mixed_precision", mixed) != mixed:
        AcceleratorState._reset_state()  # an earlier stage of this process had another precision
    accelerator = Accelerator(
        mixed_precision=mixed, cpu=device.type == "cpu", kwargs_handlers=[unused]
    )
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != wanted:
        raise RunError(
            f"{wanted} processes were started, but {accelerator.num_processes} train together",
            hint="start with: accelerate launch --num_processes N -m speechft ...",
        )
    return accelerator


class _Training:
    def __init__(
        self,
        objective: Objective,
        dataset: StepDataset,
        settings: Optimization,
        phases: list[Phase],
        folder: Path,
        seed: int,
        hooks: Hooks,
    ) -> None:
        self.objective, self.dataset, self.settings = objective, dataset, settings
        self.phases, self.folder, self.seed, self.hooks = phases, folder, seed, hooks
        self.accelerator = make_accelerator(settings.precision)
        self.objective.to(self.accelerator.device)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            objective.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,  # 0 makes it plain Adam
        )
        self.history = History()
        self.step = 0
        self.best_score = float("-inf")
        self.phase: Phase | None = None
        self.wrapped: Any = objective

    def run(self, description: str) -> History:
        self._resume()
        settings, started = self.settings, time.monotonic()
        accumulation = settings.accumulation
        batches = load_steps(
            self.dataset, self.step * accumulation, settings.steps * accumulation, settings.workers
        )
        with progress_bar(description, settings.steps, self.step) as bar:
            while self.step < settings.steps:
                self._enter_phase()
                rate = self._set_learning_rate()
                group = [next(batches) for _ in range(accumulation)]
                loss = self._update(group)
                self.step += 1
                self._record(group, loss)
                speed = self.history.seconds_of_audio / max(1e-9, time.monotonic() - started)
                bar.advance()
                bar.note(f"loss {loss:.3f}  lr {rate:.1e}  {speed:.0f} x real time")
                self._evaluate()
                if self.step % settings.checkpoint_every == 0 or self.step == settings.steps:
                    self._save()
        self.history.seconds += time.monotonic() - started
        self._take_best()
        return self.history

    def _enter_phase(self) -> None:
        """Set what is trainable; the wrapper for several processes is built anew at a change."""
        phase = phase_at(self.phases, self.step)
        if phase == self.phase:
            return
        self.phase = phase
        apply_phase(phase, self.objective.encoder, self.objective.head)
        if self.accelerator.num_processes > 1:
            self.wrapped = self.accelerator.prepare_model(self.objective)

    def _set_learning_rate(self) -> float:
        factor = self.settings.schedule.factor(self.step, self.settings.steps)
        rate = self.settings.learning_rate * factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _update(self, group: list[Batch]) -> float:
        """Make one update; leave it out on every process where one of them is not finite."""
        accelerator = self.accelerator
        torch.manual_seed(seed_of(self.seed, "step", self.step, accelerator.process_index))
        self.objective.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=accelerator.device)
        for batch in group:
            with accelerator.autocast():
                loss = self.wrapped(batch.to(accelerator.device))
            accelerator.backward(loss / len(group))
            total += loss.detach().float() / len(group)
        trained = [p for p in self.objective.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(trained, self.settings.clip)
        healthy = torch.isfinite(total) & torch.isfinite(norm)
        if accelerator.num_processes > 1:
            healthy = accelerator.reduce(healthy.float(), "mean") == 1.0
            total = accelerator.reduce(total, "mean")
        if bool(healthy):
            self.optimizer.step()
            return float(total)
        self.history.skipped += 1
        if self.history.skipped > _MAX_SKIPPED:
            raise TrainingError(
                f"training diverged: {self.history.skipped} updates had a loss or gradient that is "
                f"not finite, the last at step {self.step}",
                hint="lower finetuning.learning_rate, or look for damaged audio or labels",
            )
        return float("nan")

    def _record(self, group: list[Batch], loss: float) -> None:
        self.history.losses.append(loss)
        seconds = sum(batch.seconds for batch in group) * self.accelerator.num_processes
        self.history.seconds_of_audio += seconds

    def _evaluate(self) -> None:
        hooks = self.hooks
        due = hooks.evaluate_every and self.step % hooks.evaluate_every == 0
        if hooks.evaluate is None or not (due or self.step == self.settings.steps):
            return
        self.objective.eval()
        figures = hooks.evaluate()
        self.history.evaluations.append({"step": self.step, **figures})
        if self.step > hooks.select_from and figures["score"] > self.best_score:
            self.best_score = figures["score"]
            if self.accelerator.is_main_process:
                save_checkpoint(self.folder / "best", self.step, self._weights())

    def _weights(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "weights": {k: v.detach().cpu() for k, v in self.objective.state_dict().items()},
        }

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            state = {
                **self._weights(),
                "optimizer": self.optimizer.state_dict(),
                "history": vars(self.history),
                "best_score": self.best_score,
            }
            save_checkpoint(self.folder, self.step, state)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        state = load_checkpoint(self.folder)
        if state is None:
            return
        self.step = state["step"]
        self.objective.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = History(**state["history"])
        self.best_score = state["best_score"]
        log(f"resumed after {self.step} of {self.settings.steps} updates")

    def _take_best(self) -> None:
        best = load_checkpoint(self.folder / "best")
        if best is not None:
            self.objective.load_state_dict(best["weights"])
            self.history.evaluations.append({"step": best["step"], "selected": 1.0})
