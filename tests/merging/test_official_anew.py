"""Bit-equality with the official rule on models that no recorded result covers.

The rule is written down here once more, line by line from its description and in torch: task
vectors in float32, summed from zero on in the order given, divided by their number, times alpha,
plus the base; the task vector of two pre-training heads is zero.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechft.merging import merge

FAMILIES = ["hubert", "wav2vec2", "wavlm_base_plus", "decoar2"]


def official(
    base: dict[str, torch.Tensor], tuned: list[dict[str, torch.Tensor]], alpha: float
) -> dict[str, torch.Tensor]:
    """The official rule; tuned state dicts carry the prefix ``model.``."""
    merged = {}
    for key in base:
        vectors = []
        for state in tuned:
            if key.startswith(("final_proj", "label_embs_concat")):
                vectors.append(torch.zeros_like(base[key]))
            else:
                vectors.append(state["model." + key] - base[key])
        total = 0
        for vector in vectors:
            total = total + vector
        mean = total / len(vectors)
        merged[key] = base[key] + alpha * mean
    return merged


def weights_key(content: dict[str, Any]) -> str:
    return "model_weight" if "model_weight" in content else "model"


def fresh_base(oracle: Path, family: str, seed: int) -> dict[str, Any]:
    """A base checkpoint of the family with weights that no file holds."""
    content = torch.load(oracle / f"{family}_base.pt", weights_only=True)
    generator = torch.Generator().manual_seed(seed)
    key = weights_key(content)
    content[key] = {
        n: w + 0.3 * w.abs().mean() * torch.randn(w.shape, generator=generator)
        for n, w in content[key].items()
    }
    return content


def fresh_tuned(base: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """A tuned upstream: every tensor is moved, by 1 to 30 percent, also CNN and heads."""
    generator = torch.Generator().manual_seed(1000 + seed)
    strength = 0.01 + 0.29 * torch.rand(1, generator=generator)
    return {
        f"model.{n}": w + strength * w.abs().mean() * torch.randn(w.shape, generator=generator)
        for n, w in base.items()
    }


def save_tuned(state: dict[str, torch.Tensor], folder: Path, kind: str, number: int) -> Path:
    """Write a tuned model as the s3prl runner, Lightning (SPIN), fairseq or a user would."""
    if kind == "safetensors":
        save_file(state, folder / f"tuned{number}.safetensors")
        return folder / f"tuned{number}.safetensors"
    path = folder / f"tuned{number}.ckpt"
    arguments = argparse.Namespace(upstream="hubert_local", lr=1e-4)
    if kind == "s3prl":
        head = {"connector.weight": torch.zeros(4, 4)}
        content = {"Downstream": head, "Upstream": state, "Args": arguments, "Step": 20000}
    elif kind == "spin":
        content = {"state_dict": {f"encoder.{n}": w for n, w in state.items()}, "epoch": 1}
    else:
        bare = {n.removeprefix("model."): w for n, w in state.items()}
        content = {"model": bare, "args": arguments}
    torch.save(content, path, _use_new_zipfile_serialization=number % 2 == 0)
    return path


def check(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name].view(torch.int32), value.view(torch.int32)), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("seed", "kind", "count", "alpha"),
    [
        (1, "s3prl", 1, 0.25),
        (2, "safetensors", 1, 0.1),
        (3, "s3prl", 2, 0.5),
        (4, "fairseq", 3, 1 / 3),
        (5, "s3prl", 3, 0.9),
        (6, "spin", 1, 0.75),
        (7, "s3prl", 1, 1.0),
        (8, "safetensors", 2, -0.2),
    ],
)
def test_fresh_pairs_to_s3prl_and_to_bare_weights(
    family: str, seed: int, kind: str, count: int, alpha: float, oracle: Path, tmp_path: Path
) -> None:
    content = fresh_base(oracle, family, seed)
    base = content[weights_key(content)]
    torch.save(content, tmp_path / "base.pt")
    states = [fresh_tuned(base, 10 * seed + i) for i in range(count)]
    tuned = [save_tuned(state, tmp_path, kind, i) for i, state in enumerate(states)]
    expected = official(base, states, alpha)
    merge(tmp_path / "base.pt", tuned, alpha=alpha, out=tmp_path / "out.pt")
    written = torch.load(tmp_path / "out.pt", weights_only=True)
    check(written[weights_key(content)], expected)
    merge(tmp_path / "base.pt", tuned, alpha=alpha, out=tmp_path / "out.safetensors")
    check(load_file(tmp_path / "out.safetensors"), expected)
    check(merge(base, states, alpha=alpha), expected)


@pytest.mark.parametrize("family", ["hubert", "wav2vec2", "wavlm_base_plus"])
def test_the_official_file_and_the_folder_hold_the_same_model(
    family: str, oracle: Path, tmp_path: Path
) -> None:
    """From the ``.pt`` that was merged and from the folder, the same Hugging Face weights."""
    content = fresh_base(oracle, family, 21)
    base = content[weights_key(content)]
    torch.save(content, tmp_path / "base.pt")
    tuned = save_tuned(fresh_tuned(base, 21), tmp_path, "s3prl", 0)
    merge(tmp_path / "base.pt", tuned, alpha=0.4, out=tmp_path / "folder")
    merge(tmp_path / "base.pt", tuned, alpha=0.4, out=tmp_path / "out.pt")
    merge(tmp_path / "out.pt", tmp_path / "folder", out=tmp_path / "again", force=True)
    check(
        load_file(tmp_path / "again" / "model.safetensors"),
        load_file(tmp_path / "folder" / "model.safetensors"),
    )
