"""Probes: what they learn, how the grid is chosen, and what they say about themselves."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lhotse.cut import Cut

from helpers import TIMING, cut_of
from speechft.errors import DataError, TrainingError
from speechft.evaluation.config import ProbeConfig
from speechft.evaluation.probe import ProbeResult, probe
from speechft.evaluation.score import RATIO
from speechft.features.keeping import Features
from speechft.tasks import find_task
from speechft.tasks.left_out import LeftOut, usable_splits

STATES, DIM, PLANTED = 3, 12, 1
"""The signal lies in hidden state 1."""


def labelled(
    count: int, classes: int = 4, noise: float = 0.3, seed: int = 0
) -> tuple[Features, dict[str, list[Cut]]]:
    """Return utterances whose label is a direction of one hidden state's mean."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((classes, DIM))
    features, splits = Features(), {}
    for split in ("train", "dev", "test"):
        splits[split] = []
        for number in range(count):
            label, name = number % classes, f"{split}-{number:03d}"
            pooled = rng.standard_normal((STATES, DIM))
            pooled[PLANTED] = directions[label] + noise * pooled[PLANTED]
            features.pooled[name] = torch.tensor(pooled, dtype=torch.float32)
            splits[split].append(cut_of(name, labels={"style": f"class-{label}"}))
    return features, splits


def spoken(count: int, seed: int = 0) -> tuple[Features, dict[str, list[Cut]]]:
    """Return utterances whose frames carry their phones in one hidden state."""
    rng = np.random.default_rng(seed)
    features, splits = Features(), {}
    directions = 2 * rng.standard_normal((3, DIM))
    for split in ("train", "dev", "test"):
        splits[split] = []
        for number in range(count):
            name = f"{split}-{number:03d}"
            steps = rng.integers(1, 3, size=rng.integers(3, 7))  # no phone follows itself
            sequence = np.cumsum(steps) % 3
            frames = np.repeat(sequence, 4)
            states = rng.standard_normal((STATES, len(frames), DIM))
            states[PLANTED] = directions[frames] + 0.3 * states[PLANTED]
            features.frames[name] = torch.tensor(states).half()
            phones = [("ABC"[p], 0.08 * n, 0.08 * n + 0.08) for n, p in enumerate(sequence)]
            splits[split].append(cut_of(name, phones=phones))
    return features, splits


def run(
    task: str, features: Features, splits: dict[str, list[Cut]], seed: int = 0, **config: Any
) -> ProbeResult:
    settings: dict[str, Any] = {"learning_rates": (3e-3, 3e-2), "batch": 32, "epochs": 40}
    settings |= {"extend": 0, "halve_at": (), **config}
    parts = (splits["train"], splits["dev"], splits["test"])
    return probe(find_task(task).at(TIMING), features, *parts, ProbeConfig(**settings), seed)


def test_planted_signal_is_learned_from_its_layer() -> None:
    features, splits = labelled(80)
    result = run("style", features, splits)
    assert result.dev > 95
    assert RATIO.value(result.items) > 95
    assert [item.id for item in result.items] == [cut.id for cut in splits["test"]]
    assert sum(result.layer_weights) == pytest.approx(1.0)
    assert int(np.argmax(result.layer_weights)) == PLANTED
    assert result.learning_rate in (3e-3, 3e-2)
    assert result.grid[result.learning_rate] == result.dev == max(result.grid.values())


def test_noise_is_not_learned() -> None:
    features, splits = labelled(80)
    for name in features.pooled:
        if not name.startswith("train"):
            features.pooled[name] = torch.randn(
                STATES, DIM, generator=torch.Generator().manual_seed(len(name))
            )
    assert RATIO.value(run("style", features, splits, epochs=10).items) < 60


@pytest.mark.parametrize(("task", "best"), [("pr", 10.0), ("pc", 95.0)])
def test_planted_phones_are_learned(task: str, best: float) -> None:
    features, splits = spoken(48)
    result = run(task, features, splits, learning_rates=(3e-2,), batch=16, epochs=25)
    value = RATIO.value(result.items)
    if find_task(task).higher_is_better:
        assert value > best
        assert result.dev > best
    else:
        assert value < best
        assert result.dev < best


def test_same_seed_gives_the_same_result() -> None:
    features, splits = labelled(24)
    first, second = (run("style", features, splits, epochs=6) for _ in range(2))
    assert first == second
    assert first.layer_weights != run("style", features, splits, seed=1, epochs=6).layer_weights


def test_random_state_outside_does_not_matter() -> None:
    features, splits = labelled(24)
    first = run("style", features, splits, epochs=4)
    torch.manual_seed(999)
    assert run("style", features, splits, epochs=4) == first


