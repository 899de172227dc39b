"""Runs cases in a child process under watch: what it starts, opens, sends, takes and how long."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fuzz.cases import Case

SECONDS = 20
"""More of the processor, and a case counts as a hang."""
WAITING = 300
"""Seconds that a case may wait, on a machine that others use too."""
MEMORY = 2 << 30
"""Bytes of address space that a case may take beside what was there before."""
FRESH = 250
"""Cases after which the child is a new one."""
MARK = "fuzz-was-here"
"""Name of the file that planted commands would make."""

_EXECUTIONS = frozenset(
    {
        *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn"),
        *("os.fork", "os.forkpty", "os.startfile", "code.__new__", "ctypes.dlopen"),
    }
)
_SOCKETS = frozenset(
    {
        *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname"),
        *("socket.sendto", "urllib.Request", "http.client.connect", "ftplib.connect"),
    }
)
_CHANGES = frozenset(
    {
        *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod"),
        *("os.truncate", "os.chown", "os.utime", "shutil.rmtree", "shutil.move"),
    }
)


@dataclass
class Outcome:
    """What a case did."""

    result: str
    """``ok``, ``refused``, ``traceback``, ``hang`` or ``killed``."""
    told: str = ""
    executions: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """Sockets of a case whose arguments hold an address or an id of the hub."""
    memory: int = 0
    """Bytes of the peak beside what was resident before."""
    seconds: float = 0.0

    @property
    def bad(self) -> bool:
        """Return whether a promise is broken."""
        return (
            self.result not in ("ok", "refused")
            or bool(self.executions or self.writes or self.reads or self.sockets)
            or self.memory > MEMORY
        )


class _Watch:
    """An audit hook, which cannot be taken away again: it is told when to look."""

    def __init__(self, inside: list[str], readable: list[str]) -> None:
        self.outcome: Outcome | None = None
        self.strict = False
        self._inside, self._readable = inside, readable
        sys.addaudithook(self._see)

    def _see(self, event: str, given: tuple[Any, ...]) -> None:
        outcome = self.outcome
        if outcome is None:
            return
        if event in _EXECUTIONS:
            if event != "code.__new__" and not (event == "ctypes.dlopen" and not given[0]):
                outcome.executions.append(f"{event} {str(given)[:200]}")
                raise PermissionError("the fuzz lets nothing be run")
        elif event in _SOCKETS:
            outcome.sockets.append(f"{event} {str(given)[:200]}")
            raise PermissionError("the fuzz lets nothing be sent")
        elif event == "open":
            path, mode, flags = given
            writing = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
            self._path(path, writing or (isinstance(mode, str) and set(mode) & set("wax+")))
        elif event in _CHANGES:
            for path in given[:2]:
                if isinstance(path, str | bytes | os.PathLike):
                    self._path(path, True)

    def _path(self, path: Any, writing: Any) -> None:
        if isinstance(path, int) or self.outcome is None:
            return
        with contextlib.suppress(ValueError, TypeError):
            place = os.path.realpath(os.fsdecode(path))
            if place == "/dev/null" or place.startswith(tuple(self._inside)):
                return
            if writing:
                self.outcome.writes.append(place[:200])
            elif self.strict and not place.startswith(tuple(self._readable)):
                self.outcome.reads.append(place[:200])


def _serve(pipe: Connection, fixtures: Path, targets: str) -> None:
    """Run in the child: cases come in, outcomes go out."""
    import importlib
    import warnings

    warnings.simplefilter("ignore")
    sys.dont_write_bytecode = True  # Python's own notes are no writes of ours
    module = importlib.import_module(targets)
    module.warm(fixtures)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.environ |= {"SPEECHFT_CACHE": str(fixtures / "cache")}
    here = Path(tempfile.mkdtemp(prefix="fuzz-"))
    tempfile.tempdir = str(here)
    known = [sys.prefix, sys.base_prefix, "/proc", "/sys", "/usr", "/lib", "/etc/ld.so"]
    known += [str(Path(module.__file__).parents[2]), "/dev/urandom", "/etc/localtime"]
    watch = _Watch([str(here), str(fixtures / "cache")], [*known, str(fixtures)])
    while True:
        try:
            given = pipe.recv()
        except EOFError:
            break
        if given is None:
            break
        case, place = given
        folder = here / "case"
        folder.mkdir()
        case.write(folder)
        os.chdir(folder)
        pipe.send("ready")
        outcome = Outcome("ok")
        target = module.TARGETS[case.target]
        watch.strict = target.reads_inside
        before = _resident(reset=True)
        limit = _virtual() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        start = time.process_time()
        try:
            watch.outcome = outcome
            target.run(folder, fixtures, case.arguments)
        except module.REFUSALS as error:
            outcome.result, outcome.told = "refused", str(error)[:300]
            if "\n  File " in str(error):
                outcome.result = "traceback"
        except BaseException:
            outcome.result, outcome.told = "traceback", traceback.format_exc()[-3_000:]
        finally:
            watch.outcome = None
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        outcome.seconds = time.process_time() - start
        outcome.memory = max(0, _resident() - before)
        os.chdir(here)
        for path in (place / MARK, folder / MARK, here / MARK):
            if path.exists():
                outcome.executions.append(f"made {path}")
                path.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        _empty(here)
        pipe.send(outcome)
    shutil.rmtree(here, ignore_errors=True)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def _virtual() -> int:
    return _status("VmSize:")


def _resident(*, reset: bool = False) -> int:
    """Return the peak of resident memory; after a reset, that of now."""
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return _status("VmHWM:")


class Runner:
    """Runs cases one after the other in a child that is replaced when it breaks.

    Args:
        fixtures: Folder of encoders and corpora that cases may read.
        targets: Module of the targets.
    """

    def __init__(self, fixtures: Path, targets: str = "fuzz.targets") -> None:
        self._fixtures, self._targets = fixtures, targets
        self._context = multiprocessing.get_context("fork")
        self._process: Any = None
        self._pipe: Any = None
        self._left = 0

    def run(self, case: Case) -> Outcome:
        """Run a case."""
        if self._left <= 0:
            self.close()
            self._start()
        self._left -= 1
        try:
            self._pipe.send((case, self._fixtures))
            if not self._pipe.poll(120) or self._pipe.recv() != "ready":
                raise EOFError
            start, before = time.monotonic(), self._computed()
            while time.monotonic() - start < WAITING and self._computed() - before < SECONDS:
                if self._pipe.poll(0.5):
                    outcome: Outcome = self._pipe.recv()
                    if case.asks_network:
                        outcome.asked, outcome.sockets = outcome.sockets, []
                    return outcome
            took = f"{self._computed() - before:.0f} s of the processor"
            return self._ended(Outcome("hang", took, seconds=time.monotonic() - start))
        except (EOFError, OSError):
            return self._ended(Outcome("killed"))

    def _start(self) -> None:
        mine, theirs = self._context.Pipe()
        arguments = (theirs, self._fixtures, self._targets)
        self._process = self._context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._pipe, self._left = mine, FRESH

    def _computed(self) -> float:
        """Return the seconds of the processor that the child has taken."""
        with contextlib.suppress(OSError):
            cells = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(cells[11]) + int(cells[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def _ended(self, outcome: Outcome) -> Outcome:
        self._process.join(1)
        if outcome.result == "killed":
            outcome.told = f"exit code {self._process.exitcode}"
        elif self._process.is_alive():
            with contextlib.suppress(OSError):
                os.kill(self._process.pid, signal.SIGKILL)
        self._left = 0
        return outcome

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._pipe.send(None)
            self._pipe.close()
            self._process.join(5)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process = None


Run = Callable[[Path, Path, tuple[str, ...]], Any]
