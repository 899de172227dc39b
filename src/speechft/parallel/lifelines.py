"""Lines between processes of several hosts: one that ends, or is out of reach, is known to all.

The first process holds a TCP connection to each of the others. The system closes that of a process
that was killed, and its keep-alive probes find a host that does not answer. So nothing is sent
while all is well, and nothing depends on how busy a process is.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from speechft import launcher
from speechft.errors import RunError
from speechft.storage.documents import parse_json

_LINE = 1 << 16
"""Bytes that a message may have."""
_TEXT = 4_000
"""Characters of a reason that are sent."""
_REPLY = 10.0
"""Seconds within which the other end of a new connection says who it is."""
AGAIN = "give the same command again on every host to go on"


@dataclass(frozen=True)
class Member:
    """A process of the group."""

    rank: int
    host: str
    node: str
    """Which launcher started it, as torchrun numbers them; processes of one share a terminal."""
    local_rank: int

    @classmethod
    def own(cls) -> Member:
        """Return this process."""
        return cls(
            launcher.rank(),
            socket.gethostname(),
            os.environ.get("GROUP_RANK", ""),
            launcher.local_rank() or 0,
        )

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Member:
        """Return what `asdict` made a message of."""
        return cls(
            int(content["rank"]),
            str(content["host"]),
            str(content["node"]),
            int(content["local_rank"]),
        )

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}"


@dataclass(frozen=True)
class Failure:
    """Which process failed first, and why as far as is known."""

    member: Member
    why: str
    hint: str
    told: bool = False
    """It said so itself, in its own terminal too."""

    def error(self) -> RunError:
        """Return the error of all others."""
        return RunError(f"{self.member} {self.why}", hint=self.hint)

    def is_said_by(self, own: Member) -> bool:
        """Return whether a process tells the user about it: one for each launcher."""
        if (own.host, own.node) != (self.member.host, self.member.node):
            return own.local_rank == 0
        return not self.told and own.local_rank == (1 if self.member.local_rank == 0 else 0)


@dataclass
class _Peer:
    member: Member
    socket: socket.socket
    read: bytes = b""
    left: bool = False


@dataclass
class Lifelines:
    """The lines of this process; on the first one to all others, on those to the first.

    Args:
        own: This process.
        peers: Connected ones.
        lost_after: Seconds without an answer after which a host is out of reach.
        fail: Called once, in a thread of its own, with what happened elsewhere.
    """

    own: Member
    peers: list[_Peer]
    lost_after: float
    fail: Callable[[Failure], None]
    failure: Failure | None = None
    """What ended the group; set once."""
    known: threading.Event = field(default_factory=threading.Event)
    """Set with ``failure``."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._waiting = selectors.DefaultSelector()
        for peer in self.peers:
            _keep_alive(peer.socket, self.lost_after)
            self._waiting.register(peer.socket, selectors.EVENT_READ, peer)
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._listen, name="lifelines", daemon=True).start()

    def tell(self, why: str, hint: str) -> Failure:
        """Tell all others that this process failed.

        Returns:
            What ended the group, as the first process has it: several may fail at once.
        """
        own = Failure(self.own, why[:_TEXT], hint[:_TEXT], told=True)
        if self.own.rank != 0 and self.failure is None:
            self._send(asdict(own))
            self.known.wait(_REPLY)
        self._end(own)
        assert self.failure is not None
        return self.failure

    def leave(self) -> None:
        """Tell all others that this process ends in order."""
        self._send({"left": True})

    def _listen(self) -> None:
        while self._waiting.get_map():
            for key, _ in self._waiting.select():
                failure = self._hear(key.data)
                if failure is not None and self._end(failure) and failure.member != self.own:
                    self.fail(failure)

    def _hear(self, peer: _Peer) -> Failure | None:
        """Read what a peer sends; return what it says or what its silence means."""
        try:
            found = peer.socket.recv(_LINE)
        except ConnectionError:
            found = b""
        except OSError as error:
            if error.errno is None:  # there was nothing to read after all
                return None
            return self._lose(peer, self._out_of_reach(peer.member, error))
        if not found or len(peer.read) > _LINE:
            return self._lose(peer, _silent(peer.member))
        *lines, peer.read = (peer.read + found).split(b"\n")
        for line in lines:
            content = _content(line)
            peer.left |= content.get("left") is True
            if (failure := _failure(content)) is not None:
                return failure
        return None

    def _lose(self, peer: _Peer, failure: Failure) -> Failure | None:
        self._waiting.unregister(peer.socket)
        peer.socket.close()
        return None if peer.left else failure

    def _end(self, failure: Failure) -> bool:
        """Note what ended the group and pass it on; return False where something else had."""
        with self._lock:
            if self.failure is not None:
                return False
            self.failure = failure
        if self.own.rank == 0:
            self._send(asdict(failure))
        self.known.set()
        return True

    def _send(self, content: Mapping[str, Any]) -> None:
        data = json.dumps(content).encode() + b"\n"
        for peer in self.peers:
            with contextlib.suppress(OSError):  # it has ended, or its host is out of reach
                peer.socket.sendall(data)

    def _out_of_reach(self, member: Member, error: OSError) -> Failure:
        return Failure(
            member,
            f"is out of reach: no answer for {self.lost_after:g} s ({error.strerror})",
            f"look at the network between {member.host} and {self.own.host}, and whether both are "
            f"up; then {AGAIN}",
        )

    def _forget(self) -> None:
        """Close the lines in a forked helper: it must not hold those of a process that ended."""
        for peer in self.peers:
            peer.socket.close()


