"""Signals: what a command does when it is told to stop, and where work in progress may ask."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from speechft.console import fail, is_main_process

TERMINATED, INTERRUPTED = 143, 130
"""Exit codes: 128 and the number of the signal, as shells have it."""


class _State:
    """What was asked of this process."""

    process = 0
    """Id of the process that takes signals; forked helpers have the handlers too."""
    asked = 0
    """Exit code that was asked for; 0 for none."""
    finishing: str | None = None
    """What is finished first, in words; None where stopping is safe anywhere."""
    ignoring = False
    """The end has begun, so that signals change nothing."""


@contextlib.contextmanager
def handling_signals() -> Iterator[None]:
    """Have SIGTERM and Ctrl-C stop this process in order while the block, a command, runs.

    The first one lets what `finishing` says come to its end. Without that, what is unfinished is
    cleared away and the process ends. A second one ends it at once.
    """
    _State.process, _State.asked, _State.finishing = os.getpid(), 0, None
    _State.ignoring = False
    handlers: dict[int, Callable[[int, FrameType | None], None]]
    handlers = {signal.SIGINT: _handle, signal.SIGTERM: _handle}
    if hasattr(signal, "setitimer"):
        handlers[signal.SIGALRM] = _again
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    hook, sys.unraisablehook = sys.unraisablehook, _lost
    try:
        yield
    except Exception:
        if not _State.asked:
            raise
        raise SystemExit(_State.asked) from None  # the end made a library stumble
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def finishing(what: str) -> Iterator[None]:
    """Let the block come to the next `stop_if_asked` before a signal ends it.

    Args:
        what: What is finished, as the user reads it.
    """
    before, _State.finishing = _State.finishing, what
    try:
        yield
    finally:
        _State.finishing = before
    if _State.asked:
        stop(f"finished: {what}")


def is_asked() -> bool:
    """Return whether this process was asked to stop."""
    return _State.asked != 0


def code() -> int:
    """Return the exit code that this process was asked to stop with, 0 for none."""
    return _State.asked


def ignore() -> None:
    """Let signals change nothing from now on: this process is about to end."""
    _State.ignoring = True


def stop(told: str) -> None:
    """End the process as it was asked to, all work being safe.

    Args:
        told: What the user reads about it, from the first of several processes.
    """
    if is_main_process():
        fail(told)
    raise SystemExit(_State.asked or TERMINATED)


def _handle(number: int, _frame: FrameType | None) -> None:
    wanted = TERMINATED if number == signal.SIGTERM else INTERRUPTED
    if os.getpid() != _State.process:  # a helper: the process that made it tells the user
        os._exit(wanted)
    if _State.ignoring:
        return
    if _State.asked:
        _say("stopped at once; what is unfinished is cleared away by the next run")
        os._exit(wanted)
    _State.asked = wanted
    name = "told to end" if wanted == TERMINATED else "interrupted"
    if _State.finishing is not None:
        _say(f"{name}: finishing {_State.finishing}; a second Ctrl-C stops at once")
        return
    _say(f"{name}: clearing away what is unfinished; a second Ctrl-C stops at once")
    raise SystemExit(wanted)


def _lost(found: sys.UnraisableHookArgs) -> None:
    """Raise it again a little later where a finalizer of Python has swallowed the end."""
    if isinstance(found.exc_value, SystemExit) and _State.asked and hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(found)


def _again(_number: int, _frame: FrameType | None) -> None:
    if os.getpid() == _State.process:
        raise SystemExit(_State.asked)


def _say(text: str) -> None:
    if not is_main_process():
        return
    with contextlib.suppress(OSError):  # not through sys.stderr, which may be in use just now
        os.write(2, f"\n{text}\n".encode())
