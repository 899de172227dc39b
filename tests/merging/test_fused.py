"""Merging the effective kernel of the position convolution, by every way in and every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from speechft.errors import ConfigError
from speechft.merging import make_delta, merge
from speechft.storage.files import file_digest


def kernel(model: Any) -> torch.Tensor:
    """The effective kernel in float64, as torch computes it from g and v."""
    weight: torch.Tensor = model.double().encoder.pos_conv_embed.conv.weight.detach()
    return weight


@pytest.fixture
def models(base_model: Any, tune: Any, save: Any) -> tuple[list[Any], list[Path]]:
    """A base and two models tuned from it, and their folders."""
    made = [base_model, tune(base_model, 1, 0.5), tune(base_model, 2, 0.5)]
    return made, [save(m, f"model{i}") for i, m in enumerate(made)]


def test_the_kernel_is_interpolated(models: Any, tmp_path: Path) -> None:
    made, (base, tuned, _) = models
    merge(base, tuned, alpha=0.4, out=tmp_path / "fused", weight_norm="fused")
    merge(base, tuned, alpha=0.4, out=tmp_path / "gv")
    b, t = kernel(made[0]), kernel(made[1])
    fused = kernel(AutoModel.from_pretrained(tmp_path / "fused"))
    torch.testing.assert_close(fused, b + 0.4 * (t - b), rtol=0, atol=1e-7)
    separate = kernel(AutoModel.from_pretrained(tmp_path / "gv"))
    assert (separate - fused).abs().max() > 1e-4


def test_a_delta_gives_the_same_as_the_model(models: Any, tmp_path: Path) -> None:
    _, (base, tuned, _) = models
    make_delta(base, tuned, tmp_path / "d.safetensors")
    merge(base, tuned, alpha=0.4, out=tmp_path / "direct", weight_norm="fused")
    merge(base, tmp_path / "d.safetensors", alpha=0.4, out=tmp_path / "delta", weight_norm="fused")
    direct, delta = (kernel(AutoModel.from_pretrained(tmp_path / n)) for n in ("direct", "delta"))
    torch.testing.assert_close(delta, direct, rtol=0, atol=1e-7)


def test_model_stock_takes_the_angle_between_kernels(models: Any, tmp_path: Path) -> None:
    made, (base, *tuned) = models
    merge(base, tuned, method="model-stock", out=tmp_path / "out", weight_norm="fused")
    b, first, second = (kernel(m) for m in made)
    one, two = (first - b).flatten(), (second - b).flatten()
    cosine = max(float(torch.nn.functional.cosine_similarity(one, two, dim=0)), 0.0)
    expected = b + 2 * cosine / (1 + cosine) * ((first + second) / 2 - b)
    found = kernel(AutoModel.from_pretrained(tmp_path / "out"))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["task-arithmetic", "ties", "dare-ties"])
def test_norm_and_kernel_belong_together(method: str, models: Any, tmp_path: Path) -> None:
    """G is the norm of what is stored as v, so that the kernel is v itself."""
    _, (base, *tuned) = models
    merge(base, tuned, method=method, out=tmp_path / "out", weight_norm="fused")
    model = AutoModel.from_pretrained(tmp_path / "out")
    stored = model.state_dict()["encoder.pos_conv_embed.conv.parametrizations.weight.original1"]
    torch.testing.assert_close(kernel(model), stored.double(), rtol=0, atol=1e-6)


def test_alpha_zero_keeps_the_bases_bits(models: Any, tmp_path: Path) -> None:
    _, (base, tuned, _) = models
    rules = ["position: 0"]
    merge(base, tuned, out=tmp_path / "fused", weight_norm="fused", rules=rules)
    merge(base, tuned, out=tmp_path / "gv", rules=rules)
    one, other = (file_digest(tmp_path / n / "model.safetensors") for n in ("fused", "gv"))
    assert one == other


def test_a_model_without_weight_norm_is_refused() -> None:
    base = {"encoder.layers.0.weight": torch.ones(2, 2)}
    tuned = {"encoder.layers.0.weight": torch.full((2, 2), 1.1)}
    with pytest.raises(ConfigError, match="no weight-normalised convolution"):
        merge(base, tuned, weight_norm="fused")
