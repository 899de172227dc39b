"""Claims of units of work in a folder: by any number of processes, on any number of machines.

Processes that are given the same command and folder meet in ``FOLDER/.units``, on one machine or on
several that see the same disk; nothing else connects them. There

* ``process-<token>.json`` says who works here: machine, process, and a number that goes up with
  every heartbeat. It is written before anything is claimed and removed at the end.
* ``<unit>.<n>.json`` is the n-th claim of a unit, made with a hard link: of all that try for the
  same number one succeeds. The highest number counts. A claim whose process is dead, or left the
  unit, is followed by the next number; so a process that was only asleep sees that it was replaced
  (`Claim.check`) before it publishes.

`liveness` says when a process counts as dead. When the last one leaves and nothing failed or is
left, ``.units`` is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from speechft.errors import CheckpointError, RunError, SpeechftError
from speechft.parallel import liveness
from speechft.parallel.liveness import Heartbeats, is_gone, myself
from speechft.storage.disk import remove, sweep
from speechft.storage.files import create_text, json_digest, json_text, read_json, write_error
from speechft.storage.locks import lock, make_scratch, waiting

FOLDER = ".units"

State = Literal["free", "running", "done", "failed", "left", "dead"]


class Claim:
    """The right to do a unit, as long as nobody has replaced this process."""

    def __init__(self, watch: _Watch, seen: Seen, content: dict[str, Any]) -> None:
        self.name = seen.name
        self._watch, self._number, self._content = watch, seen.number + 1, content
        before = seen.process if seen.state == "dead" else None
        self.over_sleeper = before is not None and not is_gone(before)
        """Whether who had it before may still be there, stopped or hung, and hold its locks."""

    def is_replaced(self) -> bool:
        """Return whether another process has taken over, or all has been done and cleared away."""
        return self._watch.newest(self.name)[0] != self._number

    def check(self) -> None:
        """Make sure that the unit is still this process's.

        Raises:
            RunError: This process showed no sign of life for so long that another took over.
        """
        if self.is_replaced():
            raise RunError(
                f"another process took over {self.name}: this one gave no sign of life for "
                f"{liveness.PATIENCE:g} s",
                hint="nothing is lost; give the same command again to do what is left",
            )

    def end(self, state: State, **more: Any) -> None:
        """Write how it ended, unless another process took over: done, failed or left for others."""
        if self.is_replaced():
            return
        path = _claim_file(self._watch.place, self.name, self._number)
        _put(path, {**self._content, "state": state, **more})


@dataclass(frozen=True)
class Seen:
    """What is known of a unit."""

    name: str
    state: State
    number: int = 0
    """Of its newest claim; 0 where there is none."""
    process: Mapping[str, Any] | None = None
    """Who is at it, or was."""
    why: str | None = None
    """What went wrong."""
    content: Mapping[str, Any] | None = None
    step: int | None = None
    """Of a training: the update that its newest checkpoint is of."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        by, content = self.process or {}, self.content or {}
        where = {name: by.get(name) for name in ("host", "pid", "command")} if by else {}
        return {
            "unit": self.name,
            "state": self.state,
            **where,
            "since": content.get("since"),
            "why": self.why,
            "step": self.step,
        }


