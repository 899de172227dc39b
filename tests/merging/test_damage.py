"""Damaged models are named and refused, each kind by its own check; real fine-tunings pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, HubertModel

from speechft.encoders.families import FAMILIES
from speechft.encoders.families.convolutional import ConvolutionalFamily
from speechft.errors import CheckpointError, ConfigError, LineageError
from speechft.merging import compare, interpolate_, make_delta, merge
from speechft.merging.checks import CHECKS, read_allowed
from speechft.merging.damage import BLOCK, Fills
from speechft.merging.lineage import DEFAULTS

State = dict[str, torch.Tensor]
LAYER = "encoder.layers.1."
MATRIX = f"{LAYER}attention.q_proj.weight"
NORM = f"{LAYER}layer_norm.weight"


def zero(*starts: str) -> Callable[[State], None]:
    def damage(state: State) -> None:
        for name in state:
            if name.startswith(starts):
                state[name].zero_()

    return damage


def anew(*starts: str) -> Callable[[State], None]:
    def damage(state: State) -> None:
        generator = torch.Generator().manual_seed(5)
        for name in state:
            if name.startswith(starts):
                spread = float(state[name].std()) if state[name].dim() > 1 else 1.0
                state[name].copy_(spread * torch.randn(state[name].shape, generator=generator))

    return damage


def second_half(state: State) -> None:
    names = list(state)
    for name in names[len(names) // 2 :]:
        state[name].zero_()


def times(factor: float, *starts: str) -> Callable[[State], None]:
    def damage(state: State) -> None:
        for name in state:
            if name.startswith(starts):
                state[name].mul_(factor)

    return damage


def constant(*starts: str) -> Callable[[State], None]:
    def damage(state: State) -> None:
        for name in state:
            if name.startswith(starts):
                state[name].fill_(0.25)

    return damage


DAMAGES: dict[str, tuple[Callable[[State], None], str]] = {
    "second half": (second_half, "zeros"),
    "layer": (zero(LAYER), "zeros"),
    "matrix": (zero(MATRIX), "zeros"),
    "norm": (zero(NORM), "zeros"),
    "all": (zero(""), "zeros"),
    "constant": (constant(MATRIX), "constants"),
    "random CNN": (anew("feature_extractor."), "lineage"),
    "random projection": (anew("feature_projection.projection.weight"), "lineage"),
    "random norms": (anew(NORM), "lineage"),
    "times 1000": (times(1000.0, ""), "scale"),
    "matrix times 10": (times(10.0, MATRIX), "scale"),
    "norm times 0.01": (times(0.01, NORM), "scale"),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("side", ["base", "tuned"])
def test_damage_is_named_and_force_does_not_cover_it(
    kind: str, side: str, base_model: Any, tune: Any
) -> None:
    damage, check = DAMAGES[kind]
    tuned_model = tune(base_model)
    with torch.no_grad():
        damage((base_model if side == "base" else tuned_model).state_dict())
    base, tuned = base_model, tuned_model
    with pytest.raises(LineageError) as caught:
        merge(base, tuned)
    assert f"allow='{check}" in str(caught.value)
    if check != "lineage":
        with pytest.raises(LineageError, match="allow="):
            merge(base, tuned, force=True)
    assert merge(base, tuned, allow=",".join(CHECKS)) is not None


def test_models_of_zeros_and_runs_of_zeros(base_model: Any, tune: Any) -> None:
    empty = copy.deepcopy(base_model)
    with torch.no_grad():
        zero("")(empty.state_dict())
    with pytest.raises(LineageError, match="nothing but zeros in"):
        merge(empty, copy.deepcopy(empty))
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(64, 64, generator=generator)}
    tuned = {"w": base["w"] + 0.1 * torch.randn(64, 64, generator=generator)}
    assert merge(base, tuned)
    tuned["w"].view(-1)[2048:3300] = 0
    with pytest.raises(LineageError, match=r"long runs of zeros in 1 tensor: w \(1024 elements\)"):
        merge(base, tuned)
    tuned["w"].view(-1)[2048:3300] = 0.5
    with pytest.raises(LineageError, match="long runs of one value"):
        merge(base, tuned)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_real_fine_tunings_pass(dtype: torch.dtype, base_model: Any, tune: Any, save: Any) -> None:
    base = save(base_model, "base")
    for number, scale in enumerate((1e-3, 0.1, 0.3)):
        tuned = save(tune(base_model, number, scale), f"tuned{number}", dtype)
        assert merge(base, tuned)
    found = compare(base, tuned)
    assert found.lowest_cosine is not None
    assert found.lowest_cosine > 0.8


def test_pruned_models_pass_and_are_told(tune: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(256, 64, generator=generator)}
    tuned = {"w": base["w"] * (torch.rand(256, 64, generator=generator) > 0.5)}
    assert merge(base, tuned)  # single weights, here and there
    for state in (base, tuned):
        state["w"][64:128] = 0
    assert compare(base, tuned).filled == 64 * 64
    tuned["w"] = tuned["w"] + 0.1 * base["w"]
    assert merge(base, tuned)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layer_norm_eps", 1e-3),
        ("hidden_act", "relu"),
        ("feat_extract_activation", "relu"),
        ("num_conv_pos_embedding_groups", 4),
        ("feat_extract_norm", "layer"),
    ],
)
@pytest.mark.parametrize("stated", [True, False])
def test_other_settings_are_refused_even_where_one_side_leaves_them_out(
    field: str, value: Any, stated: bool, base_model: Any, tune: Any, save: Any
) -> None:
    import json

    base, tuned = save(base_model, "base"), save(tune(base_model), "tuned", **{field: value})
    config = json.loads((base / "config.json").read_text())
    if not stated and config[field] == (DEFAULTS | ConvolutionalFamily.defaults)[field]:
        del config[field]
        (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(LineageError, match=field):
        merge(base, tuned, force=True)
    assert merge(base, tuned, allow="settings")


def test_defaults_are_those_of_transformers() -> None:
    for name, family in FAMILIES.items():
        if isinstance(family, ConvolutionalFamily) and name in CONFIG_MAPPING:
            config = CONFIG_MAPPING[name]().to_dict()
            for field, value in DEFAULTS.items():
                assert field not in config or list(np.atleast_1d(config[field])) == list(
                    np.atleast_1d(value)
                ), (name, field)


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.float8_e4m3fn, torch.int64])
def test_other_types_in_the_base(kind: torch.dtype, base_model: Any, tune: Any, save: Any) -> None:
    base, tuned = save(base_model, "base"), save(tune(base_model), "tuned")
    state = load_file(base / "model.safetensors")
    state[MATRIX] = state[MATRIX].to(kind)
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LineageError, match=r"q_proj\.weight \(") as caught:
        merge(base, tuned, force=True)
    assert "allow='types'" in str(caught.value)
    assert merge(base, tuned, dry_run=True, allow="types").forced


def test_a_delta_of_zeros_and_one_of_damage(
    base_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    base, tuned = save(base_model, "base"), save(tune(base_model), "tuned")
    place = tmp_path / "d.safetensors"
    for dtype in ("float32", "float16", "int8"):
        make_delta(base, tuned, place, dtype=dtype)
        state = load_file(place)
        for factor in (0.0, 1000.0):
            damaged = {n: (w * factor).to(w.dtype) for n, w in state.items()}
            metadata = _metadata(place)
            save_file(damaged, tmp_path / "x.safetensors", metadata=metadata)
            with pytest.raises(LineageError):
                merge(base, tmp_path / "x.safetensors")
    zero(MATRIX)(weights := load_file(tuned / "model.safetensors"))
    save_file(weights, tuned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LineageError, match="allow='zeros'"):
        make_delta(base, tuned, tmp_path / "z.safetensors", force=True)
    assert make_delta(base, tuned, tmp_path / "z.safetensors", allow="zeros").forced


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize("method", ["linear", "task-arithmetic", "ties", "dare-linear", "lines"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_no_infinity_is_written(
    method: str, dtype: torch.dtype, base_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    base = save(base_model, "base", dtype)
    tuned = save(tune(base_model), "tuned", dtype)
    alpha = 1e8 if dtype == torch.float16 else 1e45
    options = {"first": alpha} if method == "lines" else {}
    for keep in ("keep", "auto"):
        with pytest.raises(CheckpointError, match=r"beyond the range|becomes NaN or infinite"):
            merge(base, tuned, alpha, tmp_path / "out", method, dtype=keep, **options)
    assert not (tmp_path / "out").exists()


def test_applying_a_delta_writes_no_infinity(hubert_config: Any) -> None:
    module = HubertModel(hubert_config).half()
    base = {n: w.clone() for n, w in module.state_dict().items()}
    delta = {MATRIX: torch.ones_like(base[MATRIX], dtype=torch.float32)}
    with pytest.raises(CheckpointError, match="beyond the range of float16"):
        interpolate_(module, base, delta, 1e6)
    assert torch.equal(module.state_dict()[MATRIX], base[MATRIX])
    interpolate_(module, base, delta, 2.0)


def test_fills_see_pieces_of_any_size() -> None:
    values = np.random.default_rng(0).normal(size=5 * BLOCK + 7).astype(np.float32)
    tuned = values.copy()
    tuned[BLOCK : 2 * BLOCK] = 0
    tuned[3 * BLOCK : 4 * BLOCK] = 0.1
    fills = Fills()
    for start in range(0, values.size, 2 * BLOCK):
        piece = slice(start, start + 2 * BLOCK)
        fills.see(values[piece], tuned[piece] - values[piece])
    assert (fills.tuned.zeros, fills.tuned.others, fills.shared) == (1, 1, 0)
    assert (fills.base.zeros, fills.base.others) == (0, 0)
    assert not fills.base.whole
    assert not fills.tuned.whole
    whole = Fills()
    whole.see(values[:100], 0.3 - values[:100])
    assert whole.tuned.whole
    assert not whole.base.whole


def test_names_of_checks() -> None:
    assert read_allowed("scale, zeros") == ("zeros", "scale") == read_allowed(["zeros", "scale"])
    with pytest.raises(ConfigError, match="did you mean 'zeros'"):
        read_allowed("zeroes")
    with pytest.raises(ConfigError, match="expected names out of"):
        read_allowed(3)