def test_best_rate_at_the_edge_extends_the_grid() -> None:
    features, splits = labelled(40)
    low = {"learning_rates": (1e-6, 1e-5), "epochs": 4}
    assert sorted(run("style", features, splits, **low).grid) == [1e-6, 1e-5]
    extended = run("style", features, splits, **low, extend=2)
    assert sorted(extended.grid) == pytest.approx([1e-6, 1e-5, 1e-5 * 10**0.5, 1e-4])
    high = {"learning_rates": (30.0, 100.0), "epochs": 4, "extend": 1}
    rates = sorted(run("style", features, splits, **high).grid)
    assert len(rates) == 3
    assert rates[0] == pytest.approx(30.0 / 10**0.5) or rates[-1] == pytest.approx(1000 / 10**0.5)


def test_best_rate_inside_the_grid_leaves_it_alone() -> None:
    features, splits = labelled(40, noise=3.0)
    rates = (1e-7, 1e-2, 1e4)
    result = run("style", features, splits, learning_rates=rates, epochs=8, extend=2)
    assert result.learning_rate == 1e-2
    assert sorted(result.grid) == list(rates)


def test_convergence_is_reported_honestly() -> None:
    features, splits = labelled(40)
    short = run("style", features, splits, learning_rates=(1e-4,), epochs=5, patience=5)
    assert not short.converged
    assert short.epochs == 5
    features, splits = labelled(40, noise=4.0)  # overfits soon
    long = run("style", features, splits, learning_rates=(3e-2,), epochs=200, patience=5)
    assert long.converged
    assert long.epochs <= 195


def test_halving_keeps_the_best() -> None:
    features, splits = labelled(40)
    rates = (1e-7, 1e-6, 1e-5, 1e-2)
    result = run("style", features, splits, learning_rates=rates, epochs=12, halve_at=(1, 2))
    assert result.learning_rate == 1e-2
    assert result.grid.keys() == set(rates)
    alone = run("style", features, splits, learning_rates=(1e-2,), epochs=12)
    assert (result.dev, result.epochs) == (alone.dev, alone.epochs)
    assert result.layer_weights == pytest.approx(alone.layer_weights, abs=1e-5)


def test_without_a_test_split_there_are_no_items() -> None:
    features, splits = labelled(24)
    assert run("style", features, {**splits, "test": []}, epochs=2).items == []


def test_cuts_that_ctc_cannot_align_are_left_out_of_training() -> None:
    features, splits = spoken(8)
    long = cut_of("long", phones=[("ABC"[n % 3], n / 10, n / 10 + 0.1) for n in range(30)])
    features.frames["long"] = torch.zeros(STATES, 5, DIM).half()
    expected = run("pr", features, splits, epochs=2)
    with_long = {**splits, "train": [*splits["train"], long]}
    parts = list(with_long.values())
    frames = partial(map, lambda cut: features.frames[cut.id].shape[1])
    left_out = LeftOut("pr", 0.2, "evaluation.max_left_out")
    kept, _ = usable_splits(find_task("pr"), list(splits), parts, frames, left_out)
    assert left_out.counts() == {"target longer than the frames": 1}
    usable = dict(zip(splits, kept, strict=True))
    assert run("pr", features, usable, epochs=2) == expected
    kept_by_s3prl = run("pr", features, with_long, epochs=2)
    assert math.isfinite(kept_by_s3prl.dev), "it counts as zero in its batch"
    with pytest.raises(DataError, match="task pr: the train or dev split is empty"):
        run("pr", features, {**splits, "dev": []}, epochs=2)
    parts[0] = [long]
    with pytest.raises(DataError, match="task pr cannot use any of the 1 items of split train"):
        usable_splits(find_task("pr"), list(splits), parts, frames, LeftOut("pr", 1.0, ""))


def test_empty_dev_split_is_refused() -> None:
    features, splits = labelled(24)
    with pytest.raises(DataError, match="train or dev split is empty"):
        run("style", features, {**splits, "dev": []})


def test_features_that_are_not_finite_are_refused() -> None:
    features, splits = labelled(24)
    broken = Features({name: tensor * float("nan") for name, tensor in features.pooled.items()})
    with pytest.raises(TrainingError, match="task style: no probe reached a finite loss"):
        run("style", broken, splits, epochs=3)


def test_one_diverging_rate_does_not_harm_the_others() -> None:
    features, splits = labelled(40)
    expected = run("style", features, splits, learning_rates=(1e-2,), epochs=6)
    both = run("style", features, splits, learning_rates=(1e-2, 1e38), epochs=6)
    assert both.learning_rate == 1e-2
    assert both.dev == expected.dev
