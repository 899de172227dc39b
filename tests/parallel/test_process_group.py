"""The group of a launcher: ended as one, with one message, whatever its processes are doing."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from processes import Child
from speechft.errors import ConfigError, RunError
from speechft.parallel import process_group

pytestmark = pytest.mark.integration

_HEAD = """
import os, sys, threading, time
from pathlib import Path
import torch
from speechft.parallel import process_group
from speechft.errors import RunError, SpeechftError
rank = int(os.environ["RANK"])
"""
_TAIL = """
def main():
    try:
        with process_group.watched():
            process_group.form(True)
            work()
    except SpeechftError as error:
        sys.stderr.write(f"error: {error}\\n")
        raise SystemExit(1) from None
main()
"""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _start(work: str, folder: Path, count: int = 2, **settings: str) -> list[Child]:
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    group |= {"MASTER_PORT": str(_free_port()), "ACCELERATE_USE_CPU": "true"}
    group |= {"LOCAL_WORLD_SIZE": str(count), **settings}
    return [
        Child(
            _HEAD + work + _TAIL,
            [str(folder)],
            folder,
            name=f"rank-{rank}",
            environment={
                **group,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "TORCHELASTIC_ERROR_FILE": str(folder / f"error-{rank}.json"),
            },
        )
        for rank in range(count)
    ]


def _ends(children: Sequence[Child]) -> tuple[list[int], list[str]]:
    ended = [child.wait(120) for child in children]
    return [code for code, _, _ in ended], [said for _, _, said in ended]


def _errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("error: ")]


_KILLED = """
def work():
    torch.distributed.barrier()
    if rank == 1:
        os.kill(os.getpid(), 9)
    {meanwhile}
"""


@pytest.mark.parametrize(
    "meanwhile", ["torch.distributed.barrier()", "threading.Event().wait()"], ids=["meets", "works"]
)
def test_a_killed_process_ends_the_others_with_one_message(meanwhile: str, tmp_path: Path) -> None:
    """Whether they wait for it in an exchange or are at something else."""
    codes, said = _ends(_start(_KILLED.format(meanwhile=meanwhile), tmp_path, count=3))
    assert codes == [1, -9, 1]
    (line,) = _errors(said[0])
    assert line.startswith(f"error: rank 1 on {socket.gethostname()} ended without a word")
    assert "hint: look at the log of" in said[0]
    assert not _errors(said[2]), "one process of a launcher speaks"
    assert "Traceback" not in "".join(said)
    noted = json.loads((tmp_path / "error-0.json").read_text())["message"]
    assert noted["message"].startswith("RunError: rank 1 on"), "torchrun names it in its summary"


_FAILS = """
def work():
    if rank == {who}:
        raise RunError("no space left to write this", hint="free some space")
    torch.distributed.barrier()
"""


@pytest.mark.parametrize("who", [0, 1])
def test_a_process_that_fails_is_the_reason_of_all_others(who: int, tmp_path: Path) -> None:
    """Node 1 has a terminal of its own, in which its first process says it too."""
    codes, said = _ends(_start(_FAILS.format(who=who), tmp_path))
    assert codes == [1, 1]
    assert _errors(said[who]) == ["error: no space left to write this"]
    assert not _errors(said[1 - who])


def test_what_all_refuse_is_said_once(tmp_path: Path) -> None:
    work = 'def work():\n    raise RunError("this is wrong")\n'
    codes, said = _ends(_start(work, tmp_path, count=3))
    assert codes == [1, 1, 1]
    assert _errors("".join(said)) == ["error: this is wrong"]


_LATE = """
def work():
    if rank == 0:
        torch.distributed.barrier()
    threading.Event().wait()
"""


def test_a_process_that_lives_and_does_not_come_ends_all_in_time(tmp_path: Path) -> None:
    codes, said = _ends(_start(_LATE, tmp_path, SPEECHFT_MEET_WITHIN="2"))
    assert codes == [1, 1]
    assert "the processes did not come together in time, though all live" in said[0]
    assert "SPEECHFT_MEET_WITHIN=SECONDS" in said[0]


_PATIENT = """
def work():
    ready = Path(sys.argv[1]) / "ready"
    with process_group.first_alone():
        if rank == 0:
            ended = time.monotonic() + 4
            while time.monotonic() < ended:
                pass
            ready.write_text("made by the first")
        assert ready.read_text() == "made by the first"
    assert process_group.from_first({"rank": rank}) == {"rank": 0}
    assert process_group.gathered(rank) == [0, 1]
"""


def test_a_process_that_works_alone_is_waited_for(tmp_path: Path) -> None:
    codes, said = _ends(_start(_PATIENT, tmp_path, SPEECHFT_MEET_WITHIN="2"))
    assert codes == [0, 0], said


_AGREED = """
def work():
    torch.distributed.barrier()
    process_group.leave()
    if rank == 1:
        raise SystemExit(143)
    lines = process_group._State.lines
    while not lines.peers[0].left or lines._waiting.get_map():
        pass
    assert lines.failure is None
    raise SystemExit(143)
"""


def test_an_end_that_all_agreed_on_is_no_failure(tmp_path: Path) -> None:
    codes, said = _ends(_start(_AGREED, tmp_path))
    assert codes == [143, 143], said
    assert not _errors("".join(said))


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_limits_are_seconds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(process_group.LOST_AFTER, text)
    with pytest.raises(ConfigError, match=r"SPEECHFT_LOST_AFTER is .*expected seconds from 1 on"):
        process_group._seconds(process_group.LOST_AFTER, 30.0)
    monkeypatch.setenv(process_group.LOST_AFTER, "7.5")
    assert process_group._seconds(process_group.LOST_AFTER, 30.0) == 7.5


def test_processes_that_were_not_told_where_to_meet_are_told_how_to_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="2 processes that were started do not find each other"):
        process_group._meet(30.0)


def test_a_single_process_has_nothing_to_share() -> None:
    assert os.environ.get("WORLD_SIZE", "1") == "1"
    with process_group.watched(), process_group.first_alone():
        assert process_group.from_first("this") == "this"
        assert process_group.gathered(3) == [3]
