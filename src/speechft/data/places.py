"""Bytes from wherever they lie: a folder, a web server, an object store."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from speechft.commands import shell
from speechft.disk import reading
from speechft.errors import DataError
from speechft.extras import missing

MAX_BYTES = 1 << 30
"""Bytes of one file, or of the part of one, that are read into memory."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://")


def is_address(text: str) -> bool:
    """Return whether a text is an address such as ``https://host/x`` rather than a path."""
    return _ADDRESS.match(text) is not None


def read_bytes(place: str, start: int = 0, size: int | None = None) -> bytes:
    """Read a file, or ``size`` bytes of it from ``start`` on.

    ``http`` and ``https`` addresses are read with range requests and three retries; other
    addresses (``s3://``, ``gs://``, ...) through the package ``smart_open`` where it is installed.

    Raises:
        DataError: It cannot be read, is shorter than asked for, or passes `MAX_BYTES`.
    """
    if start < 0 or (size is not None and not 0 <= size <= MAX_BYTES):
        raise DataError(f"{place} cannot be read: {size} bytes from {start} on are no part of it")
    try:
        if not is_address(place):
            data = _read_file(Path(place), start, size)
        elif place.startswith(("http://", "https://")):
            data = _read_http(place, start, size)
        else:
            data = _read_store(place, start, size)
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise DataError(f"{place} cannot be read: it has more than {MAX_BYTES:,} bytes")
    if size is not None and len(data) != size:
        raise DataError(f"{place} cannot be read: it ends {size - len(data)} bytes too early")
    return data


def _read_file(path: Path, start: int, size: int | None) -> bytes:
    with reading(path) as file:
        file.seek(start)
        return file.read(MAX_BYTES + 1 if size is None else size)


@cache
def _pool(process: int) -> Any:
    """Return the connections of one process: a forked one must not answer on its parent's."""
    import urllib3

    return urllib3.PoolManager(retries=urllib3.Retry(3, backoff_factor=0.5), timeout=60.0)


def _read_http(address: str, start: int, size: int | None) -> bytes:
    import urllib3

    headers = {} if size is None else {"Range": f"bytes={start}-{start + size - 1}"}
    try:
        answer = _pool(os.getpid()).request(
            "GET", address, headers=headers, preload_content=False, decode_content=False
        )
        try:
            status = answer.status
            most = (start + size if status == 200 else size) if size is not None else MAX_BYTES + 1
            data: bytes = answer.read(most) if status in (200, 206) else answer.read(1 << 16)
            whole = not answer.read(1)
        finally:
            if not whole:
                answer.close()
            answer.release_conn()
    except urllib3.exceptions.HTTPError as error:
        raise DataError(f"{address} cannot be read: {error}") from None
    if status not in (200, 206):
        raise DataError(f"{address} cannot be read: the server answers {status}")
    if size is not None and status == 200:  # a server without ranges sends it all
        return data[start : start + size]
    return data


def _read_store(address: str, start: int, size: int | None) -> bytes:
    try:
        from smart_open import open as open_store
    except ImportError:
        scheme = address.partition("://")[0]
        how = shell("pip", ["install", f"smart_open[{scheme}]"])
        raise missing(f"{address}: {scheme}://", "smart_open", f"{how}, or use https") from None
    with open_store(address, "rb", compression="disable") as file:
        file.seek(start)
        data: bytes = file.read(MAX_BYTES + 1 if size is None else size)
        return data
