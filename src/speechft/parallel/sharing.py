"""Work shared by its folder: any number of processes do units of it, each once; see `claims`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechft.console import log
from speechft.errors import DataError, RunError, SpeechftError, TrainingError
from speechft.parallel.claims import FOLDER, Claim, Seen, Workers

_PAUSE = 0.1, 2.0
"""Seconds between two looks at what others do, at first and at most."""
_KINDS = {kind.__name__: kind for kind in (DataError, TrainingError)}


class ItemsError(DataError):
    """Some items of a unit cannot be used; all others of it are done.

    Args:
        items: What is wrong with each, by its name.
    """

    def __init__(self, items: Mapping[str, str]) -> None:
        name, problem = next(iter(items.items()))
        more = f", and {len(items) - 1} more" if len(items) > 1 else ""
        super().__init__(f"{name} {problem}{more}")
        self.items = dict(items)


def _always() -> bool:
    return True


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Unit:
    """A part of the work that one process does whole; doing it twice gives the same."""

    name: str
    """Distinct in its folder: letters, digits, dots, dashes and slashes."""
    done: Callable[[], bool]
    """Tells whether its outputs are there, whoever made them."""
    run: Callable[[Claim | None], None]
    """Makes them; asks `Claim.check` before it publishes, if there is a claim."""
    ready: Callable[[], bool] = _always
    """Tells whether it can be done now; what it needs may be with another process."""
    ask: Callable[[], None] = _nothing
    """Asks that process for what it needs; called where this one has nothing else to do."""
    after: Sequence[str] = ()
    """Units before it that must be done; where one of them fails, this one is not begun."""


def work_off(
    folder: Path, command: str, units: Sequence[Unit], *, jobs: int = 1, sweeps: bool = False
) -> dict[str, SpeechftError]:
    """Do units with all processes that are given the same folder; see `share`.

    Where all is done and nobody is at work, nothing is written there.

    Args:
        folder: The folder that is worked in.
        command: What this process was told to do, for those who look.
        units: What there is to do.
        jobs: Units that this process does at a time, in threads.
        sweeps: See `Workers`.
    """
    if is_settled(folder, units):
        return {}
    names = [unit.name for unit in units]
    with Workers(folder, command, names, sweeps=sweeps) as workers:
        return share(units, workers, jobs=jobs)


def is_settled(folder: Path, units: Sequence[Unit]) -> bool:
    """Return whether all units are done and nobody is at work, so that nothing need be written."""
    return not (folder / FOLDER).exists() and all(unit.done() for unit in units)


def share(
    units: Sequence[Unit],
    workers: Workers | None = None,
    *,
    jobs: int = 1,
    part_of: Claim | None = None,
) -> dict[str, SpeechftError]:
    """Do units until all are done, with whoever else works in the folder.

    The first unit in order that is free is taken. Units that other processes have are waited for:
    one of those may die. Units that failed before this process began are tried again.

    Args:
        units: What there is to do, in the order that suits a single process.
        workers: This process among the others; None where it works alone.
        jobs: Units that this process does at a time, in threads.
        part_of: The claim that this process works under, where it works alone.

    Returns:
        What failed for its data or its training, here or elsewhere, by unit.

    Raises:
        SpeechftError: Anything else that goes wrong ends this process's part.
    """
    if workers is None:
        return _alone(units, part_of)
    work = _Work(units, workers)
    if jobs == 1:
        work.go_on()
        return work.failed
    with ThreadPoolExecutor(jobs) as pool:
        # what holds for this thread, such as where scratch files go, holds for the others
        parts = [pool.submit(copy_context().run, work.go_on) for _ in range(jobs)]
        try:
            for part in parts:
                part.result()
        finally:  # told to stop, it ends with the units that are begun
            work.ending.set()
    return work.failed


def _alone(units: Sequence[Unit], part_of: Claim | None) -> dict[str, SpeechftError]:
    failed: dict[str, SpeechftError] = {}
    lost: set[str] = set()
    for unit in units:
        try:
            if not lost.isdisjoint(unit.after):
                lost.add(unit.name)
            elif not unit.done():
                unit.run(part_of)
        except (DataError, TrainingError) as error:
            failed[unit.name] = error
            lost.add(unit.name)
    return failed


class _Work:
    """What a process still has to see done of some units, in one thread or several."""

    def __init__(self, units: Sequence[Unit], workers: Workers) -> None:
        self.failed: dict[str, SpeechftError] = {}
        self.ending = threading.Event()
        self._count, self._workers = len(units), workers
        self._left = {unit.name: unit for unit in units}
        before = [workers.state(unit.name) for unit in units]
        self._tried = {seen.name: seen.number for seen in before if seen.state == "failed"}
        self._lost: set[str] = set()
        self._wanting: list[Unit] = []
        self._told = False

    def go_on(self) -> None:
        """Do what can be had until nothing is left; where one thread stumbles, all end."""
        try:
            self._go_on()
        except BaseException:
            self.ending.set()
            raise

    def _go_on(self) -> None:
        pause = _PAUSE[0]
        while self._left and not self.ending.is_set():
            settled, self._wanting = False, []
            for name, unit in list(self._left.items()):
                if not self.ending.is_set() and self._settle(unit):
                    settled = self._left.pop(name, None) is not None or settled
            if settled:
                pause = _PAUSE[0]
            elif self._left:
                for unit in self._wanting:  # while there is other work, nobody is asked
                    unit.ask()
                self._tell()
                self.ending.wait(pause)
                pause = min(2 * pause, _PAUSE[1])

    def _tell(self) -> None:
        elsewhere = sum(self._workers.is_elsewhere(name) for name in list(self._left))
        if elsewhere and not self._told:
            log(f"{elsewhere} of {self._count} parts are with other processes: waiting")
            self._told = True

    def _settle(self, unit: Unit) -> bool:
        """Do a unit if it can be had; return whether nothing more is to be done for it."""
        seen, tried = self._workers.state(unit.name), self._tried.get(unit.name, -1)
        if seen.state == "failed" and seen.number != tried:
            self._note(unit, _error_of(seen))
            return True
        if seen.state == "running":
            return False
        if unit.done():
            self._workers.note_done(unit.name)
            return True
        if not self._lost.isdisjoint(unit.after):
            self._lost.add(unit.name)
            return True
        if not self._left.keys().isdisjoint(unit.after):
            return False
        if not unit.ready():
            self._wanting.append(unit)
            return False
        claim = self._workers.claim(unit.name, again=tried)
        return claim is not None and self._do(unit, claim)

    def _do(self, unit: Unit, claim: Claim) -> bool:
        """Do a unit that was claimed, unless another process did it in the meantime.

        Returns False where this process slept so long that another took over, whatever went wrong
        for that; the unit is then waited for as any that others have.
        """
        try:
            if not unit.done():
                unit.run(claim)
        except Exception as error:
            if claim.is_replaced():
                log(f"another process took over {unit.name}, going on with what is left")
                return False
            if isinstance(error, (DataError, TrainingError)):
                claim.end("failed", **_told(error))
                self._note(unit, error)
                return True
            with contextlib.suppress(OSError, RunError):
                claim.end("left")
            raise
        except BaseException:
            with contextlib.suppress(OSError, RunError):
                claim.end("left")
            raise
        claim.end("done")
        return True

    def _note(self, unit: Unit, error: SpeechftError) -> None:
        self.failed.setdefault(unit.name, error)
        self._lost.add(unit.name)


def _told(error: SpeechftError) -> dict[str, Any]:
    """Return what a claim says of an error: plain texts, whatever bytes a name has."""
    told: dict[str, Any] = {"kind": type(error).__name__, "why": _plain(error.message)}
    told["hint"] = None if error.hint is None else _plain(error.hint)
    if isinstance(error, ItemsError):
        told["items"] = {_plain(name): _plain(why) for name, why in error.items.items()}
    return told


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _error_of(seen: Seen) -> SpeechftError:
    content = seen.content or {}
    if isinstance(items := content.get("items"), dict) and items:
        return ItemsError({name: str(why) for name, why in items.items()})
    kind = _KINDS.get(str(content.get("kind")), DataError)
    hint = content.get("hint")
    return kind(str(content.get("why")), hint=hint if isinstance(hint, str) else None)
