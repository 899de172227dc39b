"""fsspec's reader of web servers, made to hold with servers that do not keep to what they say.

fsspec takes what a server sends for the part that it asked for, reads it whole whatever its length,
tells every failure as a file that does not exist, and follows a server to any other host. Here a
part is the part, whether the server knows ranges or not; no more is read than was asked for; what
a server packs though nobody asked it to is unpacked; the server's own answer is what is told; and a
redirect stays with the host that the user named.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import yarl
from fsspec.implementations.http import HTTPFileSystem

_PLAIN = {"Accept-Encoding": "identity"}
"""A packed manifest is to come as it lies there."""
_NO_HEAD = (403, 405, 501)
"""Answers to HEAD of servers that would answer to GET."""
_GZIP = ("gzip", "x-gzip")
_BLOCK = 1 << 16


class ElsewhereError(ValueError):
    """A server sends on to another host or another scheme."""


class WebFileSystem(HTTPFileSystem):  # type: ignore[misc]
    """Files of web servers, by their whole address.

    Args:
        silence: Seconds without a byte after which a connection is given up.
    """

    def __init__(self, silence: float) -> None:
        super().__init__(get_client=_client, client_kwargs={"silence": silence})

    async def _info(self, url: str, **_: Any) -> dict[str, Any]:
        """Return size and tag of a file, as far as the server tells them."""
        session = await self.set_session()
        asked = {"headers": _PLAIN, "allow_redirects": True}
        try:
            async with session.head(self.encode_url(url), **asked) as answer:
                return _described(url, answer)
        except aiohttp.ClientResponseError as error:
            if error.status not in _NO_HEAD:
                raise
        async with session.get(self.encode_url(url), **asked) as answer:
            return _described(url, answer)

    async def _cat_file(
        self, url: str, start: int | None = None, end: int | None = None, most: int | None = None
    ) -> bytes:
        """Return a part of a file, or all of it up to ``most`` bytes."""
        found = bytearray()
        if start is None and end is None:
            await self._take(url, found.extend, most=most)
        else:
            await self._take(url, found.extend, start or 0, end)
        return bytes(found)

    async def _take(
        self,
        url: str,
        sink: Callable[[bytes], Any],
        start: int = 0,
        end: int | None = None,
        *,
        size: int | None = None,
        most: int | None = None,
    ) -> None:
        """Hand on the bytes of a file as they come.

        Args:
            url: The file.
            sink: Takes them.
            start: The first.
            end: Behind the last; None for all that follow.
            size: What the server said before that the whole file has.
            most: So many at most are handed on.

        Raises:
            ValueError: It says another size now, sends another part, or packs it otherwise than by
                gzip.
        """
        session = await self.set_session()
        headers = dict(_PLAIN)
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        async with session.get(self.encode_url(url), headers=headers) as answer:
            first, total = _part(answer)
            if first not in (0, start):
                raise ValueError(f"the server sends bytes from {first}, asked for was {start}")
            if size is not None and total not in (None, size):
                raise ValueError(f"the server said {size:,} bytes, and says {total:,} now")
            passing = start - first  # a server without ranges sends it all
            left = most if end is None else end - start
            unpacking = _unpacking(answer)
            async for received in answer.content.iter_chunked(_BLOCK):
                for block in unpacking.blocks(received):
                    passed = min(passing, len(block))
                    passing -= passed
                    piece = block[passed:] if left is None else block[passed : passed + left]
                    left = None if left is None else left - len(piece)
                    sink(piece)
                    if left == 0:
                        return
            unpacking.end()


class _AsItIs:
    """A body that is sent as it lies there."""

    def blocks(self, received: bytes) -> Iterator[bytes]:
        yield received

    def end(self) -> None:
        pass


class _Unpacking(_AsItIs):
    """A body that a server packed by gzip, in one or several members, piece by piece."""

    def __init__(self) -> None:
        self._machine = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._is_begun = False

    def blocks(self, received: bytes) -> Iterator[bytes]:
        data = received
        while True:
            if self._machine.eof and data:
                self._machine = zlib.decompressobj(zlib.MAX_WBITS | 16)
            try:
                piece = self._machine.decompress(data, _BLOCK)
            except zlib.error as error:
                raise ValueError(f"the server says that it packs by gzip, but {error}") from None
            self._is_begun = True
            yield piece
            data = self._machine.unused_data if self._machine.eof else self._machine.unconsumed_tail
            if not data and (self._machine.eof or len(piece) < _BLOCK):
                return

    def end(self) -> None:
        if self._is_begun and not self._machine.eof:
            raise OSError("the connection ended before the file did")


def _unpacking(answer: aiohttp.ClientResponse) -> _AsItIs:
    """Return how to read a body.

    Raises:
        ValueError: The server packs it in a way that is not read, or packs a part of a file.
    """
    packed = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if packed in ("", "identity"):
        return _AsItIs()
    if packed in _GZIP and answer.status == 200:
        return _Unpacking()
    raise ValueError(
        f"the server packs what it sends (Content-Encoding: {packed[:40]}), though it was asked "
        "for files as they are"
    )


def _described(url: str, answer: aiohttp.ClientResponse) -> dict[str, Any]:
    size, headers = answer.headers.get("Content-Length", ""), answer.headers
    return {
        "name": url,
        "type": "file",
        "size": int(size) if size.isdecimal() and "Content-Encoding" not in headers else None,
        "tag": headers.get("ETag") or headers.get("Last-Modified") or "",
    }


def _part(answer: aiohttp.ClientResponse) -> tuple[int, int | None]:
    """Return the first byte that comes and the size of the whole file, if that is told."""
    if answer.status == 206:
        told = answer.headers.get("Content-Range", "")
        where, _, total = told.removeprefix("bytes ").partition("/")
        first = where.partition("-")[0]
        asked = answer.request_info.headers["Range"].removeprefix("bytes=").partition("-")[0]
        return int(first if first.isdecimal() else asked), int(total) if total.isdecimal() else None
    size = _described("", answer)["size"]
    return 0, size


async def _client(*, silence: float, loop: Any) -> aiohttp.ClientSession:
    watch = aiohttp.TraceConfig()
    watch.on_request_redirect.append(_stay)
    return aiohttp.ClientSession(
        loop=loop,
        auto_decompress=False,
        raise_for_status=_accept,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=silence, sock_read=silence),
        trace_configs=[watch],
    )


async def _accept(answer: aiohttp.ClientResponse) -> None:
    """Refuse every answer but the file or a part of it."""
    if answer.status not in (200, 206):
        answer.close()
        raise aiohttp.ClientResponseError(
            answer.request_info,
            answer.history,
            status=answer.status,
            message=answer.reason or "",
            headers=answer.headers,
        )


async def _stay(
    _session: Any, _context: SimpleNamespace, told: aiohttp.TraceRequestRedirectParams
) -> None:
    """Follow a server to itself alone, or to its own port for https."""
    named = told.response.headers.get("Location") or told.response.headers.get("URI") or ""
    here = told.url
    try:
        there = here.join(yarl.URL(named))
        own = there.origin() == here.origin() or (
            (here.scheme, there.scheme, there.host) == ("http", "https", here.host)
            and there.port == 443
        )
    except ValueError:
        own = False
    if not own:
        told.response.close()
        raise ElsewhereError(f"the server sends on to {named[:200]!r}, which nobody asked for")
