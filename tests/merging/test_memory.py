"""Merging in memory: state dicts, live modules, and swapping alphas in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from speechft.encoders.load import load_encoder
from speechft.errors import CheckpointError
from speechft.merging import interpolate_, load_delta, make_delta, merge
from speechft.merging.methods import METHODS


def test_modules_give_a_new_module(base_model: Any, tune: Any, official_formula: Any) -> None:
    tuned = tune(base_model)
    before = {n: w.clone() for n, w in base_model.state_dict().items()}
    merged = merge(base_model, tuned, alpha=0.25)
    expected = official_formula(before, [tuned.state_dict()], 0.25)
    assert type(merged) is type(base_model)
    assert all(torch.equal(w, expected[n]) for n, w in merged.state_dict().items())
    assert all(torch.equal(w, before[n]) for n, w in base_model.state_dict().items())


def test_paths_without_out_give_a_state_dict(pair: Any, base_model: Any, tune: Any) -> None:
    merged = merge(*pair, alpha=0.25)
    direct = merge(base_model.state_dict(), tune(base_model).state_dict(), alpha=0.25)
    assert merged.keys() == direct.keys()
    assert all(torch.equal(merged[n], direct[n]) for n in merged)


def test_numpy_in_numpy_out() -> None:
    base = {"a": np.ones((2, 3), np.float32), "n": np.array([3])}
    tuned = {"a": np.full((2, 3), 2, np.float32), "n": np.array([4])}
    merged = merge(base, tuned, alpha=0.5)
    assert merged["a"].tolist() == [[1.5] * 3] * 2
    assert merged["n"].tolist() == [3]  # integers are kept


def test_float64_is_merged_in_float64() -> None:
    base = {"a": torch.tensor([1.0 + 2**-40], dtype=torch.float64)}
    tuned = {"a": torch.tensor([2.0 + 2**-41], dtype=torch.float64)}
    expected = base["a"] + 0.25 * (tuned["a"] - base["a"])
    assert torch.equal(merge(base, tuned)["a"], expected)
    assert torch.equal(merge(base, tuned, alpha=0)["a"], base["a"])


def test_scalars_and_empty_tensors_pass() -> None:
    base = {"s": torch.tensor(1.0), "e": torch.zeros(0, 4), "count": torch.tensor(7)}
    tuned = {"s": torch.tensor(3.0), "e": torch.zeros(0, 4), "count": torch.tensor(9)}
    merged = merge(base, tuned, alpha=0.5)
    assert merged["s"].item() == 2.0
    assert merged["e"].shape == (0, 4)
    assert merged["count"].item() == 7


@pytest.mark.parametrize(
    ("method", "options"), [*((n, {}) for n in METHODS), ("ties", {"trim": "tensor"})]
)
def test_every_method_takes_scalars_and_empty_tensors(method: str, options: Any) -> None:
    """TIES by tensor ended with a StopIteration where a tensor had no entry."""
    layer = "encoder.layers.0.attention.q_proj.weight"
    base = {"s": np.ones((), np.float32), "e": np.zeros((0, 4), np.float32)}
    base[layer] = np.arange(12, dtype=np.float32).reshape(3, 4)
    tuned = {name: np.asarray(value + np.float32(0.5)) for name, value in base.items()}
    models = tuned if METHODS[method].models[1] == 1 else [tuned, tuned]
    merged = merge(base, models, method=method, **options)
    assert {n: v.shape for n, v in merged.items()} == {n: v.shape for n, v in base.items()}
    assert np.isfinite(merged[layer]).all()


def test_interpolate_swaps_alphas_in_place(
    pair: Any, base_model: Any, tune: Any, tmp_path: Any
) -> None:
    make_delta(*pair, tmp_path / "d.safetensors")
    delta = load_delta(tmp_path / "d.safetensors")
    base = {n: w.clone() for n, w in base_model.state_dict().items()}
    module = tune(base_model, seed=5)
    places = {n: w.data_ptr() for n, w in module.named_parameters()}
    for alpha in (0.9, 0.25, 0.0):
        assert interpolate_(module, base, delta, alpha) is module
        expected = merge(pair[0], pair[1], alpha=alpha)
        assert all(torch.equal(w, expected[n]) for n, w in module.state_dict().items())
    assert places == {n: w.data_ptr() for n, w in module.named_parameters()}


def test_our_encoders_merge_and_interpolate(pair: Any, tmp_path: Any) -> None:
    """Their tensors stand behind ``model.``, with a group norm of our own among them."""
    base, tuned = (load_encoder(folder) for folder in pair)
    merged = merge(base, tuned, alpha=0.25)
    assert type(merged) is type(base)
    expected = merge(*pair, alpha=0.25)
    state = {n.removeprefix("model."): w for n, w in merged.state_dict().items()}
    assert all(torch.equal(state[n], w) for n, w in expected.items())
    make_delta(*pair, tmp_path / "d.safetensors")
    before = {n: w.clone() for n, w in base.state_dict().items()}
    interpolate_(tuned, before, load_delta(tmp_path / "d.safetensors"), 0.25)
    assert all(torch.equal(w, merged.state_dict()[n]) for n, w in tuned.state_dict().items())


def test_interpolate_refuses_what_does_not_fit(base_model: Any) -> None:
    with pytest.raises(CheckpointError, match="base_state shares its memory with the module"):
        interpolate_(base_model, base_model.state_dict(), {}, 0.5)
    base = {n: w.clone() for n, w in base_model.state_dict().items()}
    with pytest.raises(CheckpointError, match="do not fit the module: other"):
        interpolate_(base_model, base, {"other": torch.zeros(1)}, 0.5)
    with pytest.raises(CheckpointError, match="masked_spec_embed"):
        interpolate_(base_model, base, {"masked_spec_embed": torch.zeros(1)}, 0.5)
    short = {n: w for n, w in base.items() if n != "masked_spec_embed"}
    with pytest.raises(CheckpointError, match="masked_spec_embed"):
        interpolate_(base_model, short, {}, 0.5)
