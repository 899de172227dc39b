"""The training loop whole: batch, loss, gradient, update, schedule, evaluation, checkpoint, resume.

Beside it ``objective.py`` (loss of a batch), ``state.py`` (what is saved), ``phases.py`` (when).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from speechft import interruption
from speechft.console import log, progress_bar, warn
from speechft.data.batching import Batch, load_steps, seed_of
from speechft.devices import returning_memory
from speechft.errors import TrainingError
from speechft.finetuning.distributed import agree
from speechft.finetuning.objective import Objective, compile_layers, counted
from speechft.finetuning.optimization import Optimization
from speechft.finetuning.phases import Phase, apply_phase, head_only_updates, phase_at
from speechft.finetuning.state import (
    Clock,
    History,
    average_of,
    forget_after,
    moments_of,
    move_average,
    save_checkpoint,
    set_average,
    set_moments,
    set_weights,
    shard,
    share_checkpoint,
    take_average,
    weights_of,
)
from speechft.finetuning.trackers import Trackers
from speechft.parallel import process_group

_MAX_SKIPPED_IN_A_ROW, _MAX_SKIPPED_SHARE = 20, 0.05


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
    accelerator: Any,
    seed: int,
    rates: Mapping[str, float] | None = None,
    sharded: bool = False,
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
        accelerator: Where and in which precision to compute, and with which other processes.
        seed: Seed of dropout and of whatever else is drawn inside the objective.
        rates: Peak learning rates by name of parameter; the others have that of the settings.
        sharded: Spread the parameters over the processes as soon as the encoder learns.
        hooks: Evaluation between updates.
        stop_after: Updates after which training ends although the schedule goes on.
        ema_decay: End with the moving average of the weights since the encoder learns.
        logs: Where trackers write.
        description: Text of the progress bar.

    Raises:
        TrainingError: Too many updates were not finite.
        CheckpointError: The checkpoint in ``folder`` is of another training.
        RunError: The disk is full.
    """
    training = _Training(
        objective,
        dataset,
        settings,
        phases,
        folder,
        accelerator,
        seed,
        rates=rates or {},
        hooks=hooks or Hooks(),
        shards=sharded,
        ema_decay=ema_decay,
    )
    return training.run(description, stop_after or settings.steps, logs)


