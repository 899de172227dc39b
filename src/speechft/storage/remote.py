"""What lies elsewhere: the schemes that are read, and reading and writing with patience that ends.

fsspec does the talking, with the classes that are named here and no others: it knows schemes that
run programs, that open local files, and that chain to others.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from speechft.console import log
from speechft.errors import AbsentError, ConfigError, RemoteError, SpeechftError
from speechft.extras import needs
from speechft.storage.answers import reason, wanted_pause
from speechft.storage.documents import is_plain

T = TypeVar("T")

SCHEMES = ("https", "http", "s3", "hf")
"""What can be read; ``s3`` can be written too."""
SCHEMES_VARIABLE = "SPEECHFT_SCHEMES"
"""Environment variable: schemes that files may name too, with commas."""
PAUSES = (0.5, 1.0, 2.0)
"""Seconds between tries, half as much more or less: one try more than there are pauses."""
LONGEST_PAUSE = 120.0
"""Seconds between tries that a server may ask for (``Retry-After``)."""
_TOLD_PAUSE = 5.0
"""Seconds of a pause from which on it is said."""
SILENCE = 30.0
"""Seconds without a byte after which a connection is given up."""
SLOWEST = 1 << 16
"""Bytes a second below which a part is given up."""
PIECE = 32 << 20
"""Bytes that are asked for at a time."""
_PROGRESS = 1 << 20
"""Bytes of a download after which a failure counts as the first."""
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_LOST_SLASH = re.compile(rf"({'|'.join(SCHEMES)}):(/(?!/)|$)", re.IGNORECASE)
_HINTS = {
    "s3": "say who you are: aws configure, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; where "
    "you may not list, a store says 403 for what does not exist, too",
    "hf": "log in: hf auth login",
}


@dataclass(frozen=True)
class Told:
    """What a server tells of a file without sending it."""

    size: int | None
    tag: str
    """ETag or the like: another one is another content. Empty where it tells none."""


def is_address(text: str) -> bool:
    """Return whether a text is an address such as ``https://host/x`` rather than a path."""
    return _ADDRESS.match(text) is not None


def address_of(place: Any) -> str | None:
    """Return the address that was given; None for a path, a name or nothing.

    An address that was taken for a path and lost a slash gets it back.
    """
    text = str(place) if isinstance(place, str | Path) else ""
    text = _LOST_SLASH.sub(r"\1://", text, count=1) if _LOST_SLASH.match(text) else text
    scheme, found, rest = text.partition("://")
    return f"{scheme}://{rest.rstrip('/')}" if found and is_address(text) else None


def is_asked(address: str) -> bool:
    """Return whether the user allowed files to name addresses of this scheme."""
    given = re.split(r"[,\s]+", os.environ.get(SCHEMES_VARIABLE, ""))
    return scheme_of(address) in {name.lower() for name in given if name.lower() in SCHEMES}


def scheme_of(address: str) -> str:
    """Return the scheme of an address, in small letters."""
    return address.partition("://")[0].lower()


def joined(address: str, name: str) -> str:
    """Return the address of a file below another address; whatever follows ``?`` stays behind.

    Args:
        address: Of a folder.
        name: Relative path of the file.
    """
    if scheme_of(address) not in ("http", "https"):
        return f"{address}/{name}"
    parts = urlsplit(address)
    path = f"{parts.path.rstrip('/')}/{quote(name)}"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def parted(address: str) -> tuple[str, str]:
    """Return the address of the folder of a file, and the name of the file."""
    parts = urlsplit(address) if scheme_of(address) in ("http", "https") else None
    if parts is None:
        folder, _, name = address.rpartition("/")
        return folder, name
    path, _, name = parts.path.rpartition("/")
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, "")), name


def name_here(address: str) -> str:
    """Return what the last part of an address is called on this machine: a name, never a way."""
    name = parted(address)[1].replace("?", "_")
    return name if name not in ("", ".", "..") else "_"


def stat(address: str) -> Told | None:
    """Return what is told of a file; None where there is none.

    Raises:
        RemoteError: It cannot be asked.
    """
    try:
        system, path = _opened(address)
        found = _patiently(address, "read", lambda: _call(system, "info", path))
    except AbsentError:
        return None
    if found.get("type") != "file":
        return None
    size = found.get("size")
    tags = (found.get(name) for name in ("tag", "ETag", "xet_hash", "blob_id", "LastModified"))
    return Told(None if size is None else int(size), str(next(filter(None, tags), "")))


