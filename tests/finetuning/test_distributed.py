"""Two processes (gloo): DDP and FSDP equal one, states are gathered, followers follow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers import tiny_encoder
from processes import free_port
from processes import two as two_processes
from speechft.data.manifest import Corpus
from speechft.errors import RunError
from speechft.finetuning.distributed import make_accelerator
from speechft.finetuning.finetune import FinetuningConfig, finetune_encoder
from speechft.finetuning.layers import transformer_layers

pytestmark = pytest.mark.integration

_TRAIN = """
import os, shutil, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from finetuning.test_distributed import train
from speechft.data.manifest import open_corpus
from speechft.features import extract
from speechft.finetuning import encoding
torch.set_num_threads(1)
extract.LARGE, encoding.PART_SECONDS = 0, 0.0  # utterances of unequal length apart
corpus, folder = open_corpus(Path(sys.argv[2])), Path(sys.argv[3])
train(folder / "ddp", corpus, 1)
os.environ["ACCELERATE_USE_FSDP"] = "true"
train(folder / "fsdp", corpus, 1)
if torch.distributed.get_rank() == 0:
    shutil.copytree(folder / "fsdp" / ".checkpoints", folder / "resumed" / ".checkpoints")
    max((folder / "resumed" / ".checkpoints").glob("step-*.pt")).unlink()
torch.distributed.barrier()
train(folder / "resumed", corpus, 1)
train(folder / "average", corpus, 1, select="ema", ema_decay=0.8, layer_decay=0.5)
again = folder / "average again"
if torch.distributed.get_rank() == 0:
    shutil.copytree(folder / "average" / ".checkpoints", again / ".checkpoints")
    max((again / ".checkpoints").glob("step-*.pt")).unlink()
torch.distributed.barrier()
train(again, corpus, 1, select="ema", ema_decay=0.8, layer_decay=0.5)
torch.distributed.destroy_process_group()
"""

Run = tuple[list[float], dict[str, torch.Tensor]]


def train(folder: Path, corpus: Corpus, accumulation: int, **changes: Any) -> None:
    """Train with the same global batch whatever the number of processes."""
    config = FinetuningConfig(
        **changes,
        task="pr",
        steps=12,
        learning_rate=3e-3,
        hidden=None,
        batch_utterances=3,
        accumulation=accumulation,
        checkpoint_every=4,
        evaluate_every=6,
        precision="fp32",
        trackers=(),
        head_only=0.4,
    )
    finetune_encoder(tiny_encoder(), config, corpus, folder, seed=1, splits=("train", "dev"))


def _launch(arguments: list[str], code: int = 0) -> str:
    """Start two processes by torchrun on a free port; return what they said."""
    port = free_port()
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *launcher, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env=settings, check=False, timeout=280
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stderr


def _result(folder: Path) -> Run:
    losses = json.loads((folder / "history.json").read_text())["losses"]
    return losses, load_file(folder / "encoder" / "model.safetensors")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tones: Corpus) -> Path:
    """Return the folder in which two processes trained: by DDP, sharded, and sharded anew."""
    folder = tmp_path_factory.mktemp("two")
    two_processes(_TRAIN, [str(Path(__file__).parents[1]), str(tones.folder), str(folder)], folder)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, tones: Corpus) -> Run:
    folder = tmp_path_factory.mktemp("one")
    train(folder, tones, 2)
    return _result(folder)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_equal_one_through_the_change_of_phase(
    kind: str, two: Path, one: Run
) -> None:
    base = tiny_encoder().model.state_dict()
    losses, weights = one
    theirs, states = _result(two / kind)
    moved = [name for name in base if not torch.equal(base[name], weights[name])]
    assert len(moved) > 20, "the encoder learned after the head-only updates"
    assert theirs == pytest.approx(losses, abs=1e-4)
    assert set(states) == set(weights)
    for key, tensor in weights.items():
        # Adam divides by the root of tiny second moments, which blows rounding up
        assert torch.allclose(states[key], tensor, atol=3e-3), key
        if key.startswith("feature_extractor."):
            assert torch.equal(states[key], base[key]), key


def test_a_sharded_training_goes_on_from_its_gathered_checkpoint(two: Path) -> None:
    checkpoints = sorted((two / "fsdp" / ".checkpoints").glob("step-*.pt"))
    assert [path.name[:13] for path in checkpoints] == ["step-00000008", "step-00000012"]
    state = torch.load(checkpoints[0], weights_only=True)
    assert {type(tensor) for tensor in state["weights"].values()} == {torch.Tensor}
    assert state["weights"]["encoder.model.encoder.layer_norm.weight"].shape == (24,)
    losses, weights = _result(two / "fsdp")
    again, resumed = _result(two / "resumed")
    assert again == losses
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_a_sharded_average_goes_on_from_its_gathered_checkpoint(
    two: Path, tones: Corpus, tmp_path: Path
) -> None:
    """With rates by layer: two groups of parameters and more, sharded when the encoder learns."""
    state = torch.load(max((two / "average" / ".checkpoints").glob("step-*.pt")), weights_only=True)
    assert len(state["optimizer"]["param_groups"]) > 2
    assert {type(tensor) for tensor in state["average"].values()} == {torch.Tensor}
    losses, weights = _result(two / "average")
    again, resumed = _result(two / "average again")
    assert again == losses
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    train(tmp_path, tones, 2, select="ema", ema_decay=0.8, layer_decay=0.5)
    alone, whole = _result(tmp_path)
    assert losses == pytest.approx(alone, abs=1e-4)
    assert all(torch.allclose(weights[name], whole[name], atol=3e-3) for name in whole)


_RECIPE = """
title: two processes
encoder: {encoder}
data: {{corpus: {corpus}}}
finetuning:
  {{task: sid, steps: 6, learning_rate: 5.0e-3, hidden: null, precision: fp32, trackers: []}}
