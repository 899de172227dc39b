"""Train and test the probes of one task on the features of one frozen encoder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from speechft.config import Config
from speechft.data.labels import Vocabulary
from speechft.errors import DataError, TrainingError
from speechft.evaluation.grid import Probe, ProbeGrid
from speechft.features.extract import Features
from speechft.tasks.base import Item, Task, figure

if TYPE_CHECKING:
    from lhotse.cut import Cut


class ProbeConfig(Config):
    """How a probe is trained."""

    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """The grid; the best on dev is taken."""
    extend: int = 2
    """How often a best value at the edge of the grid may extend it by a factor of about 3."""
    hidden: int | None = None
    """Size of the projection before the last layer (SUPERB: 256); null leaves it out."""
    batch: int = 64
    """Utterances in a batch."""
    epochs: int = 60
    """Most passes over the training split."""
    halve_at: tuple[int, ...] = (4, 8)
    """Epochs after which the worse half of the grid on dev is given up (successive halving)."""
    patience: int = 8
    """Evaluations without improvement on dev after which a probe has converged."""
    evaluate_every: int = 1
    """Epochs between evaluations on dev."""
    clip: float = 1.0
    """Largest gradient norm."""


@dataclass
class ProbeResult:
    """What the best probe of a grid does."""

    dev: float
    """The metric on dev."""
    items: list[Item]
    """Items of the test split, sorted by id; empty if there was none."""
    learning_rate: float
    layer_weights: list[float]
    epochs: int
    converged: bool
    """Whether dev had stopped improving before the last epoch."""
    grid: dict[float, float] = field(default_factory=dict)
    """Metric on dev by learning rate."""


@dataclass
class _Best:
    score: tuple[float, float] = (-math.inf, -math.inf)
    dev: float = math.nan
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    stale: int = 0


@dataclass(frozen=True)
class _Data:
    """A split's features and targets."""

    cuts: list[Cut]
    states: list[Tensor]
    """(N, T, D) of each cut; T = 1 where they are pooled."""
    targets: list[Tensor]

    @cached_property
    def _pooled(self) -> Tensor | None:
        """All states in one (N, B, 1, D) tensor, where they are pooled."""
        if any(state.shape[1] != 1 for state in self.states):
            return None
        return torch.stack([state.float() for state in self.states], dim=1)

    def batch(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return padded (N, B, T, D) float32, (B,) lengths and targets."""
        targets = [self.targets[n] for n in chosen]
        if self._pooled is not None:
            return self._pooled[:, chosen], torch.ones(len(chosen), dtype=torch.int64), targets
        rows = [self.states[n] for n in chosen]
        lengths = torch.tensor([row.shape[1] for row in rows])
        count, _, dim = rows[0].shape
        padded = torch.zeros(count, len(rows), int(lengths.max()), dim)
        for number, row in enumerate(rows):
            padded[:, number, : row.shape[1]] = row
        return padded, lengths, targets


def probe(
    task: Task,
    features: Features,
    train: Sequence[Cut],
    dev: Sequence[Cut],
    test: Sequence[Cut],
    config: ProbeConfig,
    seed: int,
) -> ProbeResult:
    """Train a grid of probes, choose on dev, test the chosen one once.

    Args:
        task: What to probe for.
        features: Of all cuts; frames for tasks that need them.
        train: Cuts to train on; those that CTC cannot align are left out.
        dev: Cuts to choose on.
        test: Cuts to report; may be empty.
        config: Grid and limits.
        seed: Seed of initial weights and order.

    Raises:
        DataError: A split lacks labels.
        TrainingError: Every probe diverged.
    """
    vocabulary = task.vocabulary(train)
    data = _data(task, features, train, vocabulary, training=True)
    dev_data = _data(task, features, dev, vocabulary)
    if not data.cuts or not dev_data.cuts:
        raise DataError(f"task {task.name}: the train or dev split is empty")
    rates = list(config.learning_rates)
    found: dict[float, _Best] = {}
    for extension in range(config.extend + 1):
        new = [rate for rate in rates if rate not in found]
        found.update(_train_grid(task, vocabulary, data, dev_data, new, config, seed))
        best_rate = max(sorted(found), key=lambda rate: found[rate].score)
        if extension == config.extend or best_rate not in (min(found), max(found)):
            break
        rates = [best_rate * 10**0.5 if best_rate == max(found) else best_rate / 10**0.5]
    best = found[best_rate]
    if not best.weights:
        raise TrainingError(
            f"task {task.name}: no probe reached a finite loss on dev",
            hint="look for NaN in the encoder's features, or lower the learning rates",
        )
    grid = ProbeGrid(_maker(task, vocabulary, data, config), [best_rate], seed=seed)
    grid.restore(0, best.weights)
    test_data = _data(task, features, test, vocabulary)
    items = _evaluate(task, vocabulary, grid, test_data)[0][0] if test else []
    return ProbeResult(
        dev=best.dev,
        items=sorted(items, key=lambda item: item.id),
        learning_rate=best_rate,
        layer_weights=best.weights["featurizer.weights"].softmax(0).tolist(),
        epochs=best.epoch,
        converged=best.stale >= config.patience,
        grid={rate: found[rate].dev for rate in sorted(found)},
    )


def _data(
    task: Task,
    features: Features,
    cuts: Sequence[Cut],
    vocabulary: Vocabulary,
    training: bool = False,
) -> _Data:
    kept: list[Cut] = []
    states: list[Tensor] = []
    targets: list[Tensor] = []
    for cut in cuts:
        if task.level == "frame":
            state = features.frames[cut.id]
        else:
            state = features.pooled[cut.id][:, None]
        if training and not task.usable(cut, state.shape[1]):
            continue
        kept.append(cut)
        states.append(state)
        targets.append(task.target(cut, vocabulary, state.shape[1]))
    return _Data(kept, states, targets)


def _maker(task: Task, vocabulary: Vocabulary, data: _Data, config: ProbeConfig) -> Any:
    states, _, dim = data.states[0].shape
    return lambda: Probe(states, task.head(dim, vocabulary, config.hidden))


def _batches(data: _Data, size: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """Yield batches of similar length in random order."""
    rng = np.random.default_rng([seed, epoch])
    lengths = np.array([state.shape[1] for state in data.states])
    order = np.argsort(
        lengths * rng.uniform(0.9, 1.1, len(lengths)) + rng.uniform(0, 1e-3, len(lengths))
    )
    groups = [order[first : first + size].tolist() for first in range(0, len(order), size)]
    for number in rng.permutation(len(groups)):
        yield groups[number]


def _train_grid(
    task: Task,
    vocabulary: Vocabulary,
    data: _Data,
    dev: _Data,
    rates: Sequence[float],
    config: ProbeConfig,
    seed: int,
) -> dict[float, _Best]:
    """Train one probe for each learning rate until none improves on dev any more."""
    grid = ProbeGrid(_maker(task, vocabulary, data, config), rates, clip=config.clip, seed=seed)
    best = [_Best() for _ in rates]
    running = list(range(len(rates)))
    for epoch in range(1, config.epochs + 1):
        for chosen in _batches(data, config.batch, seed, epoch):
            states, lengths, targets = data.batch(chosen)
            losses = _losses(task, vocabulary, grid, states, lengths, targets)
            grid.update(losses.mean(1))
        if epoch % config.evaluate_every:
            continue
        evaluated = _evaluate(task, vocabulary, grid, dev)
        for place, (number, (items, loss)) in enumerate(zip(running, evaluated, strict=True)):
            value = figure(items)
            score = (value if task.higher_is_better else -value, -loss)
            if math.isfinite(loss) and score > best[number].score:
                best[number] = _Best(score, value, epoch, grid.snapshot(place))
            else:
                best[number].stale += 1
        if all(best[number].stale >= config.patience for number in running):
            break
        if epoch in config.halve_at and len(running) > 1:
            leaders = sorted(running, key=lambda number: best[number].score, reverse=True)
            kept = sorted(leaders[: math.ceil(len(running) / 2)])
            grid.keep([running.index(number) for number in kept])
            running = kept
    return dict(zip(rates, best, strict=True))


def _losses(
    task: Task,
    vocabulary: Vocabulary,
    grid: ProbeGrid,
    states: Tensor,
    lengths: Tensor,
    targets: list[Tensor],
) -> Tensor:
    """Return the (G, B) losses of all probes; the task sees them as one batch of G x B."""
    logits = grid.logits(states, lengths)
    probes, batch = logits.shape[:2]
    losses = task.losses(logits.flatten(0, 1), lengths.repeat(probes), targets * probes, vocabulary)
    return losses.view(probes, batch)


@torch.no_grad()
def _evaluate(
    task: Task, vocabulary: Vocabulary, grid: ProbeGrid, data: _Data, size: int = 128
) -> list[tuple[list[Item], float]]:
    """Return the items and the mean loss of every probe on a split."""
    results: list[list[Item]] = []
    sums: Tensor | float = 0.0
    order = sorted(range(len(data.cuts)), key=lambda n: data.states[n].shape[1])
    for first in range(0, len(order), size):
        chosen = order[first : first + size]
        states, lengths, targets = data.batch(chosen)
        logits = grid.logits(states, lengths)
        probes = len(logits)
        flat, repeated = logits.flatten(0, 1), lengths.repeat(probes)
        losses = task.losses(flat, repeated, targets * probes, vocabulary)
        sums = sums + losses.view(probes, -1).sum(1)
        predictions = task.predict(flat, repeated, vocabulary)
        results = results or [[] for _ in range(probes)]
        for number in range(probes):
            part = predictions[number * len(chosen) : (number + 1) * len(chosen)]
            results[number] += [
                task.score(data.cuts[n], prediction, data.targets[n], vocabulary)
                for n, prediction in zip(chosen, part, strict=True)
            ]
    assert isinstance(sums, Tensor)
    return list(zip(results, (sums / len(order)).tolist(), strict=True))
