"""Two processes (gloo): FSDP equals one process, states are gathered, followers follow."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers import tiny_encoder
from speechft.data.manifest import Corpus
from speechft.errors import RunError
from speechft.finetuning.distributed import make_accelerator, transformer_layers

pytestmark = pytest.mark.integration

_TRAIN = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from helpers import tiny_encoder
from speechft.data.manifest import open_corpus
from speechft.finetuning.finetune import FinetuningConfig, finetune_encoder
torch.set_num_threads(1)
utterances, accumulation = map(int, sys.argv[4:6])
config = FinetuningConfig(
    task="pr", steps=12, learning_rate=3e-3, hidden=None, batch_utterances=utterances,
    accumulation=accumulation, checkpoint_every=4, evaluate_every=6, precision="fp32",
    trackers=(), head_only=0.4,
)
corpus = open_corpus(Path(sys.argv[2]))
finetune_encoder(tiny_encoder(), config, corpus, Path(sys.argv[3]), seed=1, splits=("train", "dev"))
"""


def _port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _launch(arguments: list[str], processes: int, **environment: str) -> str:
    command = [sys.executable, *arguments]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
        command = [sys.executable, *launcher, f"--master_port={_port()}", *arguments]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def _train(
    folder: Path, corpus: Corpus, processes: int, *, fsdp: bool = False
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train with the same global batch whatever the number of processes."""
    script = folder.parent / "train.py"
    script.write_text(_TRAIN)
    arguments = [str(script), str(Path(__file__).parents[1]), str(corpus.folder), str(folder), "3"]
    arguments += [str(2 // processes)]
    _launch(arguments, processes, ACCELERATE_USE_FSDP="true" if fsdp else "false")
    losses = json.loads((folder / "history.json").read_text())["losses"]
    return losses, load_file(folder / "encoder" / "model.safetensors")


@pytest.fixture(scope="module")
def sharded(
    tmp_path_factory: pytest.TempPathFactory, tones: Corpus
) -> tuple[Path, list[float], dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("sharded") / "run"
    return folder, *_train(folder, tones, 2, fsdp=True)


def test_fsdp_equals_one_process_through_the_change_of_phase(
    tmp_path: Path, tones: Corpus, sharded: tuple[Path, list[float], dict[str, torch.Tensor]]
) -> None:
    _, losses, theirs = sharded
    one, weights = _train(tmp_path / "one", tones, 1)
    base = tiny_encoder().model.state_dict()
    moved = [name for name in base if not torch.equal(base[name], weights[name])]
    assert len(moved) > 20, "the encoder learned after the head-only updates"
    assert losses == pytest.approx(one, abs=1e-4)
    assert set(theirs) == set(weights)
    for key, tensor in weights.items():
        # Adam divides by the root of tiny second moments, which blows rounding up
        assert torch.allclose(theirs[key], tensor, atol=3e-3), key
        if key.startswith("feature_extractor."):
            assert torch.equal(theirs[key], base[key]), key


def test_a_sharded_training_goes_on_from_its_gathered_checkpoint(
    tmp_path: Path, tones: Corpus, sharded: tuple[Path, list[float], dict[str, torch.Tensor]]
) -> None:
    folder, losses, weights = sharded
    checkpoints = sorted((folder / ".checkpoints").glob("step-*.pt"))
    assert [path.name[:13] for path in checkpoints] == ["step-00000008", "step-00000012"]
    state = torch.load(checkpoints[0], weights_only=True)
    assert {type(tensor) for tensor in state["weights"].values()} == {torch.Tensor}
    assert state["weights"]["encoder.model.encoder.layer_norm.weight"].shape == (24,)
    cut = tmp_path / "cut"
    shutil.copytree(folder / ".checkpoints", cut / ".checkpoints")
    (cut / ".checkpoints" / checkpoints[1].name).unlink()
    again, resumed = _train(cut, tones, 2, fsdp=True)
    assert again == losses
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


_RECIPE = """
title: two processes
encoder: {encoder}
data: {{corpus: {corpus}}}
finetuning:
  {{task: sid, steps: 6, learning_rate: 5.0e-3, hidden: null, precision: fp32, trackers: []}}
baselines: [plain]
evaluation: {{tasks: [sid], floors: []}}
"""


def test_followers_take_part_in_fine_tuning_and_in_nothing_else(
    tmp_path: Path, tiny_hubert: Path, tones: Corpus
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(_RECIPE.format(encoder=tiny_hubert, corpus=tones.folder))
    said = _launch(["-m", "speechft", "run", str(recipe), "--out", str(tmp_path / "run")], 2)
    assert said.count("stable fine-tuning on sid: dev") == 1
    assert said.count("plain fine-tuning on sid: dev") == 1
    assert said.count("report: ") == 1
    assert (tmp_path / "run" / "merged" / "model.safetensors").is_file()
    history = json.loads((tmp_path / "run" / "finetuning" / "stable" / "history.json").read_text())
    assert len(history["losses"]) == 6


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
