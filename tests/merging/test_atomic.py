"""Interrupted at any moment: nothing partial under a final name, nothing left, a rerun succeeds."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from speechft.errors import RunError
from speechft.merging import merge, output
from speechft.storage.files import encoder_digest
from speechft.storage.outputs import RECORD_NAME


def hidden(folder: Path) -> list[str]:
    """Return what is left over; the record of what was written is none of it."""
    return [p.name for p in folder.iterdir() if p.name.startswith(".") and p.name != RECORD_NAME]


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Let writes beyond ``limit`` bytes of a file fail, as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("name", ["out", "out.safetensors", "out.pt"])
@pytest.mark.parametrize("limit", [0, 4_000, 20_000])
def test_a_refused_write_leaves_nothing(name: str, limit: int, pair: Any, tmp_path: Path) -> None:
    base, tuned = pair
    with pytest.raises(RunError, match="cannot write"), file_size_limit(limit):
        merge(base, tuned, out=tmp_path / name)
    assert not (tmp_path / name).exists()
    assert not hidden(tmp_path)
    merge(base, tuned, out=tmp_path / name)
    assert (tmp_path / name).exists()


def test_full_disk_says_so_and_keeps_the_old_result(
    pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = pair
    first = merge(base, tuned, alpha=0.1, out=tmp_path / "out").out_digest
    real: Callable[..., None] = output.SafetensorsWriter._put
    calls = iter(range(1000))

    def put(self: Any, data: Any) -> None:
        if next(calls) == 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, data)

    with monkeypatch.context() as patched:
        patched.setattr(output.SafetensorsWriter, "_put", put)
        with pytest.raises(RunError, match="no space left") as caught:
            merge(base, tuned, alpha=0.2, out=tmp_path / "out")
    assert "free some space" in str(caught.value)
    assert encoder_digest(tmp_path / "out") == first
    assert not hidden(tmp_path)
    assert merge(base, tuned, alpha=0.2, out=tmp_path / "out").out_digest != first


def test_a_folder_that_was_moved_away_comes_back(pair: Any, tmp_path: Path) -> None:
    """Killed between the two renames that replace a folder."""
    base, tuned = pair
    merge(base, tuned, alpha=0.1, out=tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.old")
    merge(base, tuned, alpha=0.2, out=tmp_path / "out")
    assert not hidden(tmp_path)
    assert json.loads((tmp_path / "out" / "merge.json").read_text())["alpha"] == 0.2


@pytest.mark.parametrize("name", ["out", "out.safetensors", "out.pt"])
def test_what_a_killed_run_left_is_cleared_away(name: str, pair: Any, tmp_path: Path) -> None:
    base, tuned = pair
    merge(base, tuned, out=tmp_path / name)
    before = merge(base, tuned, out=tmp_path / name).out_digest
    left = tmp_path / f".{name}.partial"
    left.mkdir()
    for file in (name, "model.safetensors", "model-00001-of-00002.safetensors"):
        (left / file).write_bytes(b"x" * 1_000_000)
    assert merge(base, tuned, out=tmp_path / name).out_digest == before
    assert not hidden(tmp_path)


LOOP = """
import itertools, sys
from speechft.merging import merge
base, tuned, out = sys.argv[1:]
for step in itertools.count(1):
    merge(base, tuned, alpha=0.1 + 0.1 * (step % 3), out=out)
    merge(base, tuned, alpha=0.1 + 0.1 * (step % 3), out=out + '.safetensors')
    print(step, flush=True)
"""


@pytest.mark.integration
def test_killed_at_random_times(tmp_path: Path) -> None:
    """Enough tensors for some milliseconds of writing; what is visible is always whole."""
    generator = np.random.default_rng(0)
    names = [f"part{i}.weight" for i in range(40)]
    base = {n: generator.standard_normal(40_000).astype(np.float32) for n in names}
    tuned = {n: w + np.float32(0.01) for n, w in base.items()}
    for folder, state in (("base", base), ("tuned", tuned)):
        (tmp_path / folder).mkdir()
        save_file(state, tmp_path / folder / "model.safetensors")
        (tmp_path / folder / "config.json").write_text("{}")
    out, file = tmp_path / "out", tmp_path / "out.safetensors"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    chance = random.Random(4)
    for _ in range(6):
        command = [sys.executable, "-c", LOOP, tmp_path / "base", tmp_path / "tuned", out]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()  # at least one merge is done
        time.sleep(chance.random() * 0.3)
        process.kill()
        process.wait()
        process.stdout.close()
        for path in (out / "model.safetensors", file):
            if path.exists():
                state = load_file(path)
                alphas = {round(float(np.mean(state[n] - base[n])) / 0.01, 3) for n in names}
                assert len(alphas) == 1, path
                if path != file:
                    stated = json.loads((out / "merge.json").read_text())["alpha"]
                    assert alphas == {round(stated, 3)}
    report = merge(tmp_path / "base", tmp_path / "tuned", alpha=0.5, out=out)
    assert encoder_digest(out) == report.out_digest
    merge(tmp_path / "base", tmp_path / "tuned", alpha=0.5, out=file)
    assert not hidden(tmp_path)


def test_two_merges_into_one_place_do_not_mix(pair: Any, tmp_path: Path) -> None:
    from speechft.runs import lock

    base, tuned = pair
    with lock(tmp_path / ".out.partial"), pytest.raises(RunError, match="in use"):
        merge(base, tuned, out=tmp_path / "out")