def read(address: str, start: int = 0, size: int | None = None, *, most: int) -> bytes:
    """Read a file, or ``size`` bytes of it from ``start`` on.

    Args:
        address: The file.
        start: First byte.
        size: How many; None for all, up to one more than ``most``.
        most: Bytes that may be read at once.

    Raises:
        AbsentError: There is none.
        RemoteError: It cannot be read, or ends before.
    """
    system, path = _opened(address)
    is_web = scheme_of(address) in ("http", "https")
    whole = 0
    if size is None and not is_web:
        whole = _patiently(address, "read", lambda: int(_call(system, "info", path)["size"]))

    def once() -> bytes:
        if size is not None:
            end = start + size
            data = _call(system, "cat_file", path, start=start, end=end, size=size) if size else b""
            if len(data) != size:
                raise OSError(f"it ends {size - len(data)} bytes too early")
        elif is_web:
            data = _call(system, "cat_file", path, most=most + 1, size=most)
        else:
            end = min(whole, most + 1)
            data = _call(system, "cat_file", path, start=0, end=end, size=end) if whole else b""
        return bytes(data)

    return _patiently(address, "read", once, _pauses(address))


def download(address: str, out: Path, told: Told, *, most: int) -> None:
    """Have a whole file in ``out``; what lies there already is gone on from.

    Args:
        address: The file.
        out: Of this process alone.
        told: What `stat` returned.
        most: Bytes that it may have.

    Raises:
        RemoteError: It cannot be read, has more bytes than ``most``, or changed meanwhile.
    """
    if told.size is not None and told.size > most:
        raise RemoteError(f"{address} has {told.size:,} bytes, more than the {most:,} that it may")
    system, path = _opened(address)

    def once() -> None:
        with open(out, "ab") as file:
            if told.size is None or file.tell() > told.size:  # no telling how much was there
                file.truncate(0)
            while told.size is None or file.tell() < told.size:
                have = file.tell()
                if scheme_of(address) in ("http", "https"):
                    bounds = {"size": told.size, "most": most + 1}
                    _call(system, "take", path, file.write, have, told.size, **bounds)
                else:
                    end = min(int(told.size or 0), have + PIECE)
                    file.write(_call(system, "cat_file", path, start=have, end=end, size=PIECE))
                if told.size is None:
                    break
                if file.tell() == have:
                    raise OSError(f"it ends {told.size - have} bytes too early")
            if file.tell() > most:
                raise ValueError(f"it has more than {most:,} bytes")

    def have() -> int:
        return out.stat().st_size if out.exists() else 0

    _patiently(address, "read", once, _pauses(address), have)
    if stat(address) != told:
        out.unlink()
        raise RemoteError(
            f"{address} changed while it was read", hint="give the same command again"
        )


def upload(file: Path, address: str, notes: Mapping[str, str]) -> None:
    """Put a file at an address, whole or not at all, with notes that stay with it."""
    system, path = _opened(address)
    size = file.stat().st_size

    def once() -> None:
        _call(system, "put_file", str(file), path, size=size, Metadata=dict(notes))

    _patiently(address, "written", once)


def notes_of(address: str) -> dict[str, str]:
    """Return the notes that a file at an address bears; none where there is no file."""
    system, path = _opened(address)
    try:
        found = _patiently(address, "read", lambda: _call(system, "metadata", path))
    except AbsentError:
        return {}
    return {str(name): str(value) for name, value in found.items()}


def remove(address: str) -> None:
    """Remove a file at an address."""
    system, path = _opened(address)
    _patiently(address, "written", lambda: _call(system, "rm_file", path))


def names_below(address: str) -> list[str]:
    """Return the relative paths of all files below an address; ``""`` for a file itself."""
    try:
        system, path = _opened(address)
        found = _patiently(address, "read", lambda: _call(system, "find", path), _pauses(address))
    except AbsentError:
        return []
    return sorted(name.removeprefix(path).lstrip("/") for name in found if not name.endswith("/"))