class Workers:
    """The processes that work in a folder, this one among them while the ``with`` block runs.

    Args:
        folder: The folder that is worked in.
        command: What this process was told to do, for those who look.
        units: Names of what there is to do.
        sweeps: Remove what killed processes left half-written below the folder, where nobody else
            is at work.
    """

    def __init__(
        self, folder: Path, command: str, units: Sequence[str], *, sweeps: bool = False
    ) -> None:
        self._folder, self._place, self._sweeps = folder, folder / FOLDER, sweeps
        self._token = secrets.token_hex(8)
        self._file = self._place / f"process-{self._token}.json"
        self._command, self._units, self._plans = command, list(units), 0
        self._watch = _Watch(self._place)
        self._ending = threading.Event()
        self._serving: dict[str, Callable[[], None]] = {}
        self._serves = threading.Lock()
        self._beats = 0
        self._done: set[str] = set()

    def __enter__(self) -> Workers:
        with self._alone():
            try:
                if self._sweeps and not self._watch.others(self._token):
                    sweep(self._folder, deep=True)
                self.plan(self._units)
                self._beat()
            except OSError as error:
                raise write_error(self._place, error) from error
        self._thread = threading.Thread(target=self._go_on, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        with contextlib.suppress(OSError, SpeechftError), self._alone():
            self._file.unlink(missing_ok=True)
            seen = look(self._folder, self._watch)
            done = all(unit.state == "done" or unit.name in self._done for unit in seen)
            if done and not self._watch.others(self._token):
                for plan in self._place.glob("plan-*.json"):  # killed after this, nothing is left
                    plan.unlink(missing_ok=True)  # to do, so that who leaves next clears the rest
                remove(self._place)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder for a moment; so nobody registers while the last one clears it away."""
        self._folder.mkdir(parents=True, exist_ok=True)
        make_scratch(self._place)
        with waiting(30.0), lock(self._place):
            yield

    def claim(self, name: str, *, again: int = 0) -> Claim | None:
        """Take a unit that is free, or whose process is dead; None where another has it.

        Args:
            name: Of the unit.
            again: A claim that failed or was done and may be followed all the same.
        """
        seen = self.state(name)
        if seen.state == "running" or (seen.state == "failed" and seen.number != again):
            return None
        path = _claim_file(self._place, name, seen.number + 1)
        content = {"process": self._token, "state": "running", "since": int(time.time())}
        try:
            create_text(path, json_text(content), durable=False)
        except FileExistsError:
            return None
        return Claim(self._watch, seen, content)

    def state(self, name: str) -> Seen:
        """Return what is known of a unit."""
        return self._watch.look(name)

    def is_elsewhere(self, name: str) -> bool:
        """Return whether another process is at a unit."""
        seen = self.state(name)
        return seen.state == "running" and (seen.content or {}).get("process") != self._token

    def plan(self, units: Sequence[str]) -> None:
        """Tell those who look what there is to do, of which some may be known only now."""
        content = {"command": self._command, "units": list(units)}
        name = f"plan-{self._plans:04d}-{json_digest(content)[:16]}.json"
        _put(self._place / name, content)
        self._plans += 1

    def note_done(self, name: str) -> None:
        """Have others know of a unit whose outputs are there."""
        self._done.add(name)
        with contextlib.suppress(OSError, RunError):  # all is done and cleared away
            if self.state(name).state != "done" and (claim := self.claim(name)) is not None:
                claim.end("done")

    def ask(self, name: str) -> None:
        """Ask the process that has a unit to hand out what it keeps of it, see `serve`."""
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._asked(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))

    def serve(self, name: str, hand_out: Callable[[], None] | None) -> None:
        """Call a function, in another thread, when a process asks for what this one keeps.

        Args:
            name: Of the unit.
            hand_out: Called once; None ends it, and answers who has asked just now.
        """
        with self._serves:
            before = self._serving.pop(name, None)
            if hand_out is not None:
                self._serving[name] = hand_out
            elif before is not None and self._asked(name).exists():
                before()

    def _asked(self, name: str) -> Path:
        return self._place / f"{_flat(name)}.asked"

    def _go_on(self) -> None:
        """Show signs of life, and answer those who ask."""
        before = time.monotonic()
        while not self._ending.wait(min(liveness.BEAT, 0.5)):
            if time.monotonic() - before >= liveness.BEAT:
                before = time.monotonic()
                with contextlib.suppress(OSError, RunError):
                    self._beat()
            with self._serves:
                for name in [n for n in self._serving if self._asked(n).exists()]:
                    self._serving.pop(name)()

    def _beat(self) -> None:
        self._beats += 1
        _put(self._file, {**myself(), "beat": self._beats, "command": self._command})


def look(folder: Path, watch: _Watch | None = None) -> list[Seen]:
    """Return what is known of all units that processes were told to do in a folder.

    Args:
        folder: The folder that is worked in.
        watch: What is remembered of heartbeats; None looks for the first time, and takes processes
            of other machines for alive.
    """
    watch = watch or _Watch(folder / FOLDER)
    names: dict[str, None] = {}
    for path in sorted(watch.place.glob("plan-*.json")):
        found = _read(path).get("units")
        known = found if isinstance(found, list) else []
        names |= dict.fromkeys(name for name in known if isinstance(name, str))
    return [watch.look(name) for name in names]


def _claim_file(place: Path, name: str, number: int) -> Path:
    return place / f"{_flat(name)}.{number}.json"


def _flat(name: str) -> str:
    """Return the name of a unit as part of the name of a file; long ones are told by a digest."""
    flat = name.replace("/", "--")
    if len(flat) > 150 or not all(c.isalnum() or c in ".-" for c in flat):
        return f"unit-{hashlib.sha256(name.encode()).hexdigest()[:24]}"
    return flat


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(CheckpointError):
        content = read_json(path)
        if isinstance(content, dict):
            return content
    return {}


def _put(path: Path, content: Any) -> None:
    """Write a file in one step; it need not outlive the machine, and no name is another's."""
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        hidden.write_text(json_text(content))
        os.replace(hidden, path)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise write_error(path, error) from error


class _Watch:
    """What this process has seen of claims and of the heartbeats of others.

    Args:
        place: Where processes register.
    """

    def __init__(self, place: Path) -> None:
        self.place, self._heartbeats = place, Heartbeats()
        self._numbers: dict[str, int] = {}

    def newest(self, name: str) -> tuple[int, dict[str, Any]]:
        """Return number and content of the claim that counts; 0 where there is none."""
        number = self._numbers.get(name, 0)
        if number and not _claim_file(self.place, name, number).exists():
            number = 0  # all was cleared away, and others began anew
        while _claim_file(self.place, name, number + 1).exists():
            number += 1
        self._numbers[name] = number
        return number, _read(_claim_file(self.place, name, number)) if number else {}

    def look(self, name: str) -> Seen:
        """Return what is known of a unit."""
        number, content = self.newest(name)
        if not number:
            return Seen(name, "free")
        token, state = str(content.get("process")), str(content.get("state"))
        process, why = self.process(token), content.get("why")
        if state not in ("done", "failed", "left"):
            alive = process is not None and self._heartbeats.lives(token, process)
            state = "running" if alive else "dead"
        why = why if isinstance(why, str) else None
        return Seen(name, cast(State, state), number, process, why, content)

    def process(self, token: str) -> Mapping[str, Any] | None:
        """Return what a process says of itself; None where it has ended in order, or is none.

        Where that cannot be read just now, it is nothing, and its heartbeat stands still.
        """
        path = self.place / f"process-{token}.json"
        return _read(path) or ({} if path.exists() else None)

    def others(self, own: str) -> list[str]:
        """Return the other processes that are alive; what dead ones said of themselves goes."""
        found = []
        for path in self.place.glob("process-*.json"):
            token = path.name.removeprefix("process-").removesuffix(".json")
            if token != own and self._heartbeats.lives(token, _read(path)):
                found.append(token)
        return found
