"""Lines between processes: who ended, who told why, who is out of reach, and who is a stranger."""

from __future__ import annotations

import errno
import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from processes import Child
from speechft.errors import RunError
from speechft.parallel.lifelines import Failure, Lifelines, Member, gather_lines, join_line

Heard = queue.Queue[Failure]


@pytest.fixture(autouse=True)
def _meeting_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


def _member(rank: int, host: str = "here", node: str = "0") -> Member:
    return Member(rank, host, node, rank)


@contextmanager
def _group(count: int) -> Iterator[tuple[list[Lifelines], list[Heard]]]:
    """Bind so many processes together, which are threads here."""
    published: queue.Queue[str] = queue.Queue()
    heard: list[Heard] = [queue.Queue() for _ in range(count)]
    lines: dict[int, Lifelines] = {}

    def hub() -> None:
        def publish(text: str) -> None:
            for _ in range(count - 1):
                published.put(text)

        peers = gather_lines(_member(0), count, publish, 20.0)
        lines[0] = Lifelines(_member(0), peers, 30.0, heard[0].put)

    def member(rank: int) -> None:
        peers = join_line(_member(rank), published.get(timeout=20))
        lines[rank] = Lifelines(_member(rank), peers, 30.0, heard[rank].put)

    threads = [threading.Thread(target=hub)]
    threads += [threading.Thread(target=member, args=(rank,)) for rank in range(1, count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    try:
        yield [lines[rank] for rank in range(count)], heard
    finally:
        for line in lines.values():
            _cut(line)


def _cut(lines: Lifelines) -> None:
    """End the connections of a process as its death does: it says nothing of it itself."""
    with lines._lock:
        lines.failure = lines.failure or Failure(lines.own, "is dead", "")
    for peer in lines.peers:
        try:
            peer.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


def test_a_process_that_ends_without_a_word_is_known_to_all_others() -> None:
    with _group(3) as (lines, heard):
        _cut(lines[2])
        for rank in (0, 1):
            found = heard[rank].get(timeout=20)
            assert (found.member, found.told) == (_member(2), False)
            text = str(found.error())
            assert text.startswith("rank 2 on here ended without a word: it was killed")
            assert "give the same command again" in text


def test_the_end_of_the_first_process_is_known_too() -> None:
    with _group(3) as (lines, heard):
        _cut(lines[0])
        assert [heard[rank].get(timeout=20).member.rank for rank in (1, 2)] == [0, 0]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_tells_why_and_what_to_do(rank: int) -> None:
    with _group(3) as (lines, heard):
        lines[rank].tell("stopped: no space left", "free some space")
        for other in {0, 1, 2} - {rank}:
            found = heard[other].get(timeout=20)
            assert str(found.error()) == (
                f"rank {rank} on here stopped: no space left\nhint: free some space"
            )
        _cut(lines[rank])  # it ends, which is no second failure
        lines[2].known.wait(20)
        assert heard[rank].empty()
        assert all(line.failure is not None and line.failure.told for line in lines)


def test_of_several_that_fail_at_once_one_is_the_first_for_all() -> None:
    with _group(4) as (lines, _):
        told: queue.Queue[Failure] = queue.Queue()
        threads = [
            threading.Thread(target=lambda line=line: told.put(line.tell("stopped", "look")))
            for line in lines
        ]
        for thread in threads:
            thread.start()
        assert len({told.get(timeout=20).member.rank for _ in lines}) == 1


def test_a_process_that_left_may_end() -> None:
    with _group(3) as (lines, heard):
        lines[1].leave()
        _cut(lines[1])
        lines[2].tell("stopped: this", "do that")
        assert heard[0].get(timeout=20).member.rank == 2
        assert heard[0].empty()


def test_a_host_that_does_not_answer_is_out_of_reach() -> None:
    """What the keep-alive probes end; a link that is cut: `tests/hosts`."""
    with _group(2) as (lines, _):
        peer = lines[0].peers[0]
        for option, seconds in (("TCP_KEEPIDLE", 10), ("TCP_USER_TIMEOUT", 30_000)):
            if hasattr(socket, option):
                number = getattr(socket, option)
                assert peer.socket.getsockopt(socket.IPPROTO_TCP, number) == seconds
        assert peer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        error = OSError(errno.ETIMEDOUT, "Connection timed out")
        found = lines[0]._out_of_reach(peer.member, error)
        assert "rank 1 on here is out of reach: no answer for 30 s" in str(found.error())
        assert "look at the network between here and here" in str(found.error())


@pytest.mark.parametrize(
    ("own", "told", "speaks"),
    [
        (Member(4, "there", "1", 0), False, True),
        (Member(5, "there", "1", 1), False, False),
        (Member(4, "here", "1", 0), True, True),  # another launcher on the same machine
        (Member(0, "here", "0", 0), False, True),
        (Member(0, "here", "0", 0), True, False),  # the one that failed stands in this terminal
        (Member(1, "here", "0", 1), False, False),
    ],
)
def test_one_process_of_a_launcher_speaks(own: Member, told: bool, speaks: bool) -> None:
    failure = Failure(Member(2, "here", "0", 2), "ended", "look", told=told)
    assert failure.is_said_by(own) == speaks


def test_the_second_speaks_where_the_first_was_killed() -> None:
    failure = Failure(Member(0, "here", "0", 0), "ended", "look")
    speakers = [rank for rank in range(1, 4) if failure.is_said_by(_member(rank))]
    assert speakers == [1]


def test_strangers_are_not_welcome_and_who_is_missing_is_named() -> None:
    def publish(text: str) -> None:
        content = json.loads(text)
        stranger = socket.create_connection(("127.0.0.1", content["port"]))
        stranger.sendall(b'{"token": "guessed", "rank": 1, "host": "x", "node": "", '
                         b'"local_rank": 0}\n')  # fmt: skip
        with socket.create_connection(("127.0.0.1", content["port"])) as other:
            other.sendall(b"GET / HTTP/1.1\n")
        strangers.append(stranger)

    strangers: list[socket.socket] = []
    with pytest.raises(RunError, match=r"2 of 3 processes have not come within 1 s: rank 1, 2"):
        gather_lines(_member(0), 3, publish, 1.0)
    assert strangers[0].recv(100) == b""
    strangers[0].close()


def test_a_first_process_out_of_reach_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    published = json.dumps({"addresses": ["127.0.0.1"], "port": port, "token": "t"})
    with pytest.raises(RunError, match=f"cannot reach rank 0: 127.0.0.1 port {port}: Connection"):
        join_line(_member(1), published)


_FORKED = """
import os, socket
from speechft.parallel.lifelines import Lifelines, Member, _Peer
server = socket.create_server(("127.0.0.1", 0))
two = socket.create_connection(server.getsockname())
one, _ = server.accept()
number = one.fileno()
Lifelines(Member(0, "a", "", 0), [_Peer(Member(1, "b", "", 0), one)], 30.0, print)
child = os.fork()
if child == 0:
    try:
        os.fstat(number)
    except OSError:
        os._exit(0)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the fork holds the line"
os.fstat(number)
"""


def test_forked_helpers_do_not_hold_the_lines(tmp_path: Path) -> None:
    code, _, said = Child(_FORKED, [], tmp_path).wait()
    assert code == 0, said