@dataclass
class _Training:
    """A training in progress; its methods stand in the order in which a step calls them."""

    objective: Objective
    dataset: Dataset[Batch]
    settings: Optimization
    phases: list[Phase]
    folder: Path
    accelerator: Any
    seed: int
    rates: Mapping[str, float] = field(default_factory=dict)
    hooks: Hooks = Hooks()
    shards: bool = False
    ema_decay: float | None = None
    history: History = field(default_factory=History)
    step: int = 0
    best_score: float = float("-inf")
    phase: Phase | None = None
    sharded: bool = False
    average: dict[str, Tensor] = field(default_factory=dict)

    def run(self, description: str, stop_after: int, logs: Path | None) -> History:
        """Make all updates that are still to be made."""
        settings, accelerator = self.settings, self.accelerator
        self.wrapped: Any = self.objective.to(accelerator.device)
        self._make_optimizer()
        if settings.compile:
            compile_layers(self.objective)
        self._resume()
        first, last = self.step * settings.accumulation, stop_after * settings.accumulation
        steps = load_steps(self.dataset, first, last, settings.workers)
        batches = returning_memory(steps, accelerator.device)
        main = logs is not None and accelerator.is_main_process
        names = settings.trackers if main else ()
        trackers = Trackers(names, logs or self.folder, self.step, settings.as_dict())
        clock = Clock(self.history)
        work = interruption.finishing("the update in progress and a checkpoint")
        with work, progress_bar(description, stop_after, self.step) as bar:
            while self.step < stop_after:
                rate = self._enter_step()
                group = [next(batches) for _ in range(settings.accumulation)]
                loss = self._update(group)
                self.step += 1
                self._average()
                self._record(group, loss)
                speed = clock.tick()
                bar.advance()
                bar.note(f"loss {loss:.3f}  lr {rate:.1e}  {speed:.0f} x real time")
                trackers.log({"loss": loss, "learning rate": rate, "x real time": speed}, self.step)
                if figures := self._evaluate(self.step == stop_after):
                    trackers.log({f"dev {name}": x for name, x in figures.items()}, self.step)
                stopped = agree(accelerator, interruption.is_asked())
                self._save(self.step == stop_after or stopped)
                if stopped and self.step < stop_after:
                    trackers.close()
                    process_group.leave()
                    interruption.stop(f"checkpoint after {self.step} of {stop_after} updates")
        trackers.close()
        self._select()
        return self.history

    def _make_optimizer(self) -> None:
        """Make one Adam of a group of parameters for every peak learning rate."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.objective.named_parameters():
            rate = self.rates.get(name, self.settings.learning_rate)
            groups.setdefault(rate, []).append(parameter)
        self.peaks = list(groups)
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters} for parameters in groups.values()],
            lr=self.settings.learning_rate,
            betas=self.settings.betas,
            eps=self.settings.epsilon,
            weight_decay=self.settings.weight_decay,  # 0 makes it plain Adam
            fused=True,
        )

    def _enter_step(self) -> float:
        """Set what learns in the next update, and how fast; returns the rate of the settings."""
        phase = phase_at(self.phases, self.step)
        if phase != self.phase:
            self._enter_phase(phase)
        factor = self.settings.schedule.factor(self.step, self.settings.steps)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        return self.settings.learning_rate * factor

    def _enter_phase(self, phase: Phase) -> None:
        """Set what is trainable; the wrapper for several processes is built anew.

        A sharded module keeps the ``requires_grad`` that it was sharded with, so it is sharded when
        the encoder begins to learn.
        """
        if self.step and phase.until > self.step == head_only_updates(self.phases):
            self.objective.eval()
            if self.hooks.unfreeze is not None:
                self.hooks.unfreeze()
        self.phase = phase
        apply_phase(phase, self.objective.encoder, self.objective.head)
        if self.shards and phase.trainable != "head":
            if not self.sharded:
                moments = moments_of(self.objective, self.optimizer)
                shard(self.objective, self.accelerator.device)
                self._make_optimizer()
                set_moments(self.objective, self.optimizer, moments)
                self.wrapped, self.sharded = self.objective, True
        elif self.accelerator.num_processes > 1:
            self.wrapped = self.accelerator.prepare_model(self.objective)

    def _update(self, group: list[Batch]) -> float:
        """Make one update; leave it out on every process where one of them is not finite.

        Args:
            group: (B, S) waveforms, or (B, T, C) downsampler outputs, and targets: batches whose
                gradients are added up.
        """
        accelerator = self.accelerator
        self.objective.train()
        if self.phase is not None and self.phase.encoder_mode == "eval":
            self.objective.encoder.eval()
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=accelerator.device)
        group = [batch.to(accelerator.device) for batch in group]
        group = counted(self.objective, group, self._draw, accelerator)
        for number, batch in enumerate(group):
            self._draw(number)
            with self._synchronised(group, number):
                with accelerator.autocast():
                    loss = self.wrapped(batch)
                scaled = loss / len(group)
                if accelerator.scaler is not None:
                    scaled = accelerator.scaler.scale(scaled)
                scaled.backward()
            total += loss.detach().float() / len(group)
        if accelerator.scaler is not None:
            accelerator.scaler.unscale_(self.optimizer)
        trained = [p for p in self.objective.parameters() if p.grad is not None]
        norm: Any = nn.utils.clip_grad_norm_(trained, self.settings.clip)
        if self.sharded:
            norm = norm.full_tensor()
        healthy = torch.isfinite(total) & torch.isfinite(norm)
        if accelerator.num_processes > 1:
            healthy = accelerator.reduce(healthy.float(), "mean") == 1.0
            total = accelerator.reduce(total, "mean")
        made = bool(healthy)
        self._step(made)
        return float(total) if made else self._skip()

    def _draw(self, number: int) -> None:
        """Seed what is drawn for a batch of the update by its place among those of all processes.

        So it is the same for one process that accumulates and for several that share the batches.
        """
        processes, own = self.accelerator.num_processes, self.accelerator.process_index
        place = (self.step * self.settings.accumulation + number) * processes + own
        torch.manual_seed(seed_of(self.seed, "step", place, 0))

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

    def _average(self) -> None:
        """Move the average of the weights; it begins when the encoder begins to learn."""
        if self.ema_decay is None or self.step <= head_only_updates(self.phases):
            return
        move_average(self.average, self.objective, self.ema_decay)

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
            # two are kept: a run that goes back needs the one before
            self._write("best", self._weights(), keep=2)
        return figures

    def _weights(self) -> dict[str, Any]:
        return {"step": self.step, "weights": weights_of(self.objective)}

    def _state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            **self._weights(),
            "optimizer": moments_of(self.objective, self.optimizer),
            "scaler": scaler.state_dict() if scaler is not None else {},
            "average": average_of(self.objective, self.average),
            "history": vars(self.history),
            "best_score": self.best_score,
            "processes": self.accelerator.num_processes,
        }

    def _save(self, last: bool) -> None:
        if self.step % self.settings.checkpoint_every == 0 or last:
            self._write("", self._state(), keep=self.settings.keep)
            self.accelerator.wait_for_everyone()

    def _write(self, place: str, state: dict[str, Any], keep: int) -> None:
        """Save on the first process; every process has taken part in gathering."""
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder / place, self.step, state, keep)

    def _resume(self) -> None:
        state = share_checkpoint(self.folder, self.objective)
        if state is None:
            return
        self.step = state["step"]
        if self.accelerator.is_main_process:
            forget_after(self.folder, self.step)
        if (now := self.accelerator.num_processes) != (then := state["processes"]):
            warn(f"{now} processes go on with what {then} began: batches and their order change")
        self.history = History(**state["history"])
        self.best_score = state["best_score"]
        set_weights(self.objective, state["weights"])
        self._enter_phase(phase_at(self.phases, self.step))
        self.average = set_average(self.objective, state)
        set_moments(self.objective, self.optimizer, state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        log(f"resumed after {self.step} of {self.settings.steps} updates")

    def _select(self) -> None:
        """Take the weights that the training ends with."""
        if self.average:
            take_average(self.average, self.objective)
            return
        best = share_checkpoint(self.folder / "best", self.objective)
        if best is not None:
            set_weights(self.objective, best["weights"])
            self.history.evaluations.append({"step": best["step"], "selected": 1.0})
