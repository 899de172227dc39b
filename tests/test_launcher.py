"""What started this process: torchrun, Accelerate, MPI or nobody; and really launched by each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import TINY
from processes import free_port
from speechft import launcher
from speechft.data.manifest import Corpus

OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}
KNOWN = {
    "nobody": ({}, (0, 1, None)),
    "torchrun": ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (5, 8, 1)),
    "Open MPI": ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_RANK": "1"}, (3, 4, 1)),
    "Intel MPI": ({"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALRANKID": "0"}, (1, 2, 0)),
    "torchrun within MPI": ({**OPEN_MPI, "RANK": "0", "WORLD_SIZE": "2"}, (0, 2, None)),
    "a script that says nothing of it": ({"RANK": "", "WORLD_SIZE": "x"}, (0, 1, None)),
}
TOLD = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture(autouse=True)
def _unlaunched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*launcher._RANK, *launcher._SIZE, *launcher._LOCAL, *TOLD):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", KNOWN)
def test_rank_size_and_place_of(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables, expected = KNOWN[name]
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert (launcher.rank(), launcher.size(), launcher.local_rank()) == expected


def test_torch_reads_what_mpi_said(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher.adopt()
    assert "RANK" not in os.environ, "nobody launched it"
    for key, value in OPEN_MPI.items():
        monkeypatch.setenv(key, value)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")  # so that monkeypatch takes away what is set here
        monkeypatch.delenv(name)
    launcher.adopt()
    found = [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    assert found == ["3", "4", "0"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [({}, True), (OPEN_MPI, False), ({"RANK": "0", "WORLD_SIZE": "1"}, False)],
)
def test_one_that_was_to_be_several(
    more: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not launcher.alone_of_several()
    for key, value in {**TOLD, **more}.items():
        monkeypatch.setenv(key, value)
    assert launcher.alone_of_several() is expected
    monkeypatch.delenv("MASTER_ADDR")
    assert not launcher.alone_of_several(), "accelerate launch of one process"


_RECIPE = {
    "title": "launched",
    "architecture": TINY,
    "targets": {"clusters": 4, "fit_frames": 300},
    "dropout": {"layerdrop": 0.0},
    "max_duration": 0.5,
    "optimization": {"steps": 3, "learning_rate": 1e-3, "batch_utterances": 3, "precision": "fp32"},
}
_ACCELERATE = ["accelerate.commands.launch", "--num_processes=2", "--num_machines=1"]
_ACCELERATE += ["--mixed_precision=no", "--dynamo_backend=no"]
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc_per_node=2", "--master_port={port}"],
    "accelerate launch": [*_ACCELERATE, "--multi_gpu", "--main_process_port={port}"],
    "accelerate launch by MPI": [
        *_ACCELERATE,
        *("--cpu", "--mpirun_hostfile={folder}/hosts", "--main_process_port={port}"),
    ],
    "accelerate launch on a processor": [*_ACCELERATE, "--cpu"],
}


def _pretrain(launched: list[str], folder: Path, out: str) -> str:
    given = [part.format(port=free_port(), folder=folder) for part in launched]
    verb = ["-m", "speechft", "pretrain", str(folder / "recipe.yaml"), "--out", str(folder / out)]
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment = {**os.environ, **allowed, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", *given, *verb]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.mark.long
def test_every_launcher_pretrains_the_same(tmp_path: Path, tones: Corpus) -> None:
    """From the command line, as users type it; on GPUs ``--multi_gpu`` is what is understood."""
    recipe = {**_RECIPE, "corpus": str(tones.folder)}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    weights = {}
    for name, launched in LAUNCHERS.items():
        if "MPI" in name and shutil.which("mpirun") is None:
            continue
        said = _pretrain(launched, tmp_path, name)
        alone = name == "accelerate launch on a processor"
        assert ("started this process alone" in said) is alone, said
        assert f"on {1 if alone else 2} processes" in said, said
        assert said.count("k-means: 4 clusters") == 1, "the first process alone speaks"
        weights[name] = (tmp_path / name / "encoder" / "model.safetensors").read_bytes()
    assert weights["accelerate launch"] == weights["torchrun"]
    assert weights.get("accelerate launch by MPI", weights["torchrun"]) == weights["torchrun"]
