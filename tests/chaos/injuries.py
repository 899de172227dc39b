"""Verbs that are injured at random moments and run again, compared to the bit with whole ones.

One folder is made anew for every trial, always under the same path, so that nothing that a path
changes can differ. A trial runs in a fork of this process, which has imported everything.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechft.storage.files import file_digest

INJURIES = ("kill", "term", "interrupt", "twice", "full disk", "read-only", "lost input")
_TIMES = ("seconds", "started", "duration")
_RECORDS = (".lock", ".speechft.json")
_BY_TIME = ("report.html", "run.json", "events.out.tfevents")
"""Files that hold the time, or bear it in their names."""


@dataclass(frozen=True)
class Verb:
    """A command that is injured."""

    arguments: tuple[str, ...]
    lost: str
    """Input that is taken away by an injury, and given back before the next run."""


def _settings(*keys: str) -> list[str]:
    return [part for key in keys for part in ("--set", key)]


_TUNING = _settings(
    "encoder=base",
    "data.corpus=tones",
    "finetuning.task=sid",
    "finetuning.steps=6",
    "finetuning.hidden=null",
    "finetuning.checkpoint_every=2",
    "finetuning.evaluate_every=3",
)
_ON_TONES = ("--corpus", "tones", "--out", "out")
_SWEPT = ("base", "tuned", "--tasks", "sid,style", "--tuned-on", "sid", *_ON_TONES)
_PRETRAINING = _settings(
    "corpus=tones",
    "optimization.steps=4",
    "optimization.checkpoint_every=2",
    "targets.clusters=4",
    "architecture.hidden_size=16",
    "architecture.intermediate_size=16",
    "architecture.num_hidden_layers=1",
    "architecture.num_attention_heads=2",
    "architecture.num_conv_pos_embeddings=4",
    "architecture.num_conv_pos_embedding_groups=2",
)
_PREPARE = ("prepare", "librispeech", "archive", "--out", "out", "--jobs", "1")
VERBS = {
    "merge folder": Verb(("merge", "base", "tuned", "--out", "out"), "tuned"),
    "merge tensors": Verb(("merge", "base", "tuned", "--out", "out.safetensors"), "tuned"),
    "merge s3prl": Verb(("merge", "base", "tuned", "--out", "out.pt"), "base"),
    "delta": Verb(("delta", "base", "tuned", "--out", "out.safetensors"), "base"),
    "convert s3prl": Verb(("convert", "base", "out.pt"), "base"),
    "convert hf": Verb(("convert", "old.pt", "out"), "old.pt"),
    "extract": Verb(("extract", "base", "tones", "--out", "out"), "tones"),
    "prepare": Verb(_PREPARE, "archive"),
    "prepare shards": Verb(
        (*_PREPARE, "--shards", "out/shards", "--shard-size", "2"),
        "archive",
    ),
    "finetune": Verb(("finetune", "demo", "--out", "out", *_TUNING), "base"),
    "evaluate": Verb(
        ("evaluate", "base", "--corpus", "tones", "--tasks", "sid,style", "--out", "out"), "tones"
    ),
    "run": Verb(
        (
            *("run", "demo", "--out", "out", *_TUNING),
            *_settings("evaluation.tasks=[sid]", "evaluation.floors=[]", "merging.curve=[]"),
        ),
        "base",
    ),
    "analyze": Verb(
        ("analyze", "base", "tuned", "--measures", "similarity,weights", *_ON_TONES), "tuned"
    ),
    "sweep": Verb(("sweep", *_SWEPT, "--alphas", "0.5,1"), "tuned"),
    "search": Verb(("search", *_SWEPT, "--trials", "2", "--groups", "2"), "tuned"),
    "pretrain": Verb(("pretrain", "pretrain-tiny", "--out", "out", *_PRETRAINING), "tones"),
    "units": Verb(("units", "fit", "base", "tones", "--clusters", "4", "--out", "out"), "tones"),
}


def make_world(folder: Path) -> None:
    """Write what all verbs read: two related encoders, one as a file, recordings, an archive."""
    import torch

    from corpora import miniature
    from helpers import tiny_encoder, tone_corpus
    from speechft.encoders.convert import convert

    folder.mkdir()
    base = tiny_encoder()
    base.save(folder / "base")
    with torch.no_grad():
        for number, parameter in enumerate(base.parameters()):
            torch.manual_seed(number)
            parameter += 0.01 * parameter.std(correction=0) * torch.randn_like(parameter)
    base.save(folder / "tuned")
    (folder / "tones").mkdir()
    tone_corpus(folder / "tones", per_speaker=3)
    miniature(folder / "archive", "librispeech")
    convert(folder / "base", folder / "old.pt")
    (folder / ".speechft.json").unlink()


def command(verb: Verb) -> None:
    """Be the command line, with brief probes."""
    import torch

    from helpers import quicken_probes
    from speechft.cli import main

    torch.set_num_threads(1)
    quicken_probes()
    sys.argv = ["speechft", *verb.arguments]
    main()


def fork(task: Callable[[], Any], folder: Path, output: Path) -> int:
    """Run a task in a fork of this process with a folder as its own; return its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(folder)
        written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(written, 1)
        os.dup2(written, 2)
        task()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 99
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(process: int, limit: float = 240.0) -> int:
    """Return the exit code of a fork, negative for a signal."""
    ends = time.monotonic() + limit
    while time.monotonic() < ends:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise AssertionError("a command did not end")


