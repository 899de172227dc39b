"""The group of processes that a launcher started: formed, watched, and ended as one.

All are bound together by `Lifelines`. What ends one of them ends all, each host says why once, and
the same command goes on. A process that works alone for hours keeps the others waiting for it in
`from_first` and `gathered`, which have no limit, since the lines tell whether it lives.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeVar

from speechft import interruption, launcher
from speechft.console import fail, is_main_process
from speechft.errors import ConfigError, RunError, SpeechftError
from speechft.parallel.lifelines import AGAIN, Failure, Lifelines, Member, gather_lines, join_line

Value = TypeVar("Value")

LOST_AFTER = "SPEECHFT_LOST_AFTER"
"""Environment variable: seconds without an answer after which another host is given up."""
MEET_WITHIN = "SPEECHFT_MEET_WITHIN"
"""Environment variable: seconds within which all processes come to an exchange of gradients."""
_LOST_AFTER, _MEET_WITHIN = 30.0, 1800.0
_START_WITHIN = 300.0
"""Seconds within which all processes have started."""
_GRACE = 3.0
"""Seconds that the main thread, and a process that failed by itself, have to end in order."""
_FOREVER = timedelta(days=30)
_INTERFACES = (
    "the hosts must reach each other: GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network "
    "interface, MASTER_ADDR an address of the first host"
)


class _State:
    """What this process knows of its group."""

    lines: Lifelines | None = None
    patient: Any = None
    """A group of gloo that waits without limit."""
    watching = 0
    """Blocks of `watched` that this process is in."""
    agreed = False
    """All processes have agreed to end."""
    taken = threading.Event()
    """Set when the main thread raises what ended the group."""
    code = 0
    """Exit code of a process that ends before its work is done."""


def form(cpu: bool) -> Any:
    """Form the group once, with the lines between its processes.

    Args:
        cpu: Whether to compute on processors although there are GPUs.

    Returns:
        Accelerate's ``PartialState``.

    Raises:
        RunError: The processes that were started do not form one group, or not in time.
    """
    from accelerate import PartialState

    launcher.adopt()
    options: dict[str, Any] = {}
    if launcher.size() > 1 and _State.lines is None and not PartialState._shared_state:
        meet, lost = _seconds(MEET_WITHIN, _MEET_WITHIN), _seconds(LOST_AFTER, _LOST_AFTER)
        options = {"store": _meet(lost), "timeout": timedelta(seconds=meet)}
        options |= {"rank": launcher.rank(), "world_size": launcher.size()}
    state = PartialState(cpu=cpu, **options)
    if state.num_processes != launcher.size():
        raise RunError(
            f"{launcher.size()} processes were started, but {state.num_processes} work together",
            hint="start with accelerate launch --num_processes N -m speechft, then the "
            "same arguments",
        )
    return state


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """End the processes of the group as one while the block, their common work, runs.

    An error in the block is told to all others. What another process was told of, or a connection
    that broke for it, becomes one error here that says which process failed and why. A process that
    hangs in an exchange is ended after it was said.

    Raises:
        RunError: Another process failed, or the connection to it.
    """
    if launcher.size() == 1:
        yield
        return
    _State.watching += 1
    try:
        if _State.lines is not None and _State.lines.failure is not None:
            raise _State.lines.failure.error()
        yield
    except BaseException as error:
        found = _ending(error)
        if found is error:
            raise
        raise found from None
    finally:
        _State.watching -= 1


def leave() -> None:
    """Note that all processes end now in order, having agreed on it."""
    _State.agreed = True
    if _State.lines is not None:
        _State.lines.leave()


def from_first(value: Value) -> Value:
    """Return on every process what the first one passes; whoever comes early waits for it."""
    import torch

    if not _is_formed():
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, group=_patient())
    return box[0]


def gathered(value: Value) -> list[Value]:
    """Return on every process what all of them pass, by rank; whoever comes early waits."""
    import torch

    if not _is_formed():
        return [value]
    boxes: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(boxes, value, group=_patient())
    return boxes


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """Let the first process through the block before all others, who wait as long as it takes."""
    if not is_main_process():
        from_first(None)
    yield
    if is_main_process():
        from_first(None)


def _is_formed() -> bool:
    from torch import distributed

    formed = distributed.is_available() and distributed.is_initialized()
    return formed and distributed.get_world_size() > 1


def _patient() -> Any:
    import torch

    if _State.patient is None:
        _State.patient = torch.distributed.new_group(backend="gloo", timeout=_FOREVER)
    return _State.patient


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    with contextlib.suppress(ValueError):
        found = float(text) if text else default
        if 1 <= found < 1e7:
            return found
    raise ConfigError(
        f"the environment variable {name} is {text!r}, expected seconds from 1 on",
        hint=f"leave it out for {default:g}",
    )


def _meet(lost_after: float) -> Any:
    """Return the store where the processes meet, after they were bound together."""
    from torch.distributed.rendezvous import rendezvous

    patience = timedelta(seconds=_START_WITHIN)
    key = "speechft/lifelines"
    try:
        store, rank, count = next(rendezvous("env://", timeout=patience))
        own = Member.own()
        if rank == 0:
            peers = gather_lines(own, count, lambda text: store.set(key, text), _START_WITHIN)
        else:
            peers = join_line(own, store.get(key).decode())
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"the {launcher.size()} processes that were started do not find each other: "
            f"{_first(error)}",
            hint=f"start them with accelerate launch or torchrun; {_INTERFACES}",
        ) from None
    _State.lines = Lifelines(own, peers, lost_after, _end)
    atexit.register(_at_exit)
    return store


def _ending(error: BaseException) -> BaseException:
    """Return what this process ends with, after the others were told where it failed by itself."""
    lines = _State.lines
    if lines is None or _State.agreed:
        return error
    _State.code = 1
    broken = _is_connection(error)
    if broken and not _is_late(error):
        lines.known.wait(lines.lost_after + 2 * _GRACE)
    if lines.failure is not None and lines.failure.member != lines.own:
        return _raised(lines.failure, lines.own)
    if broken:
        error = _unexplained(error)
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        _State.code = error.code
    first = lines.tell(*_told(error))
    if first.told and first.member != lines.own:
        return _raised(first, lines.own)
    _record(error)
    return error


def _raised(failure: Failure, own: Member) -> RunError:
    """Return the error of another process; end at once where somebody else says it."""
    _State.taken.set()
    _record(failure.error())
    if not failure.is_said_by(own):
        time.sleep(_GRACE)  # the one that failed is still writing
        _exit()
    return failure.error()


def _is_connection(error: BaseException) -> bool:
    """Return whether torch says that an exchange between processes failed."""
    import torch

    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and "/gloo/" in str(error)


def _is_late(error: BaseException) -> bool:
    return "Timed out" in str(error)


def _first(error: BaseException) -> str:
    """Return the first line of what torch says."""
    return " ".join(str(error).split("\n", 1)[0].split())[:300]


def _unexplained(error: BaseException) -> RunError:
    if _is_late(error):
        return RunError(
            f"the processes did not come together in time, though all live: {_first(error)}",
            hint=f"{MEET_WITHIN}=SECONDS gives them more time than {_MEET_WITHIN:g}; {AGAIN}",
        )
    return RunError(
        f"the connection to another process broke: {_first(error)}",
        hint=f"{_INTERFACES}; then {AGAIN}",
    )


def _told(error: BaseException) -> tuple[str, str]:
    """Return what the others say about an error of this process."""
    if isinstance(error, SpeechftError):
        return f"stopped: {error.message}", error.hint or AGAIN
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return "was told to end", AGAIN
    return f"stopped: {type(error).__name__}: {_first(error)}", "its own output says where"


def _end(failure: Failure) -> None:
    """End this process for what happened elsewhere, unless its main thread does so by itself."""
    assert _State.lines is not None
    if not _State.watching or _State.agreed:
        return
    interruption.ignore()
    if _State.taken.wait(_GRACE):
        return
    if failure.is_said_by(_State.lines.own) and not interruption.is_asked():
        fail(f"error: {failure.error()}")
    _record(failure.error())
    _exit()


def _at_exit() -> None:
    """End without waiting for connections that nobody answers, or tell the others of a good end."""
    assert _State.lines is not None
    if _State.code:
        _exit()
    _State.lines.leave()


def _exit() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(interruption.code() or _State.code or 1)


def _record(error: BaseException) -> None:
    """Note an error where torchrun looks for the causes that its summary names."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        about = {"timestamp": str(int(time.time()))}
        message = {"message": f"{type(error).__name__}: {error}", "extraInfo": about}
        with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as file:
            json.dump({"message": message}, file)