baselines: [plain]
evaluation: {{tasks: [sid], floors: []}}
"""


_FOLLOW = """
import sys
from pathlib import Path
import speechft
from speechft.cli import app
recipe, out = sys.argv[1], Path(sys.argv[2])
assert speechft.finetune(recipe, out=out / "api", finetuning__steps=3) == out / "api" / "encoder"
app(["run", recipe, "--out", str(out / "run")], standalone_mode=False)
"""


def test_followers_take_part_in_fine_tuning_and_in_nothing_else(
    tmp_path: Path, tiny_hubert: Path, tones: Corpus
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(_RECIPE.format(encoder=tiny_hubert, corpus=tones.folder))
    said = two_processes(_FOLLOW, [str(recipe), str(tmp_path)], tmp_path)
    assert said.count("stable fine-tuning on sid: dev") == 2, "once for each of the two calls"
    assert said.count("plain fine-tuning on sid: dev") == 1
    assert said.count("report: ") == 1
    assert (tmp_path / "api" / "encoder" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "merged" / "model.safetensors").is_file()
    history = json.loads((tmp_path / "run" / "finetuning" / "stable" / "history.json").read_text())
    assert len(history["losses"]) == 6


_FAIL = """
import torch
from speechft.errors import RunError
from speechft.finetuning.distributed import main_process_scope, shared_job
with main_process_scope(lambda **job: torch.distributed.barrier()) as first:
    if first:
        with shared_job({}):
            raise RunError("the disk of the first process is full")
"""


def test_an_error_on_the_first_process_ends_them_all(tmp_path: Path) -> None:
    (tmp_path / "fail.py").write_text(_FAIL)
    assert "the disk of the first process is full" in _launch([str(tmp_path / "fail.py")], code=1)


def test_sharding_that_was_asked_for_and_not_obtained_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(RunError, match="there is one process to shard over"):
        make_accelerator("fp32")


def test_layers_are_found_by_name() -> None:
    encoder = tiny_encoder()
    assert transformer_layers(encoder) == list(encoder.model.encoder.layers)
    assert transformer_layers(torch.nn.Linear(1, 1)) == []