def content(folder: Path) -> dict[str, str]:
    """Return the digest of everything in a folder, without times and without our own records."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name in _RECORDS or path.name.startswith(_BY_TIME):
            continue
        if path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = json.dumps([_without_times(json.loads(line)) for line in lines])
        elif path.suffix == ".gz":  # its header holds the time
            found[name] = hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()
        else:
            found[name] = file_digest(path)
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_times(item)
            for key, item in value.items()
            if key not in (*_TIMES, "written")
        }
    return [_without_times(item) for item in value] if isinstance(value, list) else value


@dataclass
class Reference:
    """What a verb writes when nothing happens, and how long that takes."""

    content: dict[str, str]
    seconds: float


class Chaos:
    """Trials of verbs below a folder.

    Args:
        place: A new folder for the world and what is made of it.
    """

    def __init__(self, place: Path) -> None:
        self.place, self.world, self.output = place, place / "world", place / "output"
        place.mkdir(exist_ok=True)
        made = fork(lambda: make_world(place / "template"), place, self.output)
        assert wait(made) == 0, self.output.read_text()
        self._whole: dict[str, Reference] = {}

    def reset(self) -> None:
        """Make the world anew."""
        shutil.rmtree(self.world, ignore_errors=True)
        shutil.copytree(self.place / "template", self.world)

    def run(self, verb: Verb) -> int:
        """Run a verb to its end."""
        return wait(fork(lambda: command(verb), self.world, self.output))

    def whole(self, name: str) -> Reference:
        """Return what a verb writes when nothing happens."""
        if name not in self._whole:
            self.reset()
            started = time.monotonic()
            assert self.run(VERBS[name]) == 0, self.output.read_text()
            seconds = time.monotonic() - started
            self._whole[name] = Reference(content(self.world), seconds)
        return self._whole[name]

    def trial(self, name: str, injury: str, moment: float, *, typed: bool = False) -> str | None:
        """Injure a verb, run it again, and return what is wrong; None where nothing is.

        Args:
            name: Of the verb.
            injury: One of `INJURIES`.
            moment: Between 0 and 1, the part of the whole time after which it happens.
            typed: Through a fresh interpreter instead of a fork.
        """
        whole, verb = self.whole(name), VERBS[name]
        self.reset()
        code = self._injured(verb, injury, moment, whole.seconds, typed=typed)
        said = self.output.read_text(errors="replace")
        if "Traceback" in said:
            return f"traceback, exit {code}: {said[-1500:]}"
        allowed = {
            "kill": (0, -signal.SIGKILL),
            "term": (0, 143, -signal.SIGTERM),  # before the handler stands
            "interrupt": (0, 130, -signal.SIGINT),
            "twice": (0, 130, -signal.SIGINT),
        }.get(injury, (0, 1))
        if code not in allowed:
            return f"exit code {code} after {injury}: {said[-1500:]}"
        if (again := self.run(verb)) != 0:
            return f"the next run ended with {again}: {self.output.read_text()[-1500:]}"
        after = content(self.world)
        wrong = [
            n for n in whole.content.keys() | after.keys() if whole.content.get(n) != after.get(n)
        ]
        return f"differs or is left over: {sorted(wrong)[:6]}" if wrong else None

    def _injured(
        self, verb: Verb, injury: str, moment: float, seconds: float, *, typed: bool
    ) -> int:
        if injury in ("full disk", "read-only"):
            number = int(moment * 40)
            task = (_limited if injury == "full disk" else _refusing)(verb, number)
            return wait(fork(task, self.world, self.output))
        if typed:
            child = _typed(verb, self.world, self.output)
            seconds += 2.0
        else:
            child = fork(lambda: command(verb), self.world, self.output)
        time.sleep(moment * seconds)
        signals = {"kill": [signal.SIGKILL], "term": [signal.SIGTERM]}
        signals |= {"interrupt": [signal.SIGINT], "twice": [signal.SIGINT] * 2}
        for number in signals.get(injury, ()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
            time.sleep(0.01)
        if injury != "lost input":
            return wait(child)
        lost = self.world / verb.lost
        lost.rename(self.place / "lost")
        try:
            return wait(child)
        finally:
            (self.place / "lost").rename(lost)


def _typed(verb: Verb, folder: Path, output: Path) -> int:
    code = "from chaos.injuries import VERBS, command; import sys; command(VERBS[sys.argv[1]])"
    name = next(key for key, value in VERBS.items() if value is verb)
    path = os.pathsep.join(part for part in sys.path if part)
    with open(output, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-c", code, name],
            cwd=folder,
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        ).pid


def _limited(verb: Verb, number: int) -> Callable[[], None]:
    """Run with files limited to a size, which is refused as a full disk is, at any write."""

    def task() -> None:
        limit = 200 + number * number * 60
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        command(verb)

    return task


def _refusing(verb: Verb, number: int) -> Callable[[], None]:
    """Run until the disk becomes read-only at some change of a name."""

    def task() -> None:
        left = [number]

        def patched(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
                return call(*arguments, **named)

            return wrapped

        for name in ("replace", "mkdir", "unlink"):
            setattr(os, name, patched(getattr(os, name)))
        command(verb)

    return task
