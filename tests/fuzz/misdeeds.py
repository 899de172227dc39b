"""Targets that do what no reader may, to see that the watch notices."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from fuzz.targets import REFUSALS as REFUSALS
from fuzz.targets import Target
from fuzz.watch import MARK


def warm(fixtures: Path) -> None:
    """Prepare nothing."""


def _run(*_: object) -> None:
    subprocess.run(["touch", MARK], check=True)


def _write(folder: Path, *_: object) -> None:
    os.mkdir(folder.parent.parent / f"fuzz-outside-{os.getpid()}")
    os.rmdir(folder.parent.parent / f"fuzz-outside-{os.getpid()}")


def _read(*_: object) -> None:
    Path("/etc/hostname").read_bytes()


def _send(*_: object) -> None:
    socket.create_connection(("127.0.0.1", 9), timeout=1)


def _raise(*_: object) -> None:
    raise KeyError("x")


TARGETS = {
    "run": Target(_run),
    "write": Target(_write),
    "read": Target(_read, reads_inside=True),
    "send": Target(_send),
    "raise": Target(_raise),
}
