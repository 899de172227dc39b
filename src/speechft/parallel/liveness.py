"""Which processes are alive: one of this machine as the system says, all by their heartbeat.

Clocks are never compared: a heartbeat is a number that goes up, and what counts is how long it has
stayed the same while another process watched, by that one's clock. Who was asleep or busy itself
has not watched: two that are stopped and woken together do not take each other for dead.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Mapping
from typing import Any

from speechft.storage.disk import reading

BEAT = 5.0
"""Seconds between heartbeats."""
PATIENCE = 60.0
"""Seconds without a heartbeat after which a process is replaced: killed, stopped, or hung."""
_HIDDEN = "?"
"""When a process began that is there, but of which the system says no more."""


class Heartbeats:
    """What this process has seen of the heartbeats of others."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Any, float]] = {}
        self._looked = time.monotonic()

    def lives(self, token: str, process: Mapping[str, Any]) -> bool:
        """Return whether a process is alive and at work, as far as can be known from here.

        Args:
            token: Its name.
            process: What it says of itself, see `myself`, with a ``beat``.
        """
        if is_gone(process):
            return False
        beat, now = process.get("beat"), time.monotonic()
        if now - self._looked > PATIENCE / 2:
            self._seen.clear()
        self._looked = now
        before = self._seen.setdefault(token, (beat, now))
        if before[0] != beat:
            self._seen[token] = before = (beat, now)
        return now - before[1] < PATIENCE


def myself() -> dict[str, Any]:
    """Return what tells this process from all others, on any machine."""
    pid = os.getpid()
    host = os.uname().nodename
    return {"machine": machine(), "host": host, "pid": pid, "started": _started(pid)}


def is_gone(process: Mapping[str, Any]) -> bool:
    """Return whether a process of this machine has ended; False for those of others."""
    if process.get("machine") != machine():
        return False
    started = _started(process.get("pid"))
    return started not in (_HIDDEN, process.get("started"))


def machine() -> str:
    """Return what tells machines apart, and containers that count processes by themselves."""
    parts = [os.uname().nodename]
    with contextlib.suppress(OSError):
        parts.append(_system_text("/proc/sys/kernel/random/boot_id").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def _system_text(place: str) -> str:
    with reading(place) as file:
        return file.read().decode("utf-8", "replace")


def _started(process: Any) -> str | None:
    """Return what a process of this machine began with; None where it is not alive."""
    if not isinstance(process, int) or process <= 0:
        return None
    try:
        text = _system_text(f"/proc/{process}/stat")
    except OSError:  # no such process, or another user's that is hidden, or no such folder: macOS
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass
        return _HIDDEN
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
