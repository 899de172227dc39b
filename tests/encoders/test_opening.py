"""One way to a checkpoint: what one verb opens, every verb opens, and what one refuses, all do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import speechft
from helpers import noise, speech_encoder
from speechft.encoders.conversion.keys import to_s3prl
from speechft.encoders.convert import convert
from speechft.encoders.inspection import inspect_encoder
from speechft.encoders.load import load_encoder, random_encoder
from speechft.errors import CheckpointError
from speechft.merging import compare, make_delta, merge


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of a base and a model tuned from it."""
    encoder = speech_encoder("hubert", large=True)
    encoder.save(tmp_path / "base")
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "feature_extractor" not in name:
                weight += 0.05 * weight.abs().mean() * torch.randn_like(weight)
    encoder.save(tmp_path / "tuned")
    return tmp_path / "base", tmp_path / "tuned"


def runner_file(folder: Path, path: Path) -> None:
    """Write what s3prl's runner leaves: weights behind ``model.``, a head, no configuration."""
    weights = load_file(folder / "model.safetensors")
    spelled = to_s3prl(weights)
    upstream = {f"model.{spelled[name]}": weight for name, weight in weights.items()}
    torch.save({"Upstream": upstream, "Downstream": {"w": torch.zeros(2)}, "Step": 3}, path)


def bare_file(folder: Path, path: Path) -> None:
    save_file(load_file(folder / "model.safetensors"), path)


@pytest.mark.parametrize(
    ("write", "name"), [(runner_file, "dev-best.ckpt"), (bare_file, "weights.safetensors")]
)
def test_a_file_with_its_configuration_beside_it_serves_every_verb(
    write: Callable[[Path, Path], None], name: str, models: tuple[Path, Path], tmp_path: Path
) -> None:
    base, tuned = models
    file = tmp_path / name
    write(base, file)
    shutil.copy(base / "config.json", file.with_suffix(".config.json"))
    waveforms = noise(4_000)
    with torch.inference_mode():
        expected = load_encoder(base)(*waveforms).hidden_states
        assert torch.equal(load_encoder(file)(*waveforms).hidden_states, expected)
        merge(file, tuned, alpha=0, out=tmp_path / "merged")
        assert torch.equal(load_encoder(tmp_path / "merged")(*waveforms).hidden_states, expected)
        merge(file, tuned, alpha=0, out=tmp_path / "merged.pt")
        again = load_encoder(tmp_path / "merged.pt")(*waveforms).hidden_states
    torch.testing.assert_close(again, expected)
    assert inspect_encoder(file).problem is None
    assert convert(file, tmp_path / "converted").parity == 0.0
    assert random_encoder(file, seed=0).num_layers == load_encoder(base).num_layers
    assert compare(file, tuned).score == compare(base, tuned).score
    assert make_delta(file, tuned, tmp_path / "delta.safetensors").tensors


VERBS: dict[str, Callable[[Path, Path, Path], Any]] = {
    "load": lambda wrong, good, out: load_encoder(wrong),
    "inspect": lambda wrong, good, out: inspect_encoder(wrong),
    "convert": lambda wrong, good, out: convert(wrong, out),
    "merge as base": lambda wrong, good, out: merge(wrong, good, out=out),
    "merge as tuned": lambda wrong, good, out: merge(good, wrong, out=out),
    "delta": lambda wrong, good, out: make_delta(good, wrong, out.with_suffix(".safetensors")),
    "random": lambda wrong, good, out: random_encoder(wrong, 0),
}


@pytest.mark.parametrize("verb", VERBS)
def test_an_adapter_and_a_missing_file_are_refused_alike(
    verb: str, models: tuple[Path, Path], tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds an adapter"):
        VERBS[verb](adapter, models[0], tmp_path / "out")
    with pytest.raises(CheckpointError, match="no encoder at runs/missing"):
        VERBS[verb](Path("runs/missing.pt"), models[0], tmp_path / "out")


def test_nothing_opens_a_checkpoint_beside_the_opener() -> None:
    """A second reader would know fewer layouts, and no adapters."""
    source = Path(speechft.__file__).parent
    readers = ("open_checkpoint(", "load_pickle(", "safetensors_tensors(", "find_adapter(")
    users = {
        file.name
        for file in source.rglob("*.py")
        if any(f"{reader}" in file.read_text() for reader in readers)
    }
    below = {"checkpoints.py", "safe_pickle.py", "tensors.py", "adapters.py", "adapted.py"}
    listing = {"bases.py"}  # leaves adapters out of a walk
    own_file = {"s3prl.py"}  # what a conversion put beside the weights
    every_file = {"contents.py"}  # looks for NaN in all that is published, whatever it holds
    assert users == {"opening.py"} | below | listing | own_file | every_file
