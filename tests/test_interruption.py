"""Signals end a command in order, wherever Python happens to be."""

from __future__ import annotations

from pathlib import Path

from processes import Child
from speechft.interruption import INTERRUPTED, TERMINATED

IN_A_FINALIZER = """
import os, signal, time
from speechft.interruption import handling_signals

class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))

with handling_signals():
    held = Held()
    del held
    time.sleep(20)
    print("went on")
"""
WHILE_FINISHING = """
import os, signal
from speechft.interruption import finishing, handling_signals

with handling_signals():
    with finishing("the work"):
        os.kill(os.getpid(), signal.SIGINT)
        print("done")
    print("went on")
"""
STUMBLING = """
import os, signal
from speechft.interruption import handling_signals

with handling_signals():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))
    finally:
        raise RuntimeError("trying to pop from empty mode stack")
"""


def test_an_end_that_a_finalizer_swallows_comes_again(tmp_path: Path) -> None:
    code, out, err = Child(IN_A_FINALIZER, [], tmp_path).wait()
    assert (code, out) == (TERMINATED, "")
    assert "Traceback" not in err


def test_what_is_finished_after_a_signal_is_the_last_thing(tmp_path: Path) -> None:
    code, out, err = Child(WHILE_FINISHING, [], tmp_path).wait()
    assert (code, out) == (INTERRUPTED, "done\n")
    assert "finishing the work" in err
    assert "finished: the work" in err


def test_what_stumbles_over_the_end_is_not_an_error(tmp_path: Path) -> None:
    code, out, err = Child(STUMBLING, [], tmp_path).wait()
    assert (code, out) == (TERMINATED, "")
    assert "RuntimeError" not in err
