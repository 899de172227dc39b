"""The training loop on Accelerate: phases, schedule, clipping, checkpoints, exact resume."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from speechft.console import log, progress_bar, warn
from speechft.data.batching import Batch, load_steps, seed_of
from speechft.errors import TrainingError
from speechft.finetuning.checkpointing import forget_after, load_checkpoint, save_checkpoint
from speechft.finetuning.distributed import (
    distribute_like,
    full_tensor,
    load_model_state,
    load_optimizer_state,
    make_accelerator,
    model_state,
    optimizer_state,
    shard,
    sharding_asked,
    transformer_layers,
)
from speechft.finetuning.objective import Objective
from speechft.finetuning.optimization import Optimization
from speechft.finetuning.phases import Phase, apply_phase, head_only_updates, phase_at
from speechft.finetuning.trackers import Trackers

__all__ = ["History", "Hooks", "Objective", "Optimization", "make_accelerator", "train"]

_MAX_SKIPPED_IN_A_ROW = 20
_MAX_SKIPPED_SHARE = 0.05


@dataclass
class History:
    """What happened in a training."""

    losses: list[float] = field(default_factory=list)
    """Loss of every update, NaN where it was skipped."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """Step, dev figures, by evaluation."""
    skipped: int = 0
    """Updates left out because loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    """Those since the last update that was made."""
    seconds_of_audio: float = 0.0
    seconds: float = 0.0

    def final(self, figure: str) -> float:
        """Return a dev figure of the step whose weights the training ended with."""
        selected = [entry["step"] for entry in self.evaluations if "selected" in entry]
        steps = {entry["step"]: entry[figure] for entry in self.evaluations if figure in entry}
        return steps[selected[-1] if selected else max(steps)]


@dataclass(frozen=True)
class Hooks:
    """What a training calls between updates."""

    evaluate: Callable[[], dict[str, float]] | None = None
    """Returns dev figures; ``score`` among them decides the best step, higher is better."""
    evaluate_every: int = 0
    select_from: int = 0
    """First number of updates after which a step may be selected."""
    keep_best: bool = True
    """End with the weights of the best evaluated step."""
    unfreeze: Callable[[], None] | None = None
    """Called once before the first update of the encoder, if the head learned alone before."""


def train(
    objective: Objective,
    dataset: Dataset[Batch],
    settings: Optimization,
    phases: list[Phase],
    folder: Path,
    *,
    seed: int,
    hooks: Hooks | None = None,
    stop_after: int | None = None,
    ema_decay: float | None = None,
    logs: Path | None = None,
    description: str = "training",
) -> History:
    """Train an objective; an interrupted training in ``folder`` goes on to the same bits.

    After the last update the objective holds the weights of the best evaluated step, or the moving
    average, or the last ones.

    Args:
        objective: Encoder, head and loss.
        dataset: From step to batch, for this process.
        settings: Optimiser and limits.
        phases: What is trainable when.
        folder: Where checkpoints go.
        seed: Seed of dropout and of whatever else is drawn inside the objective.
        hooks: Evaluation between updates.
        stop_after: Updates after which training ends although the schedule goes on.
        ema_decay: End with the moving average of the weights since the encoder learns.
        logs: Where trackers write.
        description: Text of the progress bar.

    Raises:
        TrainingError: Too many updates were not finite.
        RunError: The process group is not what the launcher asked for, or the disk is full.
    """
    training = _Training(objective, dataset, settings, phases, folder, seed, hooks or Hooks())
    return training.run(description, stop_after or settings.steps, ema_decay, logs)


