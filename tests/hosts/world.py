"""Two hosts on one machine: network namespaces with addresses, names and disks of their own.

Needs root and iproute2. Names are unique to a process; all of it is gone after the block.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
_MARK = "SPEECHFT_TRIAL"
_FIRST = "10.77.0.1"
_PORT = 29_517


def why_not() -> str | None:
    """Return why there can be no hosts here; None where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if missing := [name for name in ("ip", "unshare", "mount") if shutil.which(name) is None]:
        return f"not installed: {', '.join(missing)} (iproute2, util-linux)"
    name = f"sft{os.getpid()}t"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return None if made.returncode == 0 else "network namespaces cannot be made here"


def _run(*order: str) -> None:
    subprocess.run(order, check=True, capture_output=True)


def until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait for a condition; return how long that took.

    Raises:
        TimeoutError: It did not come true in time.
    """
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)
    return time.monotonic() - begun


@dataclass
class Host:
    """A network namespace with one link to the other host."""

    name: str
    """What its processes call it."""
    space: str
    link: str
    mounts: list[tuple[Path, Path]] = field(default_factory=list)
    """Folders that lie in the place of others for its processes."""

    def command(self, *order: str) -> list[str]:
        """Return how a command is started on this host."""
        hides = "".join(f"mount --bind {new} {old} && " for new, old in self.mounts)
        script = f'hostname {self.name} && {hides}exec "$@"'
        inside = ["unshare", "--uts", "--mount", "sh", "-c", script, "sh"]
        return ["ip", "netns", "exec", self.space, *inside, *order]

    def set_link(self, state: str) -> None:
        """Set the link ``up`` or ``down``."""
        _run("ip", "-n", self.space, "link", "set", self.link, state)


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make two hosts, ``hosta`` with the first address and ``hostb``."""
    mark = f"sft{os.getpid()}"
    hosts = Host("hosta", f"{mark}a", f"{mark}va"), Host("hostb", f"{mark}b", f"{mark}vb")
    first, second = hosts
    _sweep()
    try:
        for host in hosts:
            _run("ip", "netns", "add", host.space)
        beyond = ["peer", "name", second.link, "netns", second.space]
        _run("ip", "-n", first.space, "link", "add", first.link, "type", "veth", *beyond)
        for number, host in enumerate(hosts, 1):
            address = f"10.77.0.{number}/24"
            _run("ip", "-n", host.space, "address", "add", address, "dev", host.link)
            _run("ip", "-n", host.space, "link", "set", "lo", "up")
            host.set_link("up")
        yield hosts
    finally:
        for host in hosts:  # the link goes with them
            subprocess.run(["ip", "netns", "del", host.space], capture_output=True, check=False)


def _sweep() -> None:
    """Remove the namespaces that a process which was killed has left."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    for name in re.findall(r"^(sft\d+[abt])\b", listed.stdout, re.M):
        if not Path("/proc", name[3:-1]).exists():
            _run("ip", "netns", "del", name)


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """Mount a disk of so many bytes (a tmpfs) on a folder."""
    place.mkdir(parents=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def fill(disk: Path) -> Path:
    """Fill a disk to the last byte; return the file that does."""
    path = disk / "filler"
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    return path


class Launch:
    """One command under torchrun, or `accelerate launch`, on both hosts.

    Args:
        hosts: Where.
        command: Of speechft.
        each: Processes on each host.
        logs: Folder for what they say; made here.
        launcher: ``torchrun`` or ``accelerate``.
    """

    def __init__(
        self, hosts: Sequence[Host], command: Sequence[str], each: int, logs: Path, launcher: str
    ) -> None:
        self.each, self.logs, self._mark = each, logs, f"{os.getpid()}-{time.monotonic_ns()}"
        self._launcher = launcher
        self._launchers = [
            self._start(host, number, command, logs / host.name)
            for number, host in enumerate(hosts)
        ]

    def _start(
        self, host: Host, number: int, command: Sequence[str], logs: Path
    ) -> subprocess.Popen[bytes]:
        logs.mkdir(parents=True)
        settings = {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(SOURCE),
            "GLOO_SOCKET_IFNAME": host.link,
            _MARK: self._mark,
        }
        order = [sys.executable, "-m", *self._order(number, logs), "-m", "speechft", *command]
        with open(logs / "launcher.txt", "wb") as file:
            return subprocess.Popen(
                host.command(*order), stdout=file, stderr=file, env={**os.environ, **settings}
            )

    def _order(self, number: int, logs: Path) -> list[str]:
        """Return the launcher of a host as a module, with its arguments."""
        if self._launcher == "accelerate":
            order = ["accelerate.commands.launch", "--multi_gpu", "--num_machines", "2"]
            order += ["--machine_rank", str(number), "--num_processes", str(2 * self.each)]
            order += ["--main_process_ip", _FIRST, "--main_process_port", str(_PORT)]
            return [*order, "--tee", "3", "--log_dir", str(logs)]
        order = ["torch.distributed.run", "--nnodes", "2", "--node_rank", str(number)]
        order += ["--nproc_per_node", str(self.each), "--master_addr", _FIRST]
        order += ["--master_port", str(_PORT), "--redirects", "3"]
        return [*order, "--log-dir", str(logs)]

    def process(self, rank: int) -> int:
        """Return the id of the process of a rank."""
        return next(p for p, settings in self._running() if settings.get("RANK") == str(rank))

    def signal_host(self, number: int) -> None:
        """Tell all processes of a host to end, through its torchrun, as a scheduler does."""
        parents = [p for p, settings in self._running() if "RANK" not in settings]
        own = self._launchers[number].pid
        assert own in parents
        os.kill(own, signal.SIGTERM)

    def _running(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield the processes of this launch with their environments."""
        for place in Path("/proc").iterdir():
            if not place.name.isdecimal():
                continue
            try:
                text = (place / "environ").read_bytes().decode(errors="replace")
                ended = (place / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
            except OSError:
                continue
            settings = dict(item.partition("=")[::2] for item in text.split("\0") if "=" in item)
            if settings.get(_MARK) == self._mark and not ended:
                yield int(place.name), settings

    def ranks(self) -> set[int]:
        """Return the ranks that still run."""
        return {int(settings["RANK"]) for _, settings in self._running() if "RANK" in settings}

    @property
    def running(self) -> bool:
        """Return whether a launcher has not ended."""
        return any(launcher.poll() is None for launcher in self._launchers)

    def wait(self, seconds: float) -> list[int]:
        """Return the exit codes of both launchers."""
        until(lambda: not self.running, seconds, "the launchers end")
        return [launcher.wait() for launcher in self._launchers]

    def kill(self) -> None:
        """End all that still runs."""
        for process, _ in self._running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for launcher in self._launchers:
            launcher.wait()

    def said(self, host: Host) -> str:
        """Return what the ranks of a host said on stderr, one after the other."""
        files = sorted((self.logs / host.name).rglob("stderr.log"))
        return "".join(path.read_text(errors="replace") for path in files)

    def launcher_said(self, host: Host) -> str:
        """Return what the torchrun of a host said."""
        return (self.logs / host.name / "launcher.txt").read_text(errors="replace")
