"""What this machine and this installation can do, and what is missing for what.

Meant to be pasted into a report of a fault: no name of a user or a host, no secret, no setting of
the environment but by name.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from speechft.console import log
from speechft.extras import EXTRAS, how_to_get, requirement_name
from speechft.naming import public_name, public_text
from speechft.version import __version__

State = Literal["there", "missing", "too old", "not for this Python"]


@dataclass(frozen=True)
class Package:
    """A package that the core or an extra needs."""

    name: str
    version: str | None
    """What is installed."""
    wanted: str
    """Which versions will do, such as ``>=2.13``."""
    state: State


@dataclass(frozen=True)
class ExtraState:
    """What an extra is for, and what of it is missing."""

    packages: list[Package]
    verbs: list[str]
    purpose: str
    get: str | None
    """The command that installs it; None where nothing is missing or it cannot be had."""


@dataclass(frozen=True)
class FolderState:
    """A folder that fills up."""

    place: str
    """As a shell would find it: ``~`` or the variable that names it."""
    bytes: int | None
    """What lies in it; None for folders of the user's own."""
    free: int
    """On its disk."""


@dataclass
class Diagnosis:
    """What was found; sizes are bytes."""

    speechft: str
    python: str
    system: str
    processors: int
    """That this process may use."""
    memory: int
    core: list[Package] = field(default_factory=list)
    extras: dict[str, ExtraState] = field(default_factory=dict)
    torch: dict[str, Any] = field(default_factory=dict)
    """Devices, threads, instruction set (kernel) and what precision ``auto`` means."""
    audio: dict[str, Any] = field(default_factory=dict)
    """Version of libsndfile and the formats that it reads."""
    folders: dict[str, FolderState] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """Why nothing or little will work."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return it as text."""
        rows = {
            "speechft": self.speechft,
            "Python": f"{self.python}, {self.system}",
            "machine": f"{self.processors} processors, {_size(self.memory)} memory",
        }
        rows |= {name: _told(value) for name, value in self.torch.items()}
        rows |= {name: _told(value) for name, value in self.audio.items()}
        for name, folder in self.folders.items():
            held = "" if folder.bytes is None else f"holds {_size(folder.bytes)}, "
            rows[name] = f"{folder.place}: {held}{_size(folder.free)} free"
        rows["packages"] = ", ".join(map(_told_package, self.core))
        width = max(map(len, (*rows, *EXTRAS)))
        lines = [f"{name:{width}}  {text}" for name, text in rows.items()]
        lines += ["", "extras, and what they are for:"]
        for name, extra in self.extras.items():
            lines += [f"{name:{width}}  {_told_extra(extra)}"]
        return lines + [f"problem: {problem}" for problem in self.problems]


def doctor() -> Diagnosis:
    """Look at versions, devices, folders and extras; imports torch and soundfile to ask them.

    Returns:
        What was found. A library that cannot be imported is a problem in it, not an error.
    """
    found = Diagnosis(
        speechft=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} on {platform.machine()}",
        processors=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    )
    needed = _requirements()
    found.core = needed.pop("", [])
    for name, extra in EXTRAS.items():
        packages = needed.get(name, [])
        lacking = any(package.state in ("missing", "too old") for package in packages)
        get = how_to_get(name) if lacking else None
        found.extras[name] = ExtraState(packages, list(extra.verbs), extra.purpose, get)
    found.problems = [
        f"{p.name} is {p.state}: {p.version or 'none'} is installed, {p.wanted or 'any'} is needed"
        for p in found.core
        if p.state in ("missing", "too old")
    ]
    found.torch = _asked("torch", _ask_torch, found.problems)
    found.audio = _asked("soundfile", _ask_soundfile, found.problems)
    found.folders = _folders()
    return found


def _requirements() -> dict[str, list[Package]]:
    """Return what each extra needs by the package's own metadata; the core is the empty name."""
    from packaging.requirements import Requirement

    found: dict[str, list[Package]] = {}
    try:
        lines = requires("speechft") or []
    except PackageNotFoundError:  # it runs from its sources
        return found
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        extra = next((name for name in EXTRAS if f'extra == "{name}"' in str(marker or "")), "")
        if extra or marker is None or "extra" not in str(marker):
            fits = marker is None or marker.evaluate({"extra": extra})
            found.setdefault(extra, []).append(_package(requirement, fits))
    return found


