"""Copies of what lies at addresses, in the cache: by address and ETag, whole, with digests.

A copy is a folder ``remote/<address>/<version>/<name>``; the version is a digest of size and tag of
every file. What was read, and its SHA-256, stands in ``source.json`` beside it. An interrupted copy
is gone on with.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from speechft.console import log
from speechft.errors import AbsentError, RunError
from speechft.naming import masked, stands_for
from speechft.storage.disk import sync_folder, sync_tree
from speechft.storage.documents import MAX_DOCUMENT
from speechft.storage.files import (
    cache_folder,
    file_digest,
    indexed_files,
    json_digest,
    write_error,
    write_json,
)
from speechft.storage.locks import lock, make_scratch, waiting
from speechft.storage.remote import Told, download, joined, name_here, parted, stat

MAX_COPY = 1 << 36
"""Bytes of one file that is copied; of texts, `MAX_DOCUMENT`."""
_SPARE = 1 << 30
"""Bytes that a copy leaves free on the disk."""
_SOURCE = "source.json"
_TEXTS = (".json", ".md")
_INDEX = ".index.json"


def copied_file(address: str, beside: Sequence[str] = (), *, most: int = MAX_COPY) -> Path:
    """Return a copy of a file.

    Args:
        address: The file.
        beside: Names of files that are copied along from beside it where they are there.
        most: Bytes that it may have.

    Raises:
        AbsentError: There is none.
        RemoteError: It cannot be read.
    """
    folder, name = parted(address)
    return copied_folder(folder, ((name,), *((other,) for other in beside)), most) / name


@cache
def copied_folder(address: str, groups: tuple[tuple[str, ...], ...], most: int = MAX_COPY) -> Path:
    """Return a copy of some files of a folder; within a process it is the same to the end.

    Args:
        address: The folder.
        groups: Names; of each group the first that is there is copied, and the files that it
            names where it is an index of shards.
        most: Bytes that a file may have.

    Raises:
        AbsentError: Nothing of the first group is there.
        RemoteError: A file cannot be read.
    """
    found: dict[str, Told] = {}
    for group in groups:
        first = next(((n, told) for n in group if (told := stat(joined(address, n)))), None)
        if first is not None:
            found[first[0]] = first[1]
        elif group is groups[0]:
            raise AbsentError(
                f"{masked(address)} holds none of: {', '.join(group)}", hint="check the address"
            )
    home = _home(address)
    version = json_digest({name: [told.size, told.tag] for name, told in found.items()})[:16]
    out = home / version / name_here(address)
    stands_for(out, address)
    if not (home / version / _SOURCE).is_file():
        with waiting(), lock(home):
            if not (home / version / _SOURCE).is_file():
                _copy(address, found, home / f".{version}.partial", home / version, out.name, most)
    return out


def latest_copy(address: str) -> Path | None:
    """Return the last copy of a folder, without asking anybody; None where there is none."""
    made = sorted(_home(address).glob(f"*/{_SOURCE}"), key=lambda path: path.stat().st_mtime)
    if not made:
        return None
    out = made[-1].parent / name_here(address)
    stands_for(out, address)
    return out


def _home(address: str) -> Path:
    """Return where copies of an address lie, whatever secrets it holds."""
    return cache_folder() / "remote" / hashlib.sha256(masked(address).encode()).hexdigest()[:16]


def _copy(
    address: str, found: dict[str, Told], scratch: Path, out: Path, name: str, most: int
) -> None:
    make_scratch(scratch)
    make_scratch(scratch / name)
    digests = {}
    try:
        waiting_for = dict(found)
        while waiting_for:
            file, told = waiting_for.popitem()
            _take(joined(address, file), scratch / name / file, told, most)
            digests[file] = file_digest(scratch / name / file)
            for part in indexed_files(scratch / name / file) if file.endswith(_INDEX) else ():
                named = stat(joined(address, part.name))
                if named is None:
                    raise AbsentError(f"{file} of {masked(address)} names {part.name}, not there")
                waiting_for[part.name] = named
        write_json(scratch / _SOURCE, {"address": masked(address), "sha256": digests})
        sync_tree(scratch)
        os.replace(scratch, out)
        sync_folder(out.parent)
    except OSError as error:
        raise write_error(scratch, error) from None


def _take(address: str, out: Path, told: Told, most: int) -> None:
    most = min(most, MAX_DOCUMENT) if out.suffix in _TEXTS else most
    left = (told.size or 0) - (out.stat().st_size if out.exists() else 0)
    if left > shutil.disk_usage(out.parent).free - _SPARE:
        raise RunError(
            f"no space left to copy {masked(address)} ({left:,} bytes) to {out.parent}",
            hint="free some space, or set SPEECHFT_CACHE to a folder on a larger disk",
        )
    if left > _SPARE >> 4:
        log(f"copying {masked(address)} ({left / 1e6:,.0f} MB) to the cache")
    download(address, out, told, most=most)
