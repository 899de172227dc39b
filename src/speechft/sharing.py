"""Work shared by its folder: any number of processes do units of it, each once; see `claims`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechft.claims import Claim, Seen, Workers, look
from speechft.console import log
from speechft.errors import DataError, RunError, SpeechftError, TrainingError
from speechft.uploads import path_here

_PAUSE = 0.1, 2.0
"""Seconds between two looks at what others do, at first and at most."""
_KINDS = {kind.__name__: kind for kind in (DataError, TrainingError)}


def _always() -> bool:
    return True


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


def share(
    units: Sequence[Unit], workers: Workers | None = None, *, again: bool = True
) -> dict[str, SpeechftError]:
    """Do units until all are done, with whoever else works in the folder.

    The first unit in order that is free is taken. Units that other processes have are waited for:
    one of those may die.

    Args:
        units: What there is to do, in the order that suits a single process.
        workers: This process among the others; None where it works alone.
        again: Whether units that failed before this process began are tried again.

    Returns:
        What failed for its data or its training, here or elsewhere, by unit.

    Raises:
        SpeechftError: Anything else that goes wrong ends this process's part.
    """
    if workers is None:
        return _alone(units)
    before = [workers.state(unit.name) for unit in units] if again else []
    tried = {seen.name: seen.number for seen in before if seen.state == "failed"}
    failed: dict[str, SpeechftError] = {}
    left, pause, told = list(units), _PAUSE[0], False
    while left:
        waiting = [u for u in left if not _settle(u, workers, tried.get(u.name, -1), failed)]
        if len(waiting) < len(left):
            pause = _PAUSE[0]
        elif waiting:
            if not told:
                log(f"{len(left)} of {len(units)} parts are with other processes: waiting")
            time.sleep(pause)
            pause, told = min(2 * pause, _PAUSE[1]), True
        left = waiting
    return failed


def _alone(units: Sequence[Unit]) -> dict[str, SpeechftError]:
    failed: dict[str, SpeechftError] = {}
    for unit in units:
        try:
            if not unit.done():
                unit.run(None)
        except (DataError, TrainingError) as error:
            failed[unit.name] = error
    return failed


def _settle(unit: Unit, workers: Workers, tried: int, failed: dict[str, SpeechftError]) -> bool:
    """Do a unit if it can be had; return whether nothing more is to be done for it."""
    seen = workers.state(unit.name)
    if seen.state == "failed" and seen.number != tried:
        failed[unit.name] = _error_of(seen)
        return True
    if seen.state == "running":
        return False
    if unit.done():
        workers.note_done(unit.name)
        return True
    claim = workers.claim(unit.name, again=tried) if unit.ready() else None
    if claim is not None:
        _do(unit, claim, failed)
    return claim is not None


def _do(unit: Unit, claim: Claim, failed: dict[str, SpeechftError]) -> None:
    """Do a unit that was claimed, unless another process did it in the meantime."""
    try:
        if not unit.done():
            unit.run(claim)
    except (DataError, TrainingError) as error:
        told = {"kind": type(error).__name__, "why": error.message, "hint": error.hint}
        claim.end("failed", **told)
        failed[unit.name] = error
    except BaseException:
        with contextlib.suppress(OSError, RunError):
            claim.end("left")
        raise
    else:
        claim.end("done")


def _error_of(seen: Seen) -> SpeechftError:
    content = seen.content or {}
    kind = _KINDS.get(str(content.get("kind")), DataError)
    hint = content.get("hint")
    return kind(str(content.get("why")), hint=hint if isinstance(hint, str) else None)


def status(out: str | Path) -> list[Seen]:
    """Return what is done, running, failed or left of the work that processes share in a folder.

    Args:
        out: The folder that ``evaluate`` or ``sweep`` writes to.

    Returns:
        The units in the order of the work; none where all of it is done and no process is at it.

    Raises:
        RunError: There is no such folder.
    """
    folder = path_here(out)
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder", hint="give the --out of the command that works")
    return look(folder)
