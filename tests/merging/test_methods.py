"""Merge methods against torch, PEFT, the TIES reference's formula and float64 geometry."""

from __future__ import annotations

import ast
import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.utils import merge_utils

from speechft import merging
from speechft.errors import ConfigError
from speechft.merging.coefficients import along_layers
from speechft.merging.config import MergeConfig
from speechft.merging.method import Method
from speechft.merging.methods import METHODS, configure
from speechft.merging.methods.dropping import drop
from speechft.merging.methods.election import elect_signs, merge_agreeing
from speechft.merging.methods.linear import linear
from speechft.merging.methods.model_stock import model_stock_ratio
from speechft.merging.methods.slerp import slerp
from speechft.merging.methods.task_arithmetic import task_arithmetic
from speechft.merging.methods.thresholds import keep_top, thresholds


def vectors(count: int, size: int = 4001, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(size).astype(np.float32) for _ in range(count)]


def as_torch(arrays: list[np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(a.copy()) for a in arrays]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("alpha", [0.1, 0.25, 1.0, -0.3])
def test_linear_is_bit_equal_to_the_official_order_of_operations(count: int, alpha: float) -> None:
    base, *tuned = vectors(count + 1)
    deltas = [t - base for t in tuned]
    torch_base, *torch_tuned = as_torch([base, *tuned])
    expected = torch_base + alpha * (sum(t - torch_base for t in torch_tuned) / count)
    assert np.array_equal(linear(base, deltas, alpha), expected.numpy())


def test_methods_leave_their_inputs_alone() -> None:
    base, first, second = vectors(3)
    kept = [base.copy(), first.copy(), second.copy()]
    linear(base, [first], 0.3)
    linear(base, [first, second], 0.3)
    task_arithmetic(base, [first, second], 0.3)
    merge_agreeing(base, [first, second], 0.3)
    for array, copy in zip([base, first, second], kept, strict=True):
        assert np.array_equal(array, copy)


def test_task_arithmetic_equals_peft() -> None:
    base, *deltas = vectors(4)
    weights = [0.5, -0.25, 2.0]
    merged = task_arithmetic(base, deltas, 0.4, weights)
    expected = merge_utils.task_arithmetic(as_torch(deltas), torch.tensor(weights))
    np.testing.assert_allclose(merged, base + 0.4 * expected.numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("density", [0.1, 0.37, 0.9])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 1.5, 2.0]])
def test_ties_per_tensor_equals_peft(density: float, weights: list[float]) -> None:
    base, *deltas = vectors(4, seed=3)
    size = base.size
    limits = thresholds(lambda: iter([deltas]), size - int(density * size) + 1, size)
    trimmed = [keep_top(d, t) for d, t in zip(deltas, limits, strict=True)]
    merged = merge_agreeing(base, trimmed, 0.7, weights=weights)
    expected = merge_utils.ties(as_torch(deltas), torch.tensor(weights), density)
    np.testing.assert_allclose(merged, base + 0.7 * expected.numpy(), rtol=0, atol=2e-6)


def test_global_threshold_is_the_references_kth_value() -> None:
    deltas = vectors(2, size=3000, seed=5)
    deltas[0][::7] = 0.25  # equal magnitudes at the threshold must all be kept
    halves = [[d[:1700] for d in deltas], [d[1700:] for d in deltas]]
    for density in (0.05, 0.2, 0.8):
        rank = 3000 - int(3000 * density)
        found = thresholds(lambda: iter(halves), rank, 3000)
        expected = [torch.from_numpy(d).abs().kthvalue(rank).values.item() for d in deltas]
        assert found == expected


def test_elected_ties_go_to_the_sign_that_is_asked_for() -> None:
    trimmed = [np.array([1.0, -2.0, 3.0], np.float32), np.array([-1.0, -1.0, 0.0], np.float32)]
    assert elect_signs(trimmed, 1.0).tolist() == [1, -1, 1]
    assert elect_signs(trimmed, -1.0).tolist() == [-1, -1, 1]
    up = merge_agreeing(np.zeros(3, np.float32), trimmed, 1.0, tie_sign=1.0)
    assert up.tolist() == [1.0, -1.5, 3.0]


def test_weighted_election_divides_by_the_agreeing_weights() -> None:
    trimmed = [np.array([1.0, 2.0], np.float32), np.array([-3.0, 4.0], np.float32)]
    zero = np.zeros(2, np.float32)
    merged = merge_agreeing(zero, trimmed, 1.0, weights=[4.0, 1.0], election="weighted")
    assert merged.tolist() == pytest.approx([1.0, (4 * 2.0 + 4.0) / 5.0])
    unweighted = merge_agreeing(zero, trimmed, 1.0, weights=[4.0, 1.0])
    assert unweighted.tolist() == pytest.approx([-3.0, (4 * 2.0 + 4.0) / 2.0])