def _opened(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    Raises:
        ConfigError: Nothing is read from there.
        PackageError: A package is missing.
    """
    scheme = scheme_of(address)
    if scheme not in SCHEMES or not is_plain(address):
        raise ConfigError(
            f"{address}: nothing is read from {scheme}://; what is read: "
            + ", ".join(f"{name}://" for name in SCHEMES),
            hint="give a path, or for another store the address of its S3 interface in "
            "AWS_ENDPOINT_URL and s3://",
        )
    if scheme == "hf":
        from speechft.storage.hub_files import HubFileSystem

        hub, path = HubFileSystem(SILENCE), address.partition("://")[2]
        _patiently(address, "read", lambda: hub.look(path))
        return hub, path
    if scheme == "s3":
        with needs("remote", f"{address}: s3://"):
            from s3fs import S3FileSystem
        patience = {"connect_timeout": SILENCE, "read_timeout": SILENCE}
        config = {**patience, "retries": {"total_max_attempts": 1}}
        system = S3FileSystem(config_kwargs=config, use_listings_cache=False)
        system.retries = 1  # `_patiently` tries again
        return system, address.partition("://")[2]
    with needs("remote", f"{address}: {scheme}://"):
        from speechft.storage.web import WebFileSystem
    return WebFileSystem(SILENCE), address


def _call(system: Any, name: str, *given: Any, size: int | None = None, **more: Any) -> Any:
    """Call a method of a file system, for so long as so many bytes may take at most."""
    if name == "take":
        more["size"] = size
    if not system.async_impl:
        return getattr(system, name)(*given, **more)
    from fsspec.asyn import sync

    seconds = 4 * SILENCE + (more.get("most") or size or 0) / SLOWEST
    return sync(system.loop, getattr(system, f"_{name}"), *given, timeout=seconds, **more)


def _pauses(address: str) -> Sequence[float]:
    """Return how often the content of files and folders is asked for again, with which pauses.

    The hub's client does that by itself: six tries within half a minute, or when the hub says.
    """
    return () if scheme_of(address) == "hf" else PAUSES


def _patiently(
    address: str,
    done: str,
    work: Callable[[], T],
    pauses: Sequence[float] | None = None,
    gone: Callable[[], int] = lambda: 0,
) -> T:
    """Do what may fail for a while, some times; then say once why it fails.

    Args:
        address: What it is about.
        done: What is done with it, in words: ``read``.
        work: Does it.
        pauses: Seconds between tries; `PAUSES` without.
        gone: How many bytes it is on; a failure that much further counts as the first.

    Raises:
        RemoteError: It does not get done.
    """
    pauses = PAUSES if pauses is None else pauses
    hub = scheme_of(address) == "hf"  # whose client has a patience of its own
    tries, reached = 0, gone()
    while True:
        try:
            return work()
        except SpeechftError:
            raise
        except Exception as error:  # of several libraries, each with kinds of its own
            status, told, passing = reason(error, "too long" if hub else f"{SILENCE:g} s")
            if gone() >= reached + _PROGRESS:
                tries, reached = 0, gone()
            wanted = wanted_pause(error) if passing else 0.0
            if wanted > LONGEST_PAUSE:
                told += f" and wants {wanted:,.0f} s of pause, of {LONGEST_PAUSE:g} s at most"
            if not passing or tries == len(pauses) or wanted > LONGEST_PAUSE:
                message = f"{address} cannot be {done}: {told}"
                raise _refusal(message, status, passing, tries) from None
        if wanted >= _TOLD_PAUSE:
            log(f"{address}: {told} and wants {wanted:.0f} s of pause: waiting")
        time.sleep(max(wanted, pauses[tries] * random.uniform(0.5, 1.5)))
        tries += 1


def _refusal(message: str, status: int, passing: bool, more_tries: int) -> RemoteError:
    kind = AbsentError if status in (404, 410) else RemoteError
    if status in (401, 403):
        hint = _HINTS.get(scheme_of(message), "give an address that you may read")
    elif passing or more_tries:
        message += f", {more_tries + 1} times" if more_tries else ""
        hint = "give the same command again when the server can be reached: it goes on"
    else:
        hint = "look at the address, and at what the server says"
    return kind(message, hint=hint)
