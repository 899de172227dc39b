"""Files as fairseq and Lightning write them, with the classes that the real ones hold."""

from __future__ import annotations

import argparse
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers import noise
from oracle_data import oracle, oracle_json
from speechft.encoders.convert import convert
from speechft.encoders.load import load_encoder
from speechft.errors import CheckpointError


def instance(name: str, monkeypatch: pytest.MonkeyPatch, **state: Any) -> Any:
    """Make an object of a class that is not installed here, under its real name."""
    module, _, kind = name.rpartition(".")
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        parent = ".".join(parts[:end])
        if parent not in sys.modules:
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    holder = sys.modules[module]
    if not hasattr(holder, kind):
        monkeypatch.setattr(holder, kind, type(kind, (), {"__module__": module}), raising=False)
    value = getattr(holder, kind)()
    value.__dict__.update(state)
    return value


def node(value: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Wrap plain settings as omegaconf does."""
    if isinstance(value, dict):
        content = {key: node(item, monkeypatch) for key, item in value.items()}
        name = "omegaconf.dictconfig.DictConfig"
    elif isinstance(value, list):
        content = [node(item, monkeypatch) for item in value]  # type: ignore[assignment]
        name = "omegaconf.listconfig.ListConfig"
    else:
        return instance("omegaconf.nodes.AnyNode", monkeypatch, _val=value, _parent=None)
    metadata = instance("omegaconf.base.ContainerMetadata", monkeypatch, key_type=str)
    return instance(name, monkeypatch, _content=content, _metadata=metadata)


def model_of(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    settings = oracle_json(f"merge/{name}_base.config.json")
    return settings, load_file(oracle(f"merge/{name}_base.safetensors"))


def states(path: Path, **options: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = load_encoder(path, "s3prl", **options)(*noise(9_000)).hidden_states
    return found


@pytest.mark.parametrize("settings_as", ["omegaconf", "namespace"])
def test_hubert_of_fairseq(
    settings_as: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, weights = model_of("hubert")
    symbols = known["dictionaries_symbols"][0]
    dictionary = instance(
        "fairseq.data.dictionary.Dictionary", monkeypatch, symbols=symbols, indices={}
    )
    meter = instance("fairseq.meters.AverageMeter", monkeypatch, val=1.0)
    content: dict[str, Any] = {
        "model": weights,
        "task_state": {"dictionaries": [dictionary]},
        "extra_state": {"metrics": [("default", [(0, "loss", "AverageMeter", meter)])]},
    }
    if settings_as == "omegaconf":
        cfg = node({"model": known["model_cfg"], "task": known["task_cfg"]}, monkeypatch)
        content |= {"cfg": cfg, "args": None}
    else:
        flat = known["task_cfg"] | known["model_cfg"]
        content |= {"args": argparse.Namespace(**flat), "cfg": None}
    torch.save(content, tmp_path / "hubert_base.pt")
    monkeypatch.undo()
    assert "fairseq" not in sys.modules
    expected = states(oracle("merge/hubert_base.safetensors"))
    assert torch.equal(states(tmp_path / "hubert_base.pt"), expected)
    report = convert(tmp_path / "hubert_base.pt", tmp_path / "s3prl.pt", source_format="fairseq")
    assert report.parity == 0.0
    written = torch.load(tmp_path / "s3prl.pt", weights_only=True)
    assert written["dictionaries_symbols"] == [symbols]
    assert written["model_cfg"]["encoder_embed_dim"] == len(weights["encoder.layer_norm.weight"])
    assert all(torch.equal(written["model_weight"][k], v) for k, v in weights.items())
    convert(tmp_path / "hubert_base.pt", tmp_path / "hf")
    assert torch.equal(states(tmp_path / "hf"), expected)


def test_spin_of_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WavLM inside: its heads are told by its tensors, so no configuration is needed."""
    _, weights = model_of("wavlm_base_plus")
    state = {f"encoder.model.{key}": tensor for key, tensor in weights.items()}
    state["loss_module.codebook.weight"] = torch.zeros(4, 4)
    callback = instance(
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", monkeypatch, best=1
    )
    content = {"state_dict": state, "epoch": 3, "callbacks": {callback.__class__: {"best": 0.5}}}
    torch.save(content, tmp_path / "spin.ckpt")
    monkeypatch.undo()
    expected = states(oracle("merge/wavlm_base_plus_base.safetensors"))
    report = convert(tmp_path / "spin.ckpt", tmp_path / "hf", source_format="spin")
    assert report.heads_left_out == ("loss_module.codebook.weight",)
    assert torch.equal(states(tmp_path / "hf"), expected)


def test_fine_tuned_with_ctc_gives_its_encoder(tmp_path: Path) -> None:
    known, weights = model_of("wav2vec2")
    state = {f"w2v_encoder.w2v_model.{key}": tensor for key, tensor in weights.items()}
    state["w2v_encoder.proj.weight"] = torch.zeros(8, len(weights["encoder.layer_norm.weight"]))
    inner = {"model": known["model_cfg"], "task": known["task_cfg"]}
    content = {"cfg": {"model": {"_name": "wav2vec_ctc", "w2v_args": inner}}, "model": state}
    torch.save(content, tmp_path / "ctc.pt")
    report = convert(tmp_path / "ctc.pt", tmp_path / "hf")
    assert report.heads_left_out == ("w2v_encoder.proj.weight",)
    assert torch.equal(states(tmp_path / "hf"), states(oracle("merge/wav2vec2_base.safetensors")))


HEADS = ("quantizer.", "project_q.", "final_proj.")


@pytest.mark.parametrize("settings_as", ["cfg", "namespace"])
def test_ctc_without_quantizer_becomes_an_upstream(settings_as: str, tmp_path: Path) -> None:
    """Heads of pre-training are dropped by fairseq; s3prl's strict loading insists on some."""
    known, weights = model_of("wav2vec2")
    bare = {key: tensor for key, tensor in weights.items() if not key.startswith(HEADS)}
    state: dict[str, Any] = {f"w2v_encoder.w2v_model.{key}": t for key, t in bare.items()}
    state["w2v_encoder.proj.weight"] = torch.zeros(8, len(weights["encoder.layer_norm.weight"]))
    model = {key: value for key, value in known["model_cfg"].items() if key != "_name"}
    if settings_as == "cfg":
        inner = {"model": model | {"_name": "wav2vec2"}, "task": known["task_cfg"]}
        settings = {"cfg": {"model": {"_name": "wav2vec_ctc", "w2v_args": inner}}}
    else:
        task = {key: value for key, value in known["task_cfg"].items() if key != "_name"}
        inner = argparse.Namespace(**task, **model, arch="wav2vec2")
        settings = {"args": argparse.Namespace(arch="wav2vec_ctc", w2v_args=inner)}
    torch.save({**settings, "model": state}, tmp_path / "ctc.pt")
    convert(tmp_path / "ctc.pt", tmp_path / "hf")
    for number, source in enumerate((tmp_path / "ctc.pt", tmp_path / "hf")):
        out = tmp_path / f"{number}.pt"
        assert convert(source, out).parity == 0.0
        assert torch.equal(states(out), states(oracle("merge/wav2vec2_base.safetensors")))
        written = torch.load(out, weights_only=True)
        assert written["model_cfg"]["quantize_targets"] is False
        found = written["model_weight"]
        assert found.keys() == {
            *bare,
            "project_q.weight",
            "project_q.bias",
            "final_proj.weight",
            "final_proj.bias",
        }
        assert found["project_q.weight"].shape == (256, len(bare["layer_norm.weight"]))
        assert all(torch.equal(found[key], tensor) for key, tensor in bare.items())


class Armed:
    """Makes a folder when an ordinary loader reads it."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("verb", ["load", "convert"])
def test_an_armed_checkpoint_is_refused_and_runs_nothing(verb: str, tmp_path: Path) -> None:
    known, weights = model_of("hubert")
    marker = tmp_path / "ran"
    content = {**known, "model_weight": weights, "task_state": Armed(str(marker))}
    torch.save(content, tmp_path / "hubert.pt")
    run = {"load": load_encoder, "convert": lambda path: convert(path, tmp_path / "out")}[verb]
    with pytest.raises(CheckpointError, match=r"asks for '\w*\.?mkdir'; nothing was executed"):
        run(tmp_path / "hubert.pt")
    assert not marker.exists()
    assert not (tmp_path / "out").exists()
    torch.load(tmp_path / "hubert.pt", weights_only=False)
    assert marker.exists()  # it was armed