class _Training:
    def __init__(
        self,
        objective: Objective,
        dataset: Dataset[Batch],
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
        self.sharded = False
        self.optimizer = self._optimizer()
        if settings.compile:
            _compile(objective)
        self.history = History()
        self.step = 0
        self.best_score = float("-inf")
        self.phase: Phase | None = None
        self.wrapped: Any = objective
        self.average: dict[str, Tensor] = {}

    def run(
        self, description: str, stop_after: int, ema_decay: float | None, logs: Path | None
    ) -> History:
        self._resume()
        settings, accumulation = self.settings, self.settings.accumulation
        batches = load_steps(
            self.dataset, self.step * accumulation, stop_after * accumulation, settings.workers
        )
        main = logs is not None and self.accelerator.is_main_process
        names = settings.trackers if main else ()
        trackers = Trackers(names, logs or self.folder, self.step, settings.as_dict())
        started, heard = time.monotonic(), self.history.seconds_of_audio
        before = self.history.seconds
        with progress_bar(description, stop_after, self.step) as bar:
            while self.step < stop_after:
                self._enter_phase()
                rate = self._set_learning_rate()
                group = [next(batches) for _ in range(accumulation)]
                loss = self._update(group)
                self.step += 1
                self._average(ema_decay)
                self._record(group, loss)
                elapsed = max(1e-9, time.monotonic() - started)
                self.history.seconds = before + elapsed
                speed = (self.history.seconds_of_audio - heard) / elapsed
                bar.advance()
                bar.note(f"loss {loss:.3f}  lr {rate:.1e}  {speed:.0f} x real time")
                trackers.log({"loss": loss, "learning rate": rate, "x real time": speed}, self.step)
                last = self.step == stop_after
                if figures := self._evaluate(last):
                    trackers.log({f"dev {name}": x for name, x in figures.items()}, self.step)
                if self.step % settings.checkpoint_every == 0 or last:
                    self._save()
        trackers.close()
        self._select()
        return self.history

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.objective.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,  # 0 makes it plain Adam
            fused=True,
        )

    def _enter_phase(self) -> None:
        """Set what is trainable; the wrapper for several processes is built anew at a change."""
        phase = phase_at(self.phases, self.step)
        if phase == self.phase:
            return
        if self.step and phase.until > self.step == head_only_updates(self.phases):
            self.objective.eval()
            if self.hooks.unfreeze is not None:
                self.hooks.unfreeze()
        self.phase = phase
        apply_phase(phase, self.objective.encoder, self.objective.head)
        if sharding_asked() and phase.trainable != "head":
            self._shard()
        elif self.accelerator.num_processes > 1:
            self.wrapped = self.accelerator.prepare_model(self.objective)

    def _shard(self) -> None:
        """Spread parameters, moments and average over the processes.

        This happens when the encoder begins to learn: a sharded module keeps the ``requires_grad``
        that it was sharded with.
        """
        if not self.sharded:
            state = optimizer_state(self.optimizer)
            shard(self.objective, self.accelerator.device)
            self.optimizer = self._optimizer()
            load_optimizer_state(self.optimizer, state)
            own = dict(self.objective.named_parameters())
            self.average = {n: distribute_like(v, own[n]).clone() for n, v in self.average.items()}
            self.wrapped, self.sharded = self.objective, True

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
        if self.phase is not None and self.phase.encoder_mode == "eval":
            self.objective.encoder.eval()
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=accelerator.device)
        for number, batch in enumerate(group):
            with self._synchronised(group, number):
                with accelerator.autocast():
                    loss = self.wrapped(batch.to(accelerator.device))
                scaled = loss / len(group)
                if accelerator.scaler is not None:
                    scaled = accelerator.scaler.scale(scaled)
                scaled.backward()
            total += loss.detach().float() / len(group)
        if accelerator.scaler is not None:
            accelerator.scaler.unscale_(self.optimizer)
        trained = [p for p in self.objective.parameters() if p.grad is not None]
        norm = full_tensor(nn.utils.clip_grad_norm_(trained, self.settings.clip))
        healthy = torch.isfinite(total) & torch.isfinite(norm)
        if accelerator.num_processes > 1:
            healthy = accelerator.reduce(healthy.float(), "mean") == 1.0
            total = accelerator.reduce(total, "mean")
        made = bool(healthy)
        self._step(made)
        return float(total) if made else self._skip()

    def _step(self, made: bool) -> None:
        """Step the optimizer if the update is made; a loss scale falls on all processes alike."""
        scaler = self.accelerator.scaler
        if scaler is None:
            if made:
                self.optimizer.step()
        elif made:
            scaler.step(self.optimizer)
            scaler.update()
        else:
            scaler.update(scaler.get_scale() * scaler.get_backoff_factor())

    def _synchronised(
        self, group: list[Batch], number: int
    ) -> contextlib.AbstractContextManager[Any]:
        """Exchange gradients once an update, unless its batches are of several tasks.

        With several tasks the parameters in use differ from batch to batch, and what the last one
        does not use would not be exchanged.
        """
        last = number == len(group) - 1
        if last or self.wrapped is self.objective or len({batch.task for batch in group}) > 1:
            return contextlib.nullcontext()
        return self.wrapped.no_sync()  # type: ignore[no-any-return]

    def _skip(self) -> float:
        history = self.history
        history.skipped += 1
        history.skipped_in_a_row += 1
        many = max(_MAX_SKIPPED_IN_A_ROW, _MAX_SKIPPED_SHARE * self.settings.steps)
        if history.skipped_in_a_row > _MAX_SKIPPED_IN_A_ROW or history.skipped > many:
            raise TrainingError(
                f"training diverged: {history.skipped} updates had a loss or gradient that is "
                f"not finite, the last at step {self.step}",
                hint="lower finetuning.learning_rate, or look for damaged audio or labels",
            )
        return float("nan")

    def _average(self, decay: float | None) -> None:
        """Move the average of the weights; it begins when the encoder begins to learn."""
        if decay is None or self.step <= head_only_updates(self.phases):
            return
        with torch.no_grad():
            for name, parameter in self.objective.named_parameters():
                if not parameter.requires_grad:
                    continue
                if name in self.average:
                    self.average[name].lerp_(parameter, 1 - decay)
                else:
                    self.average[name] = parameter.detach().clone()

    def _record(self, group: list[Batch], loss: float) -> None:
        self.history.losses.append(loss)
        if not math.isnan(loss):
            self.history.skipped_in_a_row = 0
        seconds = sum(batch.seconds for batch in group) * self.accelerator.num_processes
        self.history.seconds_of_audio += seconds

    def _evaluate(self, last: bool) -> dict[str, float]:
        hooks = self.hooks
        due = hooks.evaluate_every and self.step % hooks.evaluate_every == 0
        if hooks.evaluate is None or not (due or last):
            return {}
        self.objective.eval()
        figures = hooks.evaluate()
        self.history.evaluations.append({"step": self.step, **figures})
        better = self.step > hooks.select_from and figures["score"] > self.best_score
        if hooks.keep_best and better:
            self.best_score = figures["score"]
            self._write("best", self._weights, keep=2)  # a run that goes back needs the one before
        return figures

    def _weights(self) -> dict[str, Any]:
        return {"step": self.step, "weights": model_state(self.objective)}

    def _state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            **self._weights(),
            "optimizer": optimizer_state(self.optimizer),
            "scaler": scaler.state_dict() if scaler is not None else {},
            "average": self._whole_average(),
            "history": vars(self.history),
            "best_score": self.best_score,
            "processes": self.accelerator.num_processes,
        }

    def _whole_average(self) -> dict[str, Tensor]:
        return {name: full_tensor(value).cpu() for name, value in self.average.items()}

    def _save(self) -> None:
        self._write("", self._state, keep=self.settings.keep)
        self.accelerator.wait_for_everyone()

    def _write(self, place: str, content: Callable[[], dict[str, Any]], keep: int) -> None:
        """Save on the first process; every process takes part in gathering what is sharded."""
        main = self.accelerator.is_main_process
        state = content() if main or self.sharded else {}
        if main:
            save_checkpoint(self.folder / place, self.step, state, keep)

    def _resume(self) -> None:
        state = load_checkpoint(self.folder)
        if state is None:
            return
        self.step = state["step"]
        forget_after(self.folder, self.step)
        if (now := self.accelerator.num_processes) != (then := state["processes"]):
            warn(f"{now} processes go on with what {then} began: batches and their order change")
        load_model_state(self.objective, state["weights"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        own = dict(self.objective.named_parameters())
        for name, value in state["average"].items():
            self.average[name] = distribute_like(value, own[name]).clone()
        self.history = History(**state["history"])
        self.best_score = state["best_score"]
        log(f"resumed after {self.step} of {self.settings.steps} updates")

    def _select(self) -> None:
        """Take the weights that the training ends with."""
        if self.average:
            weights = model_state(self.objective)
            weights |= self._whole_average()
            load_model_state(self.objective, weights)
            return
        best = load_checkpoint(self.folder / "best")
        if best is not None:
            load_model_state(self.objective, best["weights"])
            self.history.evaluations.append({"step": best["step"], "selected": 1.0})


def _compile(objective: Objective, backend: str = "inductor") -> None:
    """Compile the parts of each layer; the layers themselves carry hooks that differ per batch."""
    for layer in transformer_layers(objective.encoder):
        for part in layer.children():
            part.compile(dynamic=True, backend=backend)
