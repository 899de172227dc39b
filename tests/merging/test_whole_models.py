"""Methods over whole models against the peers' definitions, written down in float64 or run."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from peft.utils import merge_utils

from speechft.merging import merge

SHAPES = {
    "feature_projection.projection.weight": (9, 7),
    "encoder.layers.0.attention.q_proj.weight": (11, 11),
    "encoder.layers.0.layer_norm.weight": (11,),
    "encoder.layers.1.attention.q_proj.weight": (11, 11),
    "encoder.layers.2.feed_forward.output_dense.bias": (11,),
    "encoder.layer_norm.weight": (11,),
}
State = dict[str, torch.Tensor]


def models(count: int, seed: int = 0, distance: float = 0.1) -> tuple[State, list[State]]:
    """A base and models tuned from it: task vectors of different sizes with common parts."""
    generator = torch.Generator().manual_seed(seed)
    base = {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}
    common = {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}
    tuned = [
        {
            n: w
            + distance * (i + 1) * (0.5 * common[n] + torch.randn(w.shape, generator=generator))
            for n, w in base.items()
        }
        for i in range(count)
    ]
    return base, tuned


def vectors(base: State, tuned: list[State]) -> list[dict[str, np.ndarray]]:
    """Task vectors as float32 differences, held in float64."""
    return [{n: (t[n] - base[n]).double().numpy() for n in base} for t in tuned]


def check(found: State, base: State, expected: dict[str, np.ndarray], alpha: float) -> None:
    for name, vector in expected.items():
        value = base[name].double().numpy() + alpha * vector
        np.testing.assert_allclose(found[name].double().numpy(), value, rtol=0, atol=3e-6)


@pytest.mark.parametrize("density", [0.05, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_ties_is_the_reference_over_the_flattened_model(count: int, density: float) -> None:
    """Yadav et al.'s notebook: one threshold, elected signs, zero sums to the majority, mean."""
    base, tuned = models(count, seed=count)
    if count == 2:  # opposite entries elect no sign of their own
        tuned[1] = {n: base[n] - (tuned[0][n] - base[n]) for n in base}
    flat = np.stack([np.concatenate([v[n].ravel() for n in base]) for v in vectors(base, tuned)])
    size = flat.shape[1]
    rank = size - int(size * density)
    kept = np.ones_like(flat, bool)
    if rank:
        limit = np.sort(np.abs(flat), axis=1)[:, rank - 1 : rank]
        kept = np.abs(flat) >= limit
    trimmed = np.where(kept, flat, 0)
    signs = np.sign(trimmed.sum(0))
    signs[signs == 0] = np.sign(signs.sum())
    agrees = (np.sign(trimmed) == signs) & (trimmed != 0)
    mean = (trimmed * agrees).sum(0) / np.maximum(agrees.sum(0), 1)
    ends = np.cumsum([base[n].numel() for n in base])[:-1]
    expected = {
        n: part.reshape(base[n].shape) for n, part in zip(base, np.split(mean, ends), strict=True)
    }
    found = merge(base, tuned, alpha=0.4, method="ties", density=density)
    check(found, base, expected, 0.4)


@pytest.mark.parametrize(("ours", "pefts"), [("unweighted", "total"), ("frequency", "frequency")])
@pytest.mark.parametrize("density", [0.3, 0.8])
def test_ties_per_tensor_is_pefts(ours: str, pefts: Any, density: float) -> None:
    base, tuned = models(3, seed=7)
    weights = [0.5, 1.5, 2.0]
    deltas = [{n: t[n] - base[n] for n in base} for t in tuned]
    found = merge(
        base,
        tuned,
        alpha=0.6,
        method="ties",
        trim="tensor",
        density=density,
        weights=weights,
        election=ours,
    )
    for name in base:
        merged = merge_utils.ties(
            [d[name] for d in deltas], torch.tensor(weights), density, majority_sign_method=pefts
        )
        torch.testing.assert_close(found[name], base[name] + 0.6 * merged, rtol=0, atol=3e-6)


def mergekit_consensus(
    parts: list[np.ndarray], weights: list[float], normalize: bool
) -> np.ndarray:
    """Return mergekit's generalised task arithmetic with consensus by weighted sum."""
    weighted = np.stack([w * p for w, p in zip(weights, parts, strict=True)])
    majority = np.where(weighted.sum(0) >= 0, 1.0, -1.0)
    mask = np.sign(weighted) == majority
    total = (weighted * mask).sum(0)
    if not normalize:
        return total
    shape = (-1,) + (1,) * (weighted.ndim - 1)
    divisor = (np.reshape(weights, shape) * mask).sum(0)
    return total / np.where(divisor == 0, 1, divisor)


@pytest.mark.parametrize("weights", [[0.7, 0.2, 1.1], [0.7, -0.4, 1.1]])
def test_ties_with_the_other_choices_is_mergekits(weights: list[float]) -> None:
    base, tuned = models(3, seed=8)
    density = 0.4
    taus = vectors(base, tuned)
    expected = {}
    for name in base:
        parts = []
        for tau in taus:
            flat = tau[name].ravel()
            kept = np.zeros_like(flat)
            top = np.argsort(-np.abs(flat))[: int(density * flat.size)]
            kept[top] = flat[top]
            parts.append(kept.reshape(tau[name].shape))
        expected[name] = mergekit_consensus(parts, weights, normalize=True)
    options = {"trim": "tensor", "election": "weighted", "density": density, "weights": weights}
    check(merge(base, tuned, alpha=0.5, method="ties", **options), base, expected, 0.5)


