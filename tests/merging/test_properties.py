"""Laws that hold for any weights: the ends of the line, order of models, types and names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from speechft.merging import merge

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
NAMES = ["encoder.a.weight", "final_proj.weight", "b", "encoder.c.bias"]

finite = st.floats(-1e4, 1e4, width=32).map(np.float32)


@st.composite
def models(draw: st.DrawFn, count: int) -> list[dict[str, torch.Tensor]]:
    """A base and tuned models with the same names, shapes and types."""
    order = draw(st.permutations(NAMES))
    shapes = {n: draw(hnp.array_shapes(max_dims=2, max_side=5)) for n in order}
    dtypes = {n: draw(st.sampled_from(DTYPES)) for n in order}
    result = []
    for _ in range(count):
        arrays = {n: draw(hnp.arrays(np.float32, shapes[n], elements=finite)) for n in order}
        result.append({n: torch.from_numpy(a.copy()).to(dtypes[n]) for n, a in arrays.items()})
    return result


def raw(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(models(3))
def test_alpha_zero_is_the_base_bit_for_bit(states: list[dict[str, torch.Tensor]]) -> None:
    base, *tuned = states
    merged = merge(base, tuned, alpha=0, force=True)
    assert all(torch.equal(raw(merged[n]), raw(base[n])) for n in base)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(models(2))
def test_alpha_one_is_tuned_within_rounding(states: list[dict[str, torch.Tensor]]) -> None:
    base, tuned = states
    merged = merge(base, tuned, alpha=1, force=True)
    for name, value in merged.items():
        if name.startswith("final_proj"):
            assert torch.equal(raw(value), raw(base[name]))
            continue
        b, f = base[name].double(), tuned[name].double()
        bound = torch.maximum(b.abs(), f.abs())
        step = torch.finfo(torch.float32).eps * 2 * bound
        step += torch.finfo(value.dtype).eps * bound * (value.dtype != torch.float32)
        assert bool(((value.double() - f).abs() <= step).all()), name


@settings(max_examples=40, deadline=None, derandomize=True)
@given(models(4), st.permutations([0, 1, 2]), st.floats(0, 1))
def test_order_of_models_is_irrelevant_within_rounding(
    states: list[dict[str, torch.Tensor]], order: list[int], alpha: float
) -> None:
    base, *tuned = states
    first = merge(base, tuned, alpha=alpha, force=True)
    second = merge(base, [tuned[i] for i in order], alpha=alpha, force=True)
    for name in base:
        bound = torch.stack([m[name].double().abs() for m in states]).amax(0)
        step = (torch.finfo(torch.float32).eps * 16 + torch.finfo(base[name].dtype).eps * 2) * bound
        difference = (first[name].double() - second[name].double()).abs()
        assert bool((difference <= step + 1e-7).all()), name


@settings(max_examples=40, deadline=None, derandomize=True)
@given(models(2), st.floats(-1, 2))
def test_types_shapes_and_order_are_the_bases(
    states: list[dict[str, torch.Tensor]], alpha: float
) -> None:
    base, tuned = states
    merged = merge(base, tuned, alpha=alpha, force=True)
    assert list(merged) == list(base)
    for name, value in merged.items():
        assert value.dtype == base[name].dtype
        assert value.shape == base[name].shape


@pytest.mark.parametrize("chunk", [1, 7, 64, 10_000])
@pytest.mark.parametrize("method", ["linear", "ties", "dare-linear", "dare-ties"])
def test_the_size_of_pieces_changes_nothing(
    method: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speechft.merging import stream

    generator = torch.Generator().manual_seed(3)
    base = {n: torch.randn(13, 11, generator=generator) for n in NAMES}
    tuned = [
        {n: w + 0.1 * torch.randn(13, 11, generator=generator) for n, w in base.items()}
        for _ in "ab"
    ]
    whole = merge(base, tuned, method=method)
    monkeypatch.setattr(stream.pieces, "__defaults__", (chunk,))
    monkeypatch.setitem(stream.run.__kwdefaults__, "chunk", chunk)
    pieces = merge(base, tuned, method=method)
    assert all(torch.equal(whole[n], pieces[n]) for n in base)


def test_alpha_zero_in_a_file_is_the_base_bit_for_bit(pair: Any, tmp_path: Path, read: Any) -> None:
    base, tuned = pair
    merge(base, tuned, alpha=0, out=tmp_path / "out")
    before, after = read(base), read(tmp_path / "out")
    assert all(torch.equal(raw(before[n]), raw(after[n])) for n in before)