def _silent(member: Member) -> Failure:
    return Failure(
        member,
        "ended without a word: it was killed, or ran out of memory",
        f"look at the log of {member.host} and what its kernel says (dmesg); then {AGAIN}",
    )


def _keep_alive(line: socket.socket, seconds: float) -> None:
    """Have the system end a connection whose other end has not answered for so long."""
    line.settimeout(_REPLY)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": seconds / 3,
        "TCP_KEEPALIVE": seconds / 3,  # the same on macOS
        "TCP_KEEPINTVL": seconds / 6,
        "TCP_KEEPCNT": 4,
        "TCP_USER_TIMEOUT": 1000 * seconds,  # where something was sent and not acknowledged
    }
    for name, value in options.items():
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), max(1, round(value)))


def _content(line: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        content = parse_json(line)
        if isinstance(content, dict):
            return content
    return {}


def _failure(content: Mapping[str, Any]) -> Failure | None:
    with contextlib.suppress(KeyError, TypeError, ValueError):
        member = Member.of(content["member"])
        return Failure(member, str(content["why"]), str(content["hint"]), bool(content["told"]))
    return None


def gather_lines(
    own: Member, count: int, publish: Callable[[str], None], patience: float
) -> list[_Peer]:
    """Wait on the first process for all others.

    Args:
        own: This process.
        count: Processes in all.
        publish: Gives the others a text, which `join_line` takes.
        patience: Seconds.

    Raises:
        RunError: Somebody has not come.
    """
    ends, token = time.monotonic() + patience, secrets.token_hex(16)
    peers: dict[int, _Peer] = {}
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    with socket.create_server(("", 0), family=family, dualstack_ipv6=both, backlog=count) as server:
        address = {"addresses": _addresses(), "port": server.getsockname()[1], "token": token}
        publish(json.dumps(address))
        while len(peers) < count - 1:
            server.settimeout(max(0.01, ends - time.monotonic()))
            try:
                line, _ = server.accept()
            except TimeoutError:
                missing = sorted(set(range(count)) - {own.rank, *peers})
                raise RunError(
                    f"{len(missing)} of {count} processes have not come within {patience:g} s: "
                    f"rank {', '.join(map(str, missing[:8]))}",
                    hint="start the same command on every host; look at the logs of the others",
                ) from None
            if (peer := _welcome(line, own, token, count)) is None:
                line.close()
            else:
                peers[peer.member.rank] = peer
    return list(peers.values())


def _welcome(line: socket.socket, own: Member, token: str, count: int) -> _Peer | None:
    """Return who has connected; None for a stranger."""
    with contextlib.suppress(OSError, KeyError, TypeError, ValueError):
        line.settimeout(_REPLY)
        content = _content(_read_line(line))
        member = Member.of(content)
        known = secrets.compare_digest(str(content["token"]), token)
        if known and member.rank in range(count) and member.rank != own.rank:
            line.sendall(json.dumps({**asdict(own), "token": token}).encode() + b"\n")
            return _Peer(member, line)
    return None


def join_line(own: Member, published: str) -> list[_Peer]:
    """Connect to the first process.

    Args:
        own: This process.
        published: By `gather_lines`.

    Raises:
        RunError: It cannot be reached.
    """
    content = _content(published.encode())
    refused = []
    for address in dict.fromkeys([*content["addresses"], *_master()]):
        try:
            line = socket.create_connection((address, content["port"]), timeout=_REPLY)
            said = {**asdict(own), "token": content["token"]}
            line.sendall(json.dumps(said).encode() + b"\n")
            reply = _content(_read_line(line))
            if reply.get("token") == content["token"]:
                return [_Peer(Member.of(reply), line)]
            line.close()
        except OSError as error:
            refused.append(f"{address} port {content['port']}: {error.strerror or error}")
    raise RunError(
        f"{own} cannot reach rank 0: {'; '.join(refused)}",
        hint="the hosts of a group need each other's TCP ports, as gloo and NCCL do; "
        "MASTER_ADDR must be an address of rank 0's host that the others can reach",
    )


def _read_line(line: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"\n") and len(found) < _LINE:
        part = line.recv(1)  # no more: what follows is for the listening thread
        if not part:
            break
        found += part
    return found


def _master() -> Sequence[str]:
    return [name] if (name := os.environ.get("MASTER_ADDR", "")) else []


def _addresses() -> list[str]:
    """Return the address that this host has towards the one where the processes meet."""
    for name in _master():
        with contextlib.suppress(OSError):
            port = int(os.environ.get("MASTER_PORT", "1"))
            family, _, _, _, place = socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(place)  # sends nothing
                return [str(probe.getsockname()[0])]
    return []