def test_dare_keeps_the_expectation_and_is_the_same_in_pieces() -> None:
    delta = np.full(200_000, 0.01, np.float32)
    whole = drop(delta, 0.3, np.random.default_rng(1), 1 / 0.3)
    assert np.count_nonzero(whole) / delta.size == pytest.approx(0.3, abs=0.005)
    assert whole.mean() == pytest.approx(0.01, rel=0.02)
    generator = np.random.default_rng(1)
    parts = [drop(delta[i : i + 999], 0.3, generator, 1 / 0.3) for i in range(0, 200_000, 999)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_dare_ties_equals_peft_after_the_same_mask() -> None:
    base, *deltas = vectors(3, seed=8)
    dropped = [drop(d, 0.5, np.random.default_rng(i), 2.0) for i, d in enumerate(deltas)]
    weights = [0.3, 0.7]
    stacked = torch.stack(as_torch(dropped))
    mask = merge_utils.calculate_majority_sign_mask(stacked, method="total")
    scaled = stacked * torch.tensor(weights)[:, None]
    expected = merge_utils.disjoint_merge(scaled, mask & (stacked != 0))
    merged = merge_agreeing(base, dropped, 0.5, weights=weights)
    np.testing.assert_allclose(merged, base + 0.5 * expected.numpy(), rtol=0, atol=2e-6)


def test_model_stock_ratio_solves_the_papers_right_angles() -> None:
    """The centre m has m.t1 = m.t2 = |m|^2 = t1.t2; the ratio is where it falls on the median."""
    for angle in (0.3, 1.0, 1.5):
        first = np.array([math.cos(angle / 2), math.sin(angle / 2)])
        second = np.array([math.cos(angle / 2), -math.sin(angle / 2)])
        mean = (first + second) / 2
        ratio = model_stock_ratio(math.cos(angle), 2)
        assert ratio * np.dot(mean, mean) == pytest.approx(np.dot(first, second))
    assert model_stock_ratio(1.0, 4) == 1.0
    assert model_stock_ratio(-0.5, 3) == 0.0


def test_slerp_keeps_the_angle_and_falls_to_linear() -> None:
    base, tuned = (v.astype(np.float64) for v in vectors(2, seed=9))
    cosine = float(np.dot(base, tuned) / np.linalg.norm(base) / np.linalg.norm(tuned))
    for alpha in (0.0, 0.25, 0.5, 1.0):
        merged = slerp(base, tuned - base, cosine, alpha)
        angle = math.acos(cosine)
        expected = (
            math.sin((1 - alpha) * angle) * base + math.sin(alpha * angle) * tuned
        ) / math.sin(angle)
        np.testing.assert_allclose(merged, expected, atol=1e-12)
    near = base + 1e-3 * tuned
    parallel = slerp(base, near - base, 0.99999, 0.25)
    np.testing.assert_array_equal(parallel, linear(base, [near - base], 0.25))


def test_lines_grows_linearly_from_first_to_last_layer() -> None:
    values = [along_layers(layer, 5, 0.1, 0.5) for layer in range(5)]
    assert values == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert along_layers(-1, 5, 0.1, 0.5) == 0.1
    assert along_layers(0, 1, 0.1, 0.5) == 0.5


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_all_of_itself(name: str) -> None:
    kind = METHODS[name]
    file = name.replace("-", "_")
    assert (kind.name, kind.__module__) == (name, f"speechft.merging.methods.{file}")
    assert kind.__doc__ is not None
    assert 10 < len(kind.title) < 100
    assert re.search(r"(19|20)\d\d", kind.paper), "a paper has a year"
    assert 1 <= kind.models[0] <= kind.models[1]
    settings = {f.name for f in dataclasses.fields(MergeConfig)}
    assert not settings & set(kind.option_names()), "an option would hide a setting"
    assert len(kind.describe()) == 2 + len(kind.option_names())
    assert kind.configure({}) == kind()
    assert kind.takes_rules or kind.alphas is not Method.alphas


def test_an_unknown_method_or_option_lists_what_there_is() -> None:
    with pytest.raises(ConfigError) as caught:
        configure("tise", {})
    assert "did you mean 'ties'?" in str(caught.value)
    for kind in METHODS.values():
        assert f"{kind.name}  " in caught.value.message
        assert kind.title in caught.value.message
    with pytest.raises(ConfigError, match=r"its options: density, rescale, seed, weights$"):
        configure("dare-linear", {"density": 0.5, "foo": 1})
    with pytest.raises(ConfigError, match="seed is for dare-linear, dare-ties"):
        configure("ties", {"seed": 1})


def test_nothing_outside_its_file_branches_by_the_name_of_a_method() -> None:
    found = []
    root = Path(merging.__file__).parent
    for path in sorted({*root.glob("*.py"), root.parent / "cli" / "merging.py"}):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                constants = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                found += [f"{path.name}:{node.lineno}"] if constants & {*METHODS} else []
    assert [place.partition(":")[0] for place in found] == ["config_file.py"], (
        "only the official file format may name a method"
    )
