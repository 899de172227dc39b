"""What `inspect` says about folders and files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import HubertForCTC

from helpers import speech_encoder
from oracle_data import oracle, oracle_json
from speechft.encoders.inspection import inspect_encoder
from speechft.encoders.load import digest_of
from speechft.errors import CheckpointError


def test_folder(tmp_path: Path) -> None:
    encoder = speech_encoder("wavlm", large=True)
    encoder.half().save(tmp_path)
    found = inspect_encoder(tmp_path)
    assert (found.family, found.format, found.size) == ("wavlm", "hf", "custom")
    assert (found.layers, found.dim, found.attention_heads) == (2, 24, 2)
    assert (found.frame_rate, found.normalize, found.dtype) == (50.0, True, "float16")
    assert found.parameters == sum(p.numel() for p in encoder.parameters())
    assert found.bytes == 2 * found.parameters
    assert found.digest == digest_of(tmp_path)
    assert (found.problem, found.nonfinite, found.task_heads) == (None, [], [])
    assert any("speechft convert" in command for command in found.next)
    assert json.loads(json.dumps(found.as_dict()))["family"] == "wavlm"
    assert "frame rate  50 Hz" in "\n".join(found.lines())


def test_heads_of_a_task_model(tmp_path: Path) -> None:
    HubertForCTC(speech_encoder("hubert").model.config).save_pretrained(tmp_path)
    found = inspect_encoder(tmp_path)
    assert set(found.task_heads) == {"lm_head.weight", "lm_head.bias"}


def sizes_of(name: str) -> tuple[int, int, int]:
    """Return layers, dim and attention heads of a model of the oracle."""
    content = oracle_json(f"merge/{name}_base.config.json")
    known = content.get("model_cfg") or content.get("cfg") or content
    fields = ("encoder_layers", "encoder_embed_dim", "encoder_attention_heads")
    layers, dim, heads = (known[field] for field in fields)
    return layers, dim, heads


@pytest.mark.parametrize("name", ["hubert", "wav2vec2", "wavlm_base_plus", "decoar2"])
def test_s3prl_files(name: str, tmp_path: Path) -> None:
    shutil.copy(oracle(f"merge/{name}_base.pt"), tmp_path)  # without a configuration beside it
    found = inspect_encoder(tmp_path / f"{name}_base.pt")
    assert found.family == name.partition("_")[0]
    assert (found.layers, found.dim, found.frame_rate) == (*sizes_of(name)[:2], 50.0)
    assert ("label_embs_concat" in found.pretraining_heads) == (name == "hubert")
    assert (found.problem is None) == (name != "decoar2")


def test_what_is_known_without_a_configuration() -> None:
    layers, dim, heads = sizes_of("hubert")
    tuned = oracle("merge/hubert_ft1_downstream.ckpt")
    found = inspect_encoder(tuned)
    assert (found.layers, found.dim, found.attention_heads) == (layers, dim, None)
    assert "number of attention heads" in str(found.problem)
    assert "--config" in found.next[0]
    again = inspect_encoder(tuned, oracle("merge/hubert_base.pt"))
    assert (again.attention_heads, again.problem) == (heads, None)


def test_nan_and_unsupported_families_are_told(tmp_path: Path) -> None:
    speech_encoder("hubert").save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["encoder.layers.1.attention.k_proj.bias"][2] = float("inf")
    save_file(weights, tmp_path / "model.safetensors")
    found = inspect_encoder(tmp_path)
    assert found.nonfinite == ["encoder.layers.1.attention.k_proj.bias"]
    assert "NaN" in str(found.problem)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    found = inspect_encoder(tmp_path)
    assert "supported are: data2vec-audio" in str(found.problem)
    assert found.next == []


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"\x01nonsense\x02")
    with pytest.raises(CheckpointError, match="not a readable torch checkpoint"):
        inspect_encoder(tmp_path / "x.pt")
    torch.save([1, 2], tmp_path / "y.pt")
    with pytest.raises(CheckpointError, match="holds list, expected a checkpoint"):
        inspect_encoder(tmp_path / "y.pt")


def test_a_folder_without_configuration_is_described(tmp_path: Path) -> None:
    speech_encoder("hubert").save(tmp_path)
    (tmp_path / "config.json").unlink()
    found = inspect_encoder(tmp_path)
    assert (found.layers, found.dim) == (2, 24)
    assert found.digest == digest_of(tmp_path)
    assert "config='CONFIG'" in str(found.problem)


def test_features_without_weights_are_no_choice() -> None:
    with pytest.raises(CheckpointError, match=r"mfcc has no weights") as caught:
        inspect_encoder("mfcc")
    assert "mfcc" not in str(caught.value.hint)