def _package(requirement: Any, fits: bool) -> Package:
    name, wanted = requirement_name(requirement.name), str(requirement.specifier)
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Package(name, None, wanted, "missing" if fits else "not for this Python")
    enough = requirement.specifier.contains(installed, prereleases=True)
    return Package(name, installed, wanted, "there" if enough else "too old")


def _asked(name: str, ask: Callable[[], dict[str, Any]], problems: list[str]) -> dict[str, Any]:
    """Return what a library says; where it cannot even be imported, that is a problem."""
    log(f"asking {name} ...")
    try:
        return ask()
    except (ImportError, OSError, RuntimeError) as error:
        problems.append(f"{name} does not work: {public_text(str(error))}")
        return {}


def _ask_torch() -> dict[str, Any]:
    import torch

    from speechft.devices import arithmetic_of, resolve_precision

    cpu = torch.device("cpu")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    precisions = {"cpu": resolve_precision("auto", cpu)}
    if gpus:
        precisions["cuda"] = resolve_precision("auto", torch.device("cuda"))
    arithmetic = arithmetic_of(cpu)
    return {
        "devices": ["cpu", *(f"cuda:{index} {name}" for index, name in enumerate(gpus))],
        "CUDA of torch": torch.version.cuda,
        "threads": arithmetic["threads"],
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "kernel": arithmetic["kernel"],
        "bf16": {place: precision == "bf16" for place, precision in precisions.items()},
    }


def _ask_soundfile() -> dict[str, Any]:
    import soundfile

    return {
        "libsndfile": soundfile.__libsndfile_version__,
        "audio formats": sorted(soundfile.available_formats()),
    }


def _folders() -> dict[str, FolderState]:
    """Return where caches lie, with sizes, and what is free here and for temporary files."""
    import tempfile

    from speechft.data.corpora import cache_folder

    caches = {"cache of speechft": cache_folder()}
    with contextlib.suppress(ImportError):
        from huggingface_hub.constants import HF_HUB_CACHE

        caches["cache of the hub"] = Path(HF_HUB_CACHE)
    found = {
        name: FolderState(_shown(place), _held(place), _free(place))
        for name, place in caches.items()
    }
    for name, place in {
        "this folder": Path.cwd(),
        "temporary": Path(tempfile.gettempdir()),
    }.items():
        found[name] = FolderState("." if place == Path.cwd() else _shown(place), None, _free(place))
    return found


def _shown(place: Path) -> str:
    """Return a place without what is the user's own: below ``~`` or a variable."""
    bases = ("SPEECHFT_CACHE", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "TMPDIR")
    known = {f"${name}": os.environ[name] for name in bases if os.environ.get(name)}
    for name, base in {**known, "~": str(Path.home())}.items():
        if place.is_relative_to(base):
            return str(Path(name, place.relative_to(base)))
    return public_name(place)


def _held(place: Path) -> int:
    """Return the bytes below a folder, links not followed."""
    total = 0
    for folder, _, names in os.walk(place):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total


def _free(place: Path) -> int:
    """Return the free bytes of the disk that a folder is or would be on."""
    there = next(
        parent for parent in (place.absolute(), *place.absolute().parents) if parent.exists()
    )
    return shutil.disk_usage(there).free


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {'yes' if held else 'no'}" for name, held in value.items())
    if isinstance(value, list):
        return ", ".join(value)
    return "none" if value is None else str(value)


def _told_extra(extra: ExtraState) -> str:
    held = ", ".join(_told_package(package) for package in extra.packages) or "not told"
    get = f"; get it: {extra.get}" if extra.get else ""
    return f"{held}; for {extra.purpose} ({', '.join(extra.verbs)}){get}"


def _told_package(package: Package) -> str:
    if package.version is None:
        return f"{package.name} {package.state}"
    wrong = f" {package.state}:" if package.state != "there" else ""
    return f"{package.name}{wrong} {package.version}"
