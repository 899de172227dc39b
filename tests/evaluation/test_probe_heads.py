"""Probes with recurrent and x-vector heads, and detection, find signals planted in features."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from lhotse.cut import Cut

from helpers import TIMING, cut_of
from speechft.errors import TrainingError
from speechft.evaluation import probe as probe_module
from speechft.evaluation.config import ProbeConfig
from speechft.evaluation.probe import ProbeResult, probe, probe_seeds
from speechft.evaluation.query_by_example import detect
from speechft.features.keeping import Features
from speechft.tasks import find_task
from speechft.tasks.asv import drawn_trials

STATES, DIM, PLANTED = 3, 10, 2
SPLITS = ("train", "dev", "test")


def planted(signal: np.ndarray, rng: np.random.Generator, noise: float = 0.3) -> torch.Tensor:
    """Return (N, T, D) noise with a (T, D) signal in one hidden state."""
    states = rng.standard_normal((STATES, len(signal), DIM))
    states[PLANTED] = signal + noise * states[PLANTED]
    return torch.tensor(states).half()


def run(
    task: str,
    features: Features,
    splits: dict[str, list[Cut]],
    contexts: Any = (None, None),
    **c: Any,
) -> ProbeResult:
    settings = {"extend": 0, "halve_at": (), "batch": 16, "learning_rates": (1e-2,), **c}
    parts = [splits[split] for split in SPLITS]
    return probe(find_task(task).at(TIMING), features, *parts, ProbeConfig(**settings), 0, contexts)


def test_speakers_are_verified() -> None:
    rng, features = np.random.default_rng(0), Features()
    voices = {split: rng.standard_normal((12, DIM)) for split in SPLITS}  # unseen in dev and test
    splits: dict[str, list[Cut]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for number in range(48):
            name, speaker = f"{split}-{number:02d}", number % 12
            signal = np.repeat(voices[split][speaker][None], 24 + number % 5, 0)
            features.frames[name] = planted(signal, rng, noise=0.5)
            splits[split].append(cut_of(name, speaker=f"{split}-{speaker}"))
    contexts = tuple(drawn_trials(splits[split]) for split in ("dev", "test"))
    result = run("asv", features, splits, contexts, hidden=16, units=(24,), frames=20, epochs=8)
    value = find_task("asv").figure(result.items)
    assert value < 30  # half of all trials at random
    assert len(result.items) == len(contexts[1])
    features.frames["train-00"] = torch.full_like(features.frames["train-00"], float("inf"))
    with pytest.raises(TrainingError, match="task asv: no probe reached a finite loss on dev"):
        run("asv", features, splits, contexts, hidden=16, units=(24,), frames=20, epochs=2)


def test_turns_are_found() -> None:
    rng, features = np.random.default_rng(1), Features()
    one, two = 2 * rng.standard_normal((2, DIM))
    splits: dict[str, list[Cut]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for number in range(16):
            name, frames = f"{split}-{number:02d}", 60
            first, second = int(rng.integers(20, 40)), int(rng.integers(10, 30))
            active = np.zeros((frames, 2))
            active[:first, 0] = active[second:, 1] = 1
            features.frames[name] = planted(active @ np.stack([one, two]), rng)
            turns = [["a", 0.0, first * 0.02], ["b", second * 0.02, frames * 0.02]]
            cut = cut_of(name, frames * 320, labels={"turns": json.dumps(turns)})
            splits[split].append(cut)
    result = run("sd", features, splits, units=(12,), epochs=30, batch=8, patience=30)
    value = find_task("sd").figure(result.items)
    assert value < 15
    assert result.setting[0] in (0.3, 0.4, 0.5, 0.6, 0.7)
    assert result.setting[1] in (1, 11)


def test_slots_are_filled() -> None:
    rng, features = np.random.default_rng(2), Features()
    directions = {letter: 2 * rng.standard_normal(DIM) for letter in "ABC "}
    splits: dict[str, list[Cut]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for number in range(32):
            name = f"{split}-{number:02d}"
            words = [str(rng.choice(["AB", "BA", "C"])) for _ in range(2)]
            text = " ".join(words)
            signal = np.repeat([directions[letter] for letter in f" {text} "], 6, 0)
            features.frames[name] = planted(signal, rng)
            slots = " ".join("thing" if word == "C" else "O" for word in words)
            splits[split].append(cut_of(name, text=text, labels={"slots": slots}))
    result = run("sf", features, splits, units=(24,), epochs=60, patience=60, evaluate_every=6)
    f1, cer = (measure.value(result.items) for measure in find_task("sf").measures)
    assert f1 > 60
    assert cer < 40


def test_queries_are_found_by_the_right_layer() -> None:
    rng, features = np.random.default_rng(3), Features()
    patterns = rng.standard_normal((3, 12, DIM))
    splits: dict[str, list[Cut]] = {split: [] for split in SPLITS}
    truth: list[dict[str, dict[str, bool]]] = []
    for number in range(15):
        signal = rng.standard_normal((50, DIM))
        signal[20:32] = patterns[number % 3]
        features.frames[f"doc-{number}"] = planted(signal, rng, noise=0.2)
        splits["train"].append(cut_of(f"doc-{number}"))
    for split in ("dev", "test"):
        pairs = {}
        for number in range(3):
            name = f"{split}-{number}"
            features.frames[name] = planted(patterns[number], rng, noise=0.2)
            splits[split].append(cut_of(name))
            pairs[name] = {f"doc-{n}": n % 3 == number for n in range(15)}
        truth.append(pairs)
    result = detect(
        find_task("qbe"), features, *(splits[s] for s in SPLITS), contexts=(truth[0], truth[1])
    )
    assert result.setting["layer"] == PLANTED
    assert find_task("qbe").figure(result.items) == pytest.approx(1.0)
    assert result.setting["dev_by_layer"][0] < 0.5
    assert len(result.items) == 45


def test_every_one_of_several_seeds_is_what_it_is_alone() -> None:
    rng, features = np.random.default_rng(4), Features()
    directions = rng.standard_normal((3, DIM))
    splits: dict[str, list[Cut]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for number in range(18):
            name = f"{split}-{number:02d}"
            features.pooled[name] = planted(directions[number % 3][None], rng, 1.5)[:, 0].float()
            splits[split].append(cut_of(name, labels={"emotion": str(number % 3)}))
    config = ProbeConfig(learning_rates=(3e-2,), extend=0, halve_at=(), epochs=5, batch=64)
    parts = [splits[split] for split in SPLITS]
    together = probe_seeds(find_task("er"), features, *parts, config, [7, 8])
    for seed, found in zip((7, 8), together, strict=True):
        alone = probe(find_task("er"), features, *parts, config, seed)
        assert found.layer_weights == alone.layer_weights
    assert together[0].layer_weights != together[1].layer_weights


def test_a_seed_decides_the_order_of_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, features = np.random.default_rng(4), Features()
    splits: dict[str, list[Cut]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for number in range(12):
            name = f"{split}-{number:02d}"
            features.pooled[name] = planted(rng.standard_normal((1, DIM)), rng)[:, 0].float()
            splits[split].append(cut_of(name, labels={"emotion": str(number % 3)}))
    orders: list[list[list[int]]] = []
    original = probe_module._batches

    def noting(trial: Any, data: Any, epoch: int) -> Any:
        orders.append(list(original(trial, data, epoch)))
        return orders[-1]

    monkeypatch.setattr(probe_module, "_batches", noting)
    config = ProbeConfig(learning_rates=(3e-2,), extend=0, halve_at=(), epochs=1, batch=4)
    probe_seeds(find_task("er"), features, *(splits[s] for s in SPLITS), config, [0, 1])
    for order in orders:
        assert sorted(number for group in order for number in group) == list(range(12))
    assert orders[0] != orders[1]
    rng = np.random.default_rng([0, 1])  # the order that seed 0 has always had
    lengths = np.ones(12, dtype=int)
    keys = lengths * rng.uniform(0.9, 1.1, 12) + rng.uniform(0, 1e-3, 12)
    groups = np.argsort(keys).reshape(3, 4).tolist()
    assert orders[0] == [groups[n] for n in rng.permutation(3)]


def test_halving_leaves_every_seed_its_best_rate() -> None:
    rng, features = np.random.default_rng(4), Features()
    directions = rng.standard_normal((3, DIM))
    splits: dict[str, list[Cut]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for number in range(30):
            name = f"{split}-{number:02d}"
            features.pooled[name] = planted(directions[number % 3][None], rng, 1.5)[:, 0].float()
            splits[split].append(cut_of(name, labels={"emotion": str(number % 3)}))
    config = ProbeConfig(
        learning_rates=(1e-3, 3e-2), extend=0, halve_at=(1, 2), epochs=60, patience=5, batch=64
    )
    parts = [splits[split] for split in SPLITS]
    together = probe_seeds(find_task("er"), features, *parts, config, [3, 4, 5, 6])
    assert all(result.converged for result in together)
    alone = probe(find_task("er"), features, *parts, config, 3)
    assert together[0].layer_weights == pytest.approx(alone.layer_weights, abs=1e-6)
    assert together[0].grid == alone.grid


def test_steps_limit_training_and_are_evaluated_on_the_way() -> None:
    rng, features = np.random.default_rng(5), Features()
    splits: dict[str, list[Cut]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for number in range(20):
            name = f"{split}-{number:02d}"
            features.pooled[name] = planted(rng.standard_normal((1, DIM)), rng)[:, 0].float()
            splits[split].append(cut_of(name, labels={"emotion": str(number % 2)}))
    short = run("er", features, splits, steps=7, evaluate_steps=3, batch=4, epochs=10**6)
    assert not short.converged
    assert short.epochs <= 2