def dropped(base: State, tuned: list[State], **options: Any) -> list[dict[str, np.ndarray]]:
    """What is left of each task vector, isolated by weights of one and zero."""
    result = []
    for index in range(len(tuned)):
        weights = [float(i == index) for i in range(len(tuned))]
        merged = merge(base, tuned, alpha=1, method="dare-linear", weights=weights, **options)
        result.append({n: (merged[n] - base[n]).double().numpy() for n in base})
    return result


def test_dare_ties_with_the_other_choices_is_mergekits() -> None:
    base, tuned = models(2, seed=9)
    weights = [0.6, 0.9]
    parts = dropped(base, tuned, density=0.5, seed=4, rescale="none")
    scaled = []
    for part, tau in zip(parts, vectors(base, tuned), strict=True):
        sums = {n: np.abs(part[n]).sum() for n in base}
        scaled.append(
            {n: part[n] * np.abs(tau[n]).sum() / sums[n] if sums[n] else part[n] for n in base}
        )
    expected = {n: mergekit_consensus([s[n] for s in scaled], weights, False) for n in base}
    options = {"election": "weighted", "divisor": "none", "rescale": "l1", "weights": weights}
    found = merge(base, tuned, alpha=0.5, method="dare-ties", density=0.5, seed=4, **options)
    check(found, base, expected, 0.5)


def test_dare_drops_whole_entries_at_the_stated_rate_and_by_the_seed() -> None:
    base, tuned = models(2, seed=10)
    taus = vectors(base, tuned)
    for density, seed in itertools.product((0.2, 0.7), (0, 1)):
        left = dropped(base, tuned, density=density, seed=seed)
        kept = total = 0
        for part, tau in zip(left, taus, strict=True):
            for name in base:
                chosen = np.abs(part[name]) > 1e-6
                np.testing.assert_allclose(
                    part[name][chosen], tau[name][chosen] / density, rtol=0, atol=3e-6
                )
                kept, total = kept + chosen.sum(), total + chosen.size
        assert kept / total == pytest.approx(density, abs=0.06)
    first, other = (dropped(base, tuned, density=0.5, seed=s)[0] for s in (0, 1))
    assert any(not np.array_equal(first[n], other[n]) for n in base)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_model_stock_is_the_formula_per_tensor(count: int) -> None:
    base, tuned = models(count, seed=11)
    taus = vectors(base, tuned)
    expected = {}
    for name in base:
        flat = [t[name].ravel() for t in taus]
        cosines = [
            a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            for a, b in itertools.combinations(flat, 2)
        ]
        cosine = max(float(np.mean(cosines)), 0.0)
        ratio = count * cosine / (1 + (count - 1) * cosine)
        expected[name] = ratio * np.mean([t[name] for t in taus], axis=0)
    check(merge(base, tuned, method="model-stock"), base, expected, 1.0)


def test_lines_grows_with_depth() -> None:
    base, tuned = models(2, seed=12)
    taus = vectors(base, tuned)
    scale = dict(zip(SHAPES, [0.1, 0.1, 0.1, 0.45, 0.8, 0.1], strict=True))
    expected = {n: scale[n] * np.mean([t[n] for t in taus], axis=0) for n in base}
    check(merge(base, tuned, alpha=0.8, method="lines", first=0.1), base, expected, 1.0)


@pytest.mark.parametrize("distance", [0.001, 0.8])
def test_slerp_is_mergekits_per_tensor(distance: float) -> None:
    base, (tuned,) = models(1, seed=13, distance=distance)
    found = merge(base, tuned, alpha=0.3, method="slerp", force=True)
    for name in base:
        v0, v1 = base[name].double().numpy(), tuned[name].double().numpy()
        cosine = float((v0 * v1).sum() / np.linalg.norm(v0) / np.linalg.norm(v1))
        if abs(cosine) > 0.9995:
            value = 0.7 * v0 + 0.3 * v1
        else:
            angle = np.arccos(cosine)
            value = (np.sin(0.7 * angle) * v0 + np.sin(0.3 * angle) * v1) / np.sin(angle)
        np.testing.assert_allclose(found[name].double().numpy(), value, rtol=0, atol=3e-6)


def test_task_arithmetic_is_the_weighted_sum_and_forgets() -> None:
    base, tuned = models(3, seed=14)
    taus = vectors(base, tuned)
    total = {n: sum(t[n] for t in taus) for n in base}
    check(merge(base, tuned, alpha=0.3, method="task-arithmetic"), base, total, 0.3)
    check(merge(base, tuned, alpha=-0.3, method="task-arithmetic"), base, total, -0.3)
    weights = [1.0, -0.5, 2.0]
    total = {n: sum(w * t[n] for w, t in zip(weights, taus, strict=True)) for n in base}
    found = merge(base, tuned, alpha=0.3, method="task-arithmetic", weights=weights)
    check(found, base, total, 0.3)
