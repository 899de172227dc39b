"""Servers on loopback for tests: a web server that misbehaves, a model hub, an object store."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote


@dataclass
class Web:
    """A web server of a folder, and what it is to do wrong."""

    folder: Path
    address: str = ""
    troubles: list[str] = field(default_factory=list)
    """One for each GET from the first on: a status, ``cut`` (half of the body, then the end),
    ``stall`` (half of it, then nothing), ``short`` (says less than it has), ``other`` (sends bytes
    from elsewhere), or an address to send on to; empty for none."""
    head: str = ""
    """The same for every HEAD: a status or an address, or ``size:N``."""
    ranges: bool = True
    tags: bool = True
    """Whether it tells ETags."""
    packs: str = ""
    """Content-Encoding of every body: ``gzip`` packs it, any other says so alone."""
    wait: str = ""
    """Retry-After of every answer that is a status."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and range of every request."""
    ended: threading.Event = field(default_factory=threading.Event)


class _Handler(SimpleHTTPRequestHandler):
    web: Web
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(self.web.head, body=False)

    def do_GET(self) -> None:
        self._answer(self.web.troubles.pop(0) if self.web.troubles else "", body=True)

    def _answer(self, trouble: str, body: bool) -> None:
        web, wanted = self.web, self.headers.get("Range", "")
        web.asked.append((self.command, self.path, wanted))
        if "://" in trouble or trouble.startswith("/"):
            self._plain(302, Location=trouble)
            return
        if trouble.isdecimal():
            self._plain(int(trouble))
            return
        path = web.folder / self.path.partition("?")[0].lstrip("/")
        if not path.is_file():
            self._plain(404)
            return
        data = path.read_bytes()
        whole, headers = len(data), {"ETag": f'"{hash(data) & 0xFFFFFFFF:x}"'} if web.tags else {}
        status, start = 200, 0
        if wanted and web.ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) + (3 if trouble == "other" else 0)
            data, status = data[start : int(last) + 1 if last else None], 206
            headers["Content-Range"] = f"bytes {start}-{start + len(data) - 1}/{whole}"
        if web.packs:
            headers["Content-Encoding"] = web.packs
            data = gzip.compress(data) if web.packs == "gzip" else data
        said = len(data) - 5 if trouble == "short" else len(data)
        if trouble.startswith("size:"):
            said = int(trouble.removeprefix("size:"))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(said)}.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        half = trouble in ("cut", "stall")
        self.wfile.write(data[: len(data) // 2] if half else data[:said])
        if half:
            self.wfile.flush()
            self.close_connection = True
        if trouble == "stall":
            web.ended.wait(60)

    def _plain(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Retry-After": self.web.wait}.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


_COMMIT = "0" * 40


class _HubHandler(_Handler):
    """What the hub's HTTP interface answers to readers: repositories of one revision, main."""

    def do_HEAD(self) -> None:
        self._resolve(super().do_HEAD)

    def do_GET(self) -> None:
        if not self.path.startswith("/api/"):
            self._resolve(super().do_GET)
            return
        self.web.asked.append((self.command, self.path, ""))
        if self.web.troubles and (trouble := self.web.troubles.pop(0)):
            self._plain(int(trouble))
            return
        kind, owner, name, *rest = unquote(self.path.partition("?")[0]).split("/")[2:]
        home = self.web.folder / kind / owner / name
        below = home.joinpath(*rest[2:])
        if not home.is_dir():
            self._plain(404, **{"X-Error-Code": "RepoNotFound"})
        elif rest[1:2] not in ([], ["main"], [_COMMIT]):
            self._plain(404, **{"X-Error-Code": "RevisionNotFound"})
        elif rest[:1] != ["tree"]:
            self._json({"id": f"{owner}/{name}", "sha": _COMMIT, "siblings": []})
        elif not below.is_dir():
            self._plain(404, **{"X-Error-Code": "EntryNotFound"})
        else:
            every = "recursive=true" in self.path.lower()
            found = sorted(below.rglob("*") if every else below.iterdir())
            self._json([self._told(home, path) for path in found])

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        asked = parse_qs(self.rfile.read(length).decode())
        self.web.asked.append((self.command, self.path, ""))
        if self.web.troubles and (trouble := self.web.troubles.pop(0)):
            if trouble == "stall":
                self.web.ended.wait(60)
            self._plain(int(trouble) if trouble.isdecimal() else 500)
            return
        kind, owner, name = self.path.split("/")[2:5]
        home = self.web.folder / kind / owner / name
        paths = [home / path for path in asked["paths"]]
        self._json([self._told(home, path) for path in paths if path.exists()])

    def _resolve(self, answer: Callable[[], None]) -> None:
        """Answer for a file, which lies in the folder under the name of its repository."""
        asked = unquote(self.path).replace(f"/resolve/{_COMMIT}/", "/resolve/main/")
        place, _, path = asked.partition("/resolve/main/")
        kind = "" if place.startswith("/datasets/") else "/models"
        self.path = f"{kind}{place}/{path}"
        answer()

    def end_headers(self) -> None:
        self.send_header("X-Repo-Commit", _COMMIT)
        super().end_headers()

    def _told(self, home: Path, path: Path) -> dict[str, Any]:
        name = path.relative_to(home).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40}
        data = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return {"type": "file", "path": name, "size": len(data), "oid": blob}

    def _json(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def hub(folder: Path, **settings: Any) -> Iterator[Web]:
    """Serve ``models/OWNER/NAME`` and ``datasets/OWNER/NAME`` of a folder as the hub does."""
    with serve(folder, kind=_HubHandler, **settings) as web:
        yield web


@contextmanager
def serve(folder: Path, kind: type[_Handler] = _Handler, **settings: Any) -> Iterator[Web]:
    """Serve a folder at ``address`` until the block ends."""
    web = Web(folder, **settings)
    handler = type("Handler", (kind,), {"web": web})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.block_on_close = False  # connections that are kept alive end with their client
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that leave
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    web.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield web
    finally:
        web.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def object_store() -> Iterator[str]:
    """Run an object store that speaks S3 until the block ends; gives its address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        with suppress(RuntimeError):
            server.stop()
