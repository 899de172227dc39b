"""Tiny encoders made in code, folders of them, and readers of what a merge wrote."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import HubertConfig, HubertModel, WavLMConfig, WavLMModel

import oracle_data

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 12,
}


@pytest.fixture
def oracle(request: pytest.FixtureRequest) -> Path:
    """Folder of the official results; skips a test of a family that they lack."""
    given = getattr(request.node, "callspec", None)
    for name in ("family", "base", "tuned"):
        if given is not None and name in given.params:
            oracle_data.oracle(f"merge/{given.params[name]}_base.pt")
    return oracle_data.oracle("merge")


@pytest.fixture
def hubert_config() -> HubertConfig:
    """Configuration of a tiny HuBERT."""
    return HubertConfig(**SIZES)


@pytest.fixture
def base_model(hubert_config: HubertConfig) -> HubertModel:
    """A tiny HuBERT with random weights."""
    torch.manual_seed(11)
    return HubertModel(hubert_config)


@pytest.fixture
def wavlm_model() -> WavLMModel:
    """A tiny WavLM with random weights."""
    torch.manual_seed(12)
    return WavLMModel(WavLMConfig(**SIZES, num_buckets=8, max_bucket_distance=16))


@pytest.fixture
def tune() -> Callable[..., Any]:
    """Return a copy of a model with every weight but the CNN's moved by noise."""

    def make(model: Any, seed: int = 1, scale: float = 0.1) -> Any:
        tuned = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in tuned.named_parameters():
                if "feature_extractor" not in name:
                    noise = torch.randn(weight.shape, generator=generator)
                    weight += scale * weight.abs().mean() * noise
        return tuned

    return make


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write a model as an encoder folder, whole or sharded, in any type, and return the folder."""

    def write(
        model: Any, name: str, dtype: torch.dtype | None = None, shards: int = 1, **more: Any
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        config = model.config.to_dict() | {"architectures": [type(model).__name__]} | more
        (folder / "config.json").write_text(json.dumps(config))
        state = {k: v.to(dtype or v.dtype).contiguous() for k, v in model.state_dict().items()}
        if shards == 1:
            save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
            return folder
        names = list(state)
        where = {
            n: f"model-{i * shards // len(names) + 1}.safetensors" for i, n in enumerate(names)
        }
        for file in set(where.values()):
            part = {n: state[n] for n in names if where[n] == file}
            save_file(part, folder / file, metadata={"format": "pt"})
        index = {"metadata": {}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder

    return write


@pytest.fixture
def pair(base_model: HubertModel, tune: Callable[..., Any], save: Callable[..., Path]) -> Any:
    """Folders of a base and a model tuned from it."""
    return save(base_model, "base"), save(tune(base_model), "tuned")


@pytest.fixture
def read() -> Callable[[Path], dict[str, torch.Tensor]]:
    """Read the weights of a merged folder or file."""

    def load(path: Path) -> dict[str, torch.Tensor]:
        if path.is_file():
            return load_file(path)
        state: dict[str, torch.Tensor] = {}
        for file in sorted(path.glob("model*.safetensors")):
            state |= load_file(file)
        return state

    return load


def interpolated(
    base: Mapping[str, torch.Tensor], tuned: list[Mapping[str, torch.Tensor]], alpha: float
) -> dict[str, torch.Tensor]:
    """Return the official formula, term by term, in float32."""
    result = {}
    for name, weight in base.items():
        total: Any = 0
        for model in tuned:
            total = total + (model[name].float() - weight.float())
        result[name] = weight.float() + alpha * (total / len(tuned))
    return result


@pytest.fixture
def official_formula() -> Callable[..., dict[str, torch.Tensor]]:
    """The official formula over state dicts."""
    return interpolated
