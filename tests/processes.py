"""Child processes for tests, forked from one server that has imported the heavy libraries already.

A fresh interpreter takes five seconds to import torch and transformers; a fork of the server takes
none. Children are processes of their own: they can be killed, and they share nothing with the test.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

_PRELOAD = (
    "torch",
    "lhotse",
    "accelerate",
    "transformers.models.hubert.modeling_hubert",
    "speechft.pipeline",
    "speechft.features.files",
    "speechft.cli",
)
VERB = "from speechft.cli import main; main()"
"""Code of a child that runs the command line with its arguments."""


class Child:
    """A running child.

    Args:
        code: Python code that it runs as its main program.
        arguments: ``sys.argv[1:]`` of it.
        folder: Where its output goes, as ``<name>.out`` and ``<name>.err``.
        name: Of the files.
        environment: Variables that it has beside those of the test.
    """

    def __init__(
        self,
        code: str,
        arguments: Sequence[str],
        folder: Path,
        *,
        name: str = "child",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_PRELOAD))
        self._files = [folder / f"{name}.{end}" for end in ("out", "err")]
        given = (code, list(arguments), dict(environment or {}), list(map(str, self._files)))
        self._process = context.Process(target=_execute, args=given)
        self._process.start()

    @property
    def running(self) -> bool:
        """Return whether it has not ended."""
        return self._process.is_alive()

    def kill(self) -> None:
        """End it and its own children at once (SIGKILL)."""
        self.send(signal.SIGKILL)
        self._process.join()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it and its own children."""
        assert self.running, self._files[1].read_text()
        assert self._process.pid is not None
        os.killpg(self._process.pid, number)

    def wait(self, timeout: float = 280) -> tuple[int, str, str]:
        """Return its exit code, what it printed, and what it said on stderr."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
        code = self._process.exitcode
        out, err = (file.read_text() if file.exists() else "" for file in self._files)
        assert code is not None
        return code, out, err


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def two_ranks(code: str, arguments: Sequence[str], folder: Path) -> list[tuple[int, str, str]]:
    """Run code in two processes, as a launcher would start them; return how each ended."""
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    group |= {"ACCELERATE_USE_CPU": "true", "LOCAL_WORLD_SIZE": "2"}
    children = [
        Child(
            code,
            arguments,
            folder,
            name=f"rank-{rank}",
            environment={**group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    return [child.wait() for child in children]


def two(code: str, arguments: Sequence[str], folder: Path) -> str:
    """Run code in two processes to its end; return what they said."""
    ended = two_ranks(code, arguments, folder)
    assert [code for code, _, _ in ended] == [0, 0], ended[0][2][-3000:] + ended[1][2][-3000:]
    return "".join(said for _, _, said in ended)


def _execute(
    code: str, arguments: list[str], environment: dict[str, str], files: list[str]
) -> None:
    """Run code in the child as if Python had been started with it."""
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # the server would pass its own on
    os.environ.update(environment)
    for number, name in enumerate(files, start=1):
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv = ["-c", *arguments]
    import torch

    torch.set_num_threads(1)
    try:
        exec(compile(code, "<child>", "exec"), {"__name__": "__main__"})
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
