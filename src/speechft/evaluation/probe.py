"""Train and test the probes of one task on the features of one frozen encoder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from speechft.console import progress_bar
from speechft.data.augment import SpecAugment
from speechft.data.labels import Vocabulary
from speechft.errors import DataError, TrainingError
from speechft.evaluation.config import ProbeConfig
from speechft.evaluation.crops import Variants, crop_variants
from speechft.evaluation.grid import Grid, Probe, make_grid
from speechft.evaluation.split_data import (
    SplitData,
    evaluation_batches,
    random_windows,
)
from speechft.features.keeping import Features
from speechft.tasks.base import Item, Task

if TYPE_CHECKING:
    from lhotse.cut import Cut


@dataclass
class ProbeResult:
    """What the best probe of a grid does."""

    dev: float
    """The metric on dev."""
    items: list[Item]
    """Items of the test split, sorted by id; empty if there was none."""
    learning_rate: float | None
    layer_weights: list[float]
    epochs: int
    converged: bool
    """Whether dev had stopped improving before the last epoch."""
    grid: dict[float, float] = field(default_factory=dict)
    """Metric on dev by learning rate."""
    dev_items: list[Item] = field(default_factory=list)
    """Items of the dev split."""
    setting: Any = None
    """What `Task.tune` chose on dev."""
    vocabulary: Vocabulary = field(default_factory=lambda: Vocabulary(()))
    dim: int = 0
    """D of the features."""
    weights: dict[str, Tensor] = field(default_factory=dict, compare=False)
    """Of the chosen probe."""
    layers: dict[int, ProbeResult] = field(default_factory=dict)
    """The same of probes on single hidden states, by number."""


Place = tuple[int | None, float]
"""A probe of a grid: the hidden state that it sees alone (None: the weighted sum of all), and its
learning rate."""


@dataclass
class _Best:
    score: tuple[float, float] = (-math.inf, -math.inf)
    dev: float = math.nan
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    stale: int = 0


@dataclass(frozen=True)
class _Trial:
    """What is the same for all grids of one task."""

    task: Task
    final: Task
    """The same as it decodes the chosen probe."""
    vocabulary: Vocabulary
    config: ProbeConfig
    seed: int
    """Of initial weights, dropout, windows and the order of batches."""
    device: torch.device | None
    variants: Variants | None = None
    """Variants of training cuts, where they are cropped."""
    layers: tuple[int | None, ...] = (None,)
    """What probes see: None is the weighted sum, a number that hidden state alone."""

    def grid(self, data: SplitData, places: Sequence[Place]) -> Grid:
        states, dim = data.shape
        head = partial(
            self.task.probe_head,
            dim,
            self.vocabulary,
            hidden=self.config.hidden,
            units=self.config.units,
        )
        augment = SpecAugment() if self.config.spec_augment else None
        return make_grid(
            lambda: Probe(states, head(), augment),
            [rate for _, rate in places],
            clip=self.config.clip,
            seeds=[self.seed] * len(places),
            layers=[layer for layer, _ in places],
            weight_decay=self.config.weight_decay,
            device=self.device,
        )


def probe(
    task: Task,
    features: Features,
    train: Sequence[Cut],
    dev: Sequence[Cut],
    test: Sequence[Cut],
    config: ProbeConfig,
    seed: int,
    contexts: tuple[Any, Any] = (None, None),
    device: torch.device | None = None,
) -> ProbeResult:
    """Train a grid of probes, choose on dev, test the chosen one once.

    Args:
        task: What to probe for.
        features: Of all cuts; frames for tasks that need them.
        train: Cuts to train on; what CTC cannot align counts as zero, as in s3prl.
        dev: Cuts to choose on.
        test: Cuts to report; may be empty.
        config: Grid and limits.
        seed: Seed of initial weights and order.
        contexts: What scoring dev and test needs beside the cuts, from `Task.context`.
        device: Where to train; None for the CPU.

    Raises:
        DataError: A split lacks labels.
        TrainingError: Every probe diverged.
    """
    [result] = probe_seeds(task, features, train, dev, test, config, [seed], contexts, device)
    return result


def probe_seeds(
    task: Task,
    features: Features,
    train: Sequence[Cut],
    dev: Sequence[Cut],
    test: Sequence[Cut],
    config: ProbeConfig,
    seeds: Sequence[int],
    contexts: tuple[Any, Any] = (None, None),
    device: torch.device | None = None,
    layers: Sequence[int] = (),
) -> list[ProbeResult]:
    """Train a grid for each of several seeds; see `probe`.

    A seed decides initial weights, dropout and the batches with their order, so that each is
    trained as it would be alone; features are read once where memory allows.

    Probes on single hidden states, ``layers``, are trained on the same batches beside those on the
    weighted sum. Learning rate, halving and end are each layer's own, so that none depends on what
    is trained beside it. Which hidden states say what: Pasad et al., ASRU 2021 (arXiv 2107.04734).
    """
    vocabulary = task.vocabulary(train)
    data = SplitData(task, features, train, vocabulary)
    dev_data = SplitData(task, features, dev, vocabulary, context=contexts[0])
    if not data.cuts or not dev_data.cuts:
        raise DataError(f"task {task.name}: the train or dev split is empty")
    final = task.final(vocabulary)
    test_data = SplitData(task, features, test, vocabulary, context=contexts[1])
    variants, results = crop_variants(data.cuts), []
    for seed in seeds:
        trial = _Trial(task, final, vocabulary, config, seed, device, variants, (None, *layers))
        found = _search(trial, data, dev_data)
        splits = (data, dev_data, test_data)
        by_layer = {number: _result(trial, *splits, found, number) for number in layers}
        results.append(replace(_result(trial, *splits, found, None), layers=by_layer))
    return results


def _search(trial: _Trial, data: SplitData, dev: SplitData) -> dict[Place, _Best]:
    """Train the grid, and beyond its edge while the best learning rate of a layer lies there."""
    rates = trial.config.learning_rates
    found = _train_grid(trial, data, dev, [(n, rate) for n in trial.layers for rate in rates])
    for _ in range(trial.config.extend):
        edges = {number: _beyond(_of_layer(found, number)) for number in trial.layers}
        beyond = [(number, rate) for number, rate in edges.items() if rate is not None]
        if not beyond:
            break
        found |= _train_grid(trial, data, dev, beyond)
    return found


def _of_layer(found: Mapping[Place, _Best], layer: int | None) -> dict[float, _Best]:
    return {rate: best for (number, rate), best in found.items() if number == layer}


def _best_rate(found: Mapping[float, _Best]) -> float:
    return max(sorted(found), key=lambda rate: found[rate].score)


def _beyond(found: Mapping[float, _Best]) -> float | None:
    """Return the next learning rate beyond the edge that the best one lies at, if it does."""
    best = _best_rate(found)
    if best not in (min(found), max(found)):
        return None
    return best * 10**0.5 if best == max(found) else best / 10**0.5


def _result(
    trial: _Trial,
    data: SplitData,
    dev: SplitData,
    test: SplitData,
    every: Mapping[Place, _Best],
    layer: int | None,
) -> ProbeResult:
    """Tune the decision of the best probe of a layer on dev, and test it."""
    trial = replace(trial, task=trial.final)
    task, vocabulary = trial.task, trial.vocabulary
    found = _of_layer(every, layer)
    rate = _best_rate(found)
    best = found[rate]
    if not best.weights:
        raise TrainingError(
            f"task {task.name}: no probe reached a finite loss on dev",
            hint="look for NaN in the encoder's features, or lower the learning rates",
        )
    grid = trial.grid(data, [(layer, rate)])
    grid.restore(0, best.weights)
    predictions = _predictions(trial, grid, dev)[0][0]
    setting = task.tune(dev.cuts, predictions, dev.targets, dev.context)
    dev_items = task.items(dev.cuts, predictions, dev.targets, vocabulary, dev.context, setting)
    items: list[Item] = []
    if test.cuts:
        tested = _predictions(trial, grid, test)[0][0]
        items = task.items(test.cuts, tested, test.targets, vocabulary, test.context, setting)
    weights = {name: tensor.cpu() for name, tensor in best.weights.items()}
    return ProbeResult(
        dev=task.figure(dev_items),
        items=sorted(items, key=lambda item: item.id),
        learning_rate=rate,
        layer_weights=[]
        if layer is not None
        else weights["featurizer.weights"].softmax(0).tolist(),
        epochs=best.epoch,
        converged=best.stale >= trial.config.patience,
        grid={rate: found[rate].dev for rate in sorted(found)},
        dev_items=sorted(dev_items, key=lambda item: item.id),
        setting=setting,
        vocabulary=vocabulary,
        dim=data.shape[1],
        weights=weights,
    )


def _batches(trial: _Trial, data: SplitData, epoch: int) -> Iterator[list[int]]:
    """Yield batches of similar length in random order."""
    rng = np.random.default_rng([trial.seed, epoch])
    numbers = np.arange(len(data.cuts))
    if trial.variants is not None:
        numbers = trial.variants.of_epoch(epoch)
    if trial.task.balanced:
        classes = np.array([int(data.targets[int(n)][0]) for n in numbers])
        weights = 1.0 / np.bincount(classes)[classes]
        numbers = rng.choice(numbers, len(numbers), p=weights / weights.sum())
    lengths = data.lengths[numbers]
    order = numbers[
        np.argsort(
            lengths * rng.uniform(0.9, 1.1, len(lengths)) + rng.uniform(0, 1e-3, len(lengths))
        )
    ]
    size = trial.config.batch
    for number in rng.permutation(-(-len(order) // size)).tolist():
        yield order[size * number : size * (number + 1)].tolist()


def _train_grid(
    trial: _Trial, data: SplitData, dev: SplitData, places: Sequence[Place]
) -> dict[Place, _Best]:
    """Train probes side by side until none of a layer improves on dev any more."""
    config, grid = trial.config, trial.grid(data, places)
    best = [_Best() for _ in places]
    running = list(range(len(places)))
    step = epoch = 0
    title = f"{len(places)} probes of {trial.task.name}"
    with progress_bar(title, config.steps or config.epochs) as bar:
        while epoch < config.epochs or config.steps is not None:
            epoch += 1
            grid.train(True)
            for chosen in _batches(trial, data, epoch):
                _update(trial, grid, data, chosen, step)
                step += 1
                bar.advance(config.steps is not None)
                if config.evaluate_steps is not None and step % config.evaluate_steps == 0:
                    _judge(trial, grid, dev, best, running, epoch)
                    grid.train(True)
                if step == config.steps:
                    break
            bar.advance(config.steps is None)
            if config.evaluate_steps is None and epoch % config.evaluate_every == 0:
                _judge(trial, grid, dev, best, running, epoch)
            kept = _unfinished(places, best, running, config.patience)
            if step == config.steps or not kept:
                break
            if epoch in config.halve_at:
                kept = _halved(places, best, kept)
            if kept != running:
                grid.keep([running.index(number) for number in kept])
                running = kept
    if config.evaluate_steps is not None and step % config.evaluate_steps:
        _judge(trial, grid, dev, best, running, epoch)
    return dict(zip(places, best, strict=True))


def _unfinished(
    places: Sequence[Place], best: Sequence[_Best], running: Sequence[int], patience: int
) -> list[int]:
    """Return the running probes of the layers of which one may still improve."""
    open_layers = {places[number][0] for number in running if best[number].stale < patience}
    return [number for number in running if places[number][0] in open_layers]


def _halved(places: Sequence[Place], best: Sequence[_Best], running: Sequence[int]) -> list[int]:
    """Give up the worse half of the running probes of each layer; return the numbers of others."""
    kept: list[int] = []
    for layer in dict.fromkeys(places[number][0] for number in running):
        group = [number for number in running if places[number][0] == layer]
        ranked = sorted(group, key=lambda number: best[number].score, reverse=True)
        kept += ranked[: math.ceil(len(group) / 2)]
    return sorted(kept)


def _update(trial: _Trial, grid: Grid, data: SplitData, chosen: Sequence[int], step: int) -> None:
    limit, seed = trial.config.frames, trial.seed
    windows = [] if limit is None else random_windows(data, chosen, limit, seed, step)
    states, lengths, targets = data.batch(chosen, trial.device, windows)
    logits = grid.logits(states, lengths)
    grid.update(_losses(trial, logits, lengths, targets).mean(1))


def _judge(
    trial: _Trial, grid: Grid, dev: SplitData, best: list[_Best], running: Sequence[int], epoch: int
) -> None:
    """Evaluate all running probes on dev and remember each one's best weights."""
    grid.train(False)
    task = trial.task
    for place, (number, (predictions, loss)) in enumerate(
        zip(running, _predictions(trial, grid, dev), strict=True)
    ):
        items = task.items(dev.cuts, predictions, dev.targets, trial.vocabulary, dev.context)
        value = task.figure(items)
        score = (value if task.higher_is_better else -value, -loss)
        if math.isfinite(loss) and math.isfinite(value) and score > best[number].score:
            best[number] = _Best(score, value, epoch, grid.snapshot(place))
        else:
            best[number].stale += 1


