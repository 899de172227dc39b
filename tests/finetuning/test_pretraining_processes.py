"""Pre-training by two processes (gloo): targets and losses of one, sharding, kills, resume."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import TINY
from processes import Child, two, two_ranks
from speechft.data.batching import Batch
from speechft.data.manifest import Corpus, open_corpus
from speechft.finetuning.config import PretrainingConfig, Targets
from speechft.finetuning.masked_prediction import HubertObjective
from speechft.finetuning.optimization import Optimization
from speechft.finetuning.pretraining import pretrain
from speechft.finetuning.state import load_checkpoint

pytestmark = pytest.mark.integration

_CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from finetuning.test_pretraining_processes import WORK
from speechft.data.manifest import open_corpus
WORK[sys.argv[2]](open_corpus(Path(sys.argv[3])), Path(sys.argv[4]))
import torch
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""
_DROPOUT = {"hidden_dropout": 0.1, "feat_proj_dropout": 0.1}


def run(corpus: Corpus, folder: Path, accumulation: int = 2, layerdrop: float = 0.0) -> None:
    """Pre-train with the same 12 utterances an update whatever the number of processes.

    Whatever was drawn before, as here, the weights depend on the seed alone.
    """
    torch.set_num_threads(1)
    torch.manual_seed(int(os.environ.get("RANK", "0")))
    config = PretrainingConfig(
        architecture=TINY,
        targets=Targets(clusters=4, passes=2, fit_frames=300),
        max_duration=0.5,
        downsampler_gradient=0.5,
        feature_penalty=1.0,
        dropout={**_DROPOUT, "layerdrop": layerdrop},
        optimization=Optimization(
            steps=8,
            learning_rate=3e-3,
            batch_utterances=3,
            accumulation=accumulation,
            checkpoint_every=3,
            precision="fp32",
        ),
    )
    pretrain(config, corpus, folder)


def alone(corpus: Corpus, folder: Path) -> None:
    run(corpus, folder / "alone", accumulation=4, layerdrop=0.3)
    run(corpus, folder / "alone without", accumulation=4)


def together(corpus: Corpus, folder: Path) -> None:
    run(corpus, folder / "ddp", layerdrop=0.3)
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    run(corpus, folder / "fsdp")
    if torch.distributed.get_rank() == 0:
        shutil.copytree(folder / "fsdp" / ".checkpoints", folder / "resumed" / ".checkpoints")
        max((folder / "resumed" / ".checkpoints").glob("step-*.pt")).unlink()
    torch.distributed.barrier()
    run(corpus, folder / "resumed")


def killed(corpus: Corpus, folder: Path) -> None:
    """Die between the two parts of the fifth update: the one process, or the second of two."""
    forward, calls = HubertObjective.forward, []

    def fatal(self: HubertObjective, batch: Batch) -> Tensor:
        calls.append(batch)
        if len(calls) == 10 and os.environ.get("RANK", "1") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(self, batch)

    HubertObjective.forward = fatal  # type: ignore[method-assign]
    again(corpus, folder)


def again(corpus: Corpus, folder: Path) -> None:
    run(corpus, folder / "killed", layerdrop=0.3)


WORK = {"alone": alone, "together": together, "killed": killed, "again": again}


def _arguments(work: str, corpus: Corpus, folder: Path) -> list[str]:
    return [str(Path(__file__).parents[1]), work, str(corpus.folder), str(folder)]


def _state(folder: Path) -> dict[str, Any]:
    state = load_checkpoint(folder / ".checkpoints")
    assert state is not None
    assert state["step"] == 8
    return state


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    weights = one["weights"]
    same = all(torch.equal(weights[name], other["weights"][name]) for name in weights)
    return same and one["history"]["losses"] == other["history"]["losses"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tones: Corpus) -> Path:
    """Return where one process, two by DDP and two that share the weights have pre-trained."""
    folder = tmp_path_factory.mktemp("pretrained")
    two(_CHILD, _arguments("together", tones, folder), folder)
    alone(open_corpus(tones.folder), folder)
    return folder


@pytest.mark.parametrize(("kind", "one"), [("ddp", "alone"), ("fsdp", "alone without")])
def test_two_processes_equal_one_that_accumulates(kind: str, one: str, done: Path) -> None:
    for name in ("clusters.i16", "centroids.npy", "keys.npy", "places.npy"):
        theirs, ours = ((done / which / "targets" / name).read_bytes() for which in (kind, one))
        assert theirs == ours, f"{name}: to the bit"
    assert not (done / kind / "targets" / "frames.f32").exists()
    theirs, ours = _state(done / kind), _state(done / one)
    assert theirs["history"]["losses"] == pytest.approx(ours["history"]["losses"], abs=1e-4)
    assert np.ptp(ours["history"]["losses"]) > 0.01
    for name, tensor in ours["weights"].items():
        # Adam divides by the root of tiny second moments, which blows rounding up
        assert torch.allclose(theirs["weights"][name], tensor, atol=3e-3), name
    assert (done / kind / "encoder" / "model.safetensors").is_file()


def test_a_sharded_pretraining_resumes_to_the_bit(done: Path) -> None:
    assert _same(_state(done / "fsdp"), _state(done / "resumed"))


def test_a_process_killed_within_an_update_goes_on_to_the_bit(
    tmp_path: Path, tones: Corpus
) -> None:
    child = Child(_CHILD, _arguments("killed", tones, tmp_path), tmp_path)
    assert child.wait()[0] == -signal.SIGKILL
    kept = load_checkpoint(tmp_path / "killed" / ".checkpoints")
    assert kept is not None
    assert kept["step"] == 3
    again(tones, tmp_path)
    run(tones, tmp_path / "whole", layerdrop=0.3)
    assert _same(_state(tmp_path / "killed"), _state(tmp_path / "whole"))


@pytest.mark.long
def test_two_of_which_one_is_killed_within_an_update_go_on_to_the_bit(
    tmp_path: Path, tones: Corpus, done: Path
) -> None:
    first, second = two_ranks(_CHILD, _arguments("killed", tones, tmp_path), tmp_path)
    assert second[0] == -signal.SIGKILL
    assert first[0] != 0, "it does not go on alone"
    two(_CHILD, _arguments("again", tones, tmp_path), tmp_path)
    assert _same(_state(tmp_path / "killed"), _state(done / "ddp"))
