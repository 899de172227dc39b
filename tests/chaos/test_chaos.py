"""A few injuries of the quick verbs, at moments that are drawn; ``make chaos`` tries hundreds."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from chaos.injuries import Chaos
from processes import Child

_CODE = """
import sys
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
from chaos.test_chaos import trials
trials(Path(sys.argv[2]))
"""


def trials(place: Path) -> None:
    """Injure verbs; run in a process of its own, which forks."""
    chaos, draw = Chaos(place), random.Random(17)
    for name, injury in (
        ("merge tensors", "kill"),
        ("merge folder", "kill"),
        ("delta", "full disk"),
        ("merge folder", "read-only"),
        ("merge s3prl", "term"),
    ):
        wrong = chaos.trial(name, injury, draw.random())
        assert wrong is None, f"{name}, {injury}: {wrong}"


def test_what_is_injured_and_run_again_is_as_if_nothing_had_been(tmp_path: Path) -> None:
    child = Child(_CODE, [str(Path(__file__).parents[1]), str(tmp_path / "chaos")], tmp_path)
    code, _, said = child.wait()
    assert code == 0, said


_STOPPED = """
import os, signal, sys
from speechft import interruption
with interruption.handling_signals(), interruption.finishing("this"):
    for _ in range(int(sys.argv[2])):
        os.kill(os.getpid(), int(sys.argv[1]))
    print("went on", interruption.is_asked(), flush=True)
    interruption.stop("saved")
"""


@pytest.mark.parametrize(
    ("number", "times", "code", "out"),
    [
        (signal.SIGTERM, 1, 143, "went on True\n"),
        (signal.SIGINT, 1, 130, "went on True\n"),
        (signal.SIGINT, 2, 130, ""),
    ],
)
def test_one_signal_finishes_and_two_stop(
    number: int, times: int, code: int, out: str, tmp_path: Path
) -> None:
    child = Child(_STOPPED, [str(int(number)), str(times)], tmp_path)
    ended, printed, said = child.wait()
    assert (ended, printed) == (code, out), said
    assert "finishing this" in said
    assert ("saved" in said) == (times == 1)


def test_this_process_keeps_its_own_handlers() -> None:
    from speechft.interruption import handling_signals

    before = signal.getsignal(signal.SIGTERM)
    with handling_signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