def _losses(trial: _Trial, logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
    """Return the (G, B) losses of all probes; the task sees them as one batch of G x B."""
    probes, batch = logits.shape[:2]
    flat, repeated = logits.flatten(0, 1), lengths.repeat(probes)
    losses = trial.task.losses(flat, repeated, targets * probes, trial.vocabulary)
    return losses.view(probes, batch)


@torch.no_grad()
def _predictions(trial: _Trial, grid: Grid, data: SplitData) -> list[tuple[list[Any], float]]:
    """Return every probe's predictions, in the order of the cuts, and mean loss on a split."""
    grid.train(False)
    order = sorted(range(len(data.cuts)), key=lambda n: data.lengths[n])
    results: list[list[Any]] = []
    sums: Tensor | float = 0.0
    for chosen in evaluation_batches(data, order):
        states, lengths, targets = data.batch(chosen, trial.device)
        logits = grid.logits(states, lengths)
        sums = sums + _losses(trial, logits, lengths, targets).sum(1)
        results = results or [[None] * len(order) for _ in range(len(logits))]
        for row, result in zip(logits, results, strict=True):
            predictions = trial.task.predict(row, lengths, trial.vocabulary)
            for number, prediction in zip(chosen, predictions, strict=True):
                result[number] = prediction
    assert isinstance(sums, Tensor)
    return list(zip(results, (sums / len(order)).tolist(), strict=True))
