"""What lies elsewhere: whatever a server does, the bytes are right or one message says why not."""

from __future__ import annotations

import gzip
import logging
import re
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfFileSystem, close_session, constants
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, progress_bar_states

from servers import Web, serve
from speechft.errors import AbsentError, ConfigError, RemoteError
from speechft.storage import remote
from speechft.storage.answers import wanted_pause
from speechft.storage.remote import Told, address_of, download, joined, parted, read, stat

DATA = bytes(range(256)) * 400
MOST = 1 << 20


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.01, 0.01))
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "x.bin").write_bytes(DATA)
    with serve(tmp_path / "served") as server:
        yield server


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_is_the_part(web: Web, ranges: bool) -> None:
    web.ranges = ranges
    place = f"{web.address}/x.bin"
    assert read(place, most=MOST) == DATA
    assert read(place, 1_000, 70_000, most=MOST) == DATA[1_000:71_000]
    assert read(place, 5, 0, most=MOST) == b""
    assert len(read(place, most=1_000)) == 1_001, "one more tells that it is too long"


def test_what_passes_is_waited_for(web: Web) -> None:
    place = f"{web.address}/x.bin"
    for troubles in (["500", "503", "429"], ["cut", "cut"], ["408", "cut", "502"]):
        web.troubles = list(troubles)
        assert read(place, 10, 50_000, most=MOST) == DATA[10:50_010]


@pytest.mark.parametrize(
    ("trouble", "told", "tries"),
    [
        ("500", r"the server answers 500, 4 times", 4),
        ("404", r"the server answers 404$", 1),
        ("403", r"the server answers 403$", 1),
        ("cut", r"the connection ended before the file did, 4 times", 4),
        ("short", r"it ends 5 bytes too early, 4 times", 4),
        ("other", r"the server sends bytes from 13, asked for was 10$", 1),
        ("http://169.254.169.254/latest", r"sends on to 'http://169.254.169.254/latest'", 1),
        ("file:///etc/passwd", r"sends on to 'file:///etc/passwd', which nobody asked for", 1),
        ("/elsewhere.bin", r"the server answers 404$", 2),
    ],
)
def test_one_message_says_what_the_server_does(
    web: Web, trouble: str, told: str, tries: int
) -> None:
    web.troubles = [trouble] * (1 if trouble.startswith("/") else tries)
    with pytest.raises(RemoteError) as caught:
        read(f"{web.address}/x.bin", 10, 5_000, most=MOST)
    assert re.search(told, caught.value.message)
    assert caught.value.message.startswith(f"{web.address}/x.bin cannot be read: ")
    assert caught.value.hint
    assert len(web.asked) == tries
    assert isinstance(caught.value, AbsentError) == ("404" in told)


def test_a_server_may_send_on_to_itself(web: Web) -> None:
    web.troubles = ["/x.bin", f"{web.address}/x.bin"]
    assert read(f"{web.address}/old", most=MOST) == DATA
    with serve(web.folder) as other:
        web.troubles = [f"{other.address}/x.bin"]
        with pytest.raises(RemoteError, match="sends on to"):
            read(f"{web.address}/x.bin", most=MOST)
        assert not other.asked


@pytest.mark.parametrize("ranges", [True, False])
def test_what_a_server_packs_unasked_is_unpacked(web: Web, tmp_path: Path, ranges: bool) -> None:
    web.ranges, web.packs = ranges, "gzip"
    place = f"{web.address}/x.bin"
    told = stat(place)
    assert told is not None
    assert told.size is None, "what is told is the size of what is sent"
    assert read(place, most=MOST) == DATA
    assert len(read(place, most=1_000)) == 1_001
    download(place, tmp_path / "out", told, most=MOST)
    assert (tmp_path / "out").read_bytes() == DATA
    if ranges:
        with pytest.raises(RemoteError, match=r"the server packs what it sends .*: gzip\)"):
            read(place, 1_000, 70_000, most=MOST)
    else:
        assert read(place, 1_000, 70_000, most=MOST) == DATA[1_000:71_000]
    (web.folder / "x.bin").write_bytes(gzip.compress(bytes(10_000)) + gzip.compress(b"end"))
    web.packs = "x-gzip"  # as some servers do with files that are packed already
    assert read(place, most=MOST) == bytes(10_000) + b"end"


def test_what_cannot_be_unpacked_is_one_message(web: Web) -> None:
    place = f"{web.address}/x.bin"
    web.packs = "br"
    with pytest.raises(RemoteError, match=r"packs what it sends \(Content-Encoding: br\), though"):
        read(place, most=MOST)
    web.packs = "x-gzip"
    with pytest.raises(RemoteError, match=r"the server says that it packs by gzip, but .*\n"):
        read(place, most=MOST)
    (web.folder / "x.bin").write_bytes(gzip.compress(DATA)[:-20])
    with pytest.raises(RemoteError, match="the connection ended before the file did, 4 times"):
        read(place, most=MOST)
    (web.folder / "x.bin").write_bytes(gzip.compress(bytes(50 << 20)))
    assert read(place, most=1_000) == bytes(1_001), "and no more is unpacked"


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses that nobody waits for."""
    found: list[float] = []
    monkeypatch.setattr(remote, "time", SimpleNamespace(sleep=found.append))
    return found


def test_a_server_is_left_alone_for_as_long_as_it_wants(
    web: Web, slept: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"{web.address}/x.bin"
    web.wait, web.troubles = "20", ["429", "503"]
    assert read(place, 0, 5, most=MOST) == DATA[:5]
    assert slept == [20.0, 20.0]
    said = capsys.readouterr().err
    assert said.count("the server answers 429 and wants 20 s of pause: waiting") == 1
    web.wait, web.troubles = formatdate(time.time() + 60, usegmt=True), ["503"]
    assert read(place, 0, 5, most=MOST) == DATA[:5]
    assert 50 < slept.pop() <= 60
    slept.clear()
    for wait in ("0", "Mon, 01 Jan 2024 00:00:00 GMT", "soon", "-1"):
        web.wait, web.troubles = wait, ["503"]
        assert read(place, 0, 5, most=MOST) == DATA[:5]
    assert max(slept) < 1, "our own pauses"
    slept.clear()
    web.wait, web.troubles = "3600", ["429"]
    with pytest.raises(RemoteError, match=r"429 and wants 3,600 s of pause, of 120 s at most\n"):
        read(place, 0, 5, most=MOST)
    assert slept == []


def test_pauses_as_object_stores_and_the_hub_tell_them() -> None:
    store = ValueError()
    answer = {"HTTPStatusCode": 503, "HTTPHeaders": {"retry-after": "7"}}
    store.response = {"ResponseMetadata": answer}  # type: ignore[attr-defined]
    hub = ValueError()
    hub.response = SimpleNamespace(status_code=429, headers={"Retry-After": "9"})  # type: ignore[attr-defined]
    assert [wanted_pause(error) for error in (store, hub, ValueError())] == [7, 9, 0]


def test_a_server_that_stalls_is_given_up(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SILENCE", 0.2)
    monkeypatch.setattr(remote, "PAUSES", (0.01,))
    web.troubles = ["stall", "stall"]
    began = time.monotonic()
    with pytest.raises(RemoteError, match=r"sent nothing, or too little, for 0\.2 s, 2 times"):
        read(f"{web.address}/x.bin", most=MOST)
    assert time.monotonic() - began < 10


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.01,))
    with pytest.raises(RemoteError, match=r"http://127\.0\.0\.1:9/x cannot be read: .*, 2 times"):
        read("http://127.0.0.1:9/x", most=MOST)


def test_what_is_told_of_a_file(web: Web) -> None:
    told = stat(f"{web.address}/x.bin")
    assert told is not None
    assert told.size == len(DATA)
    assert told.tag
    assert stat(f"{web.address}/none") is None
    web.head = "405"
    assert stat(f"{web.address}/x.bin") == told, "asked by GET"
    web.head, web.troubles = "500", ["500"] * 4
    with pytest.raises(RemoteError, match="the server answers 500, 4 times"):
        stat(f"{web.address}/x.bin")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_where_it_broke_off(web: Web, tmp_path: Path, ranges: bool) -> None:
    web.ranges = ranges
    place, out = f"{web.address}/x.bin", tmp_path / "out"
    told = stat(place)
    assert told is not None
    web.troubles = ["cut", "500", "cut", "500"]
    with pytest.raises(RemoteError):
        download(place, out, told, most=MOST)
    there = out.stat().st_size
    assert 0 < there < len(DATA)
    web.asked.clear()
    download(place, out, told, most=MOST)
    assert out.read_bytes() == DATA
    assert web.asked[0] == ("GET", "/x.bin", f"bytes={there}-{len(DATA) - 1}")


def test_a_download_is_refused_that_is_not_what_was_told(web: Web, tmp_path: Path) -> None:
    place, out = f"{web.address}/x.bin", tmp_path / "out"
    told = stat(place)
    assert told is not None
    with pytest.raises(RemoteError, match=r"has 102,400 bytes, more than the 100 that it may"):
        download(place, out, told, most=100)
    web.head = "size:5000"
    lies = stat(place)
    assert lies == Told(5_000, told.tag)
    with pytest.raises(RemoteError, match=r"said 5,000 bytes, and says 102,400 now"):
        download(place, out, lies, most=MOST)
    web.head = ""
    with pytest.raises(RemoteError, match="changed while it was read"):
        download(place, out, Told(len(DATA), "before"), most=MOST)
    assert not out.exists()
    with pytest.raises(RemoteError, match="has more than 1,000 bytes"):
        download(place, out, Told(None, told.tag), most=1_000)


@pytest.mark.parametrize(
    "place",
    [
        "gs://b/x",
        "file:///etc/passwd",
        "ssh://h/x",
        "simplecache://x",
        "github://a:b@c/d",
        "data://",
    ],
)
def test_other_schemes_are_refused(place: str) -> None:
    with pytest.raises(ConfigError, match=r"nothing is read from .*; what is read: https://, http"):
        read(place, most=MOST)


def test_addresses() -> None:
    assert address_of(Path("s3://bucket/x/")) == "s3://bucket/x"
    assert address_of("https://host/x") == "https://host/x"
    assert [address_of(p) for p in ("hf:owner/name", "a/b", "simplecache::s3://b", None, 3)] == (
        [None] * 5
    )
    assert joined("https://host/a?token=T", "b c#.wav") == "https://host/a/b%20c%23.wav?token=T"
    assert joined("s3://bucket/a", "b c#.wav") == "s3://bucket/a/b c#.wav"
    assert parted("https://host/a/b?token=T") == ("https://host/a?token=T", "b")
    assert parted("s3://bucket/a/b") == ("s3://bucket/a", "b")


def test_an_object_store(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.bin").write_bytes(DATA)
    place = f"{bucket}/a b/#x.bin"
    assert stat(place) is None
    remote.upload(tmp_path / "x.bin", place, {"made-by": "me"})
    told = stat(place)
    assert told is not None
    assert told.size == len(DATA)
    assert remote.notes_of(place) == {"made-by": "me"}
    assert remote.notes_of(f"{bucket}/none") == {}
    assert remote.names_below(f"{bucket}/a b") == ["#x.bin"]
    assert remote.names_below(place) == [""]
    assert remote.names_below(f"{bucket}/a") == []
    assert read(place, most=MOST) == DATA
    assert read(place, 7, 9, most=MOST) == DATA[7:16]
    monkeypatch.setattr(remote, "PIECE", 40_000)
    (tmp_path / "part").write_bytes(DATA[:100])
    download(place, tmp_path / "part", told, most=MOST)
    assert (tmp_path / "part").read_bytes() == DATA
    remote.remove(place)
    assert stat(place) is None
    with pytest.raises(AbsentError, match=r"the server answers 404 \(NoSuchBucket\)"):
        remote.upload(tmp_path / "x.bin", "s3://none-of-mine/x", {})


def test_an_object_store_that_does_not_know_who_asks(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(RemoteError, match="credentials") as caught:
        read(f"{bucket}/x", most=MOST)
    assert "aws configure" in (caught.value.hint or "")
    S3FileSystem.clear_instance_cache()


def _file(web: Web, name: str, data: bytes = DATA) -> None:
    path = web.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_the_hub_by_path(
    hub_server: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    _file(hub_server, "datasets/me/set/a b/x.bin")
    _file(hub_server, "models/me/x/y.bin", b"model")
    place = "hf://datasets/me/set/a b/x.bin"
    told = stat(place)
    assert told is not None
    assert told.size == len(DATA)
    assert told.tag, "by which a change is seen"
    assert stat("hf://datasets/me/set@main/a b/x.bin") == told
    assert read("hf://me/x/y.bin", most=MOST) == b"model"
    assert remote.names_below("hf://datasets/me/set/a b") == ["x.bin"]
    assert remote.names_below(place) == [""]
    assert read(place, most=MOST) == DATA
    hub_server.asked.clear()
    assert read(place, 7, 9, most=MOST) == DATA[7:16]
    ranges = [wanted for method, _, wanted in hub_server.asked if method == "GET" and wanted]
    assert ranges == ["bytes=7-15"], "and no block more"
    monkeypatch.setattr(remote, "PIECE", 40_000)
    (tmp_path / "part").write_bytes(DATA[:100])
    download(place, tmp_path / "part", told, most=MOST)
    assert (tmp_path / "part").read_bytes() == DATA
    _file(hub_server, "datasets/me/set/a b/x.bin", DATA[:-1] + b"x")
    assert stat(place) != told
    (tmp_path / "part").unlink()
    with pytest.raises(RemoteError, match="changed while it was read"):
        download(place, tmp_path / "part", told, most=MOST)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "place",
    [
        "hf://datasets/me/set/none",
        "hf://datasets/me/set/none/x.bin",
        "hf://datasets/me/none/x.bin",
        "hf://datasets/me/set@v2/x.bin",
        "hf://me/set/x.bin",
    ],
)
def test_what_is_not_on_the_hub(hub_server: Web, place: str) -> None:
    _file(hub_server, "datasets/me/set/x.bin")
    assert stat(place) is None
    assert remote.names_below(place) == []
    with pytest.raises(AbsentError, match=r"cannot be read: (the server answers 404|there is)"):
        read(place, most=MOST)


@pytest.mark.parametrize("place", ["hf://x", "hf://x/", "hf://datasets/x"])
def test_what_is_no_place_on_the_hub(hub_server: Web, place: str) -> None:
    with pytest.raises(RemoteError, match=r"Repository id must be 'namespace/name'"):
        read(place, most=MOST)


def test_a_hub_that_fails(hub_server: Web, capfd: pytest.CaptureFixture) -> None:
    _file(hub_server, "datasets/me/set/x.bin")
    place = "hf://datasets/me/set/x.bin"
    for troubles in (["503", "500"], ["", "503", "429"], ["", "", "502", "504"]):
        hub_server.troubles = list(troubles)  # of the repository, of the file, of its content
        assert read(place, most=MOST) == DATA, "what passes is waited for"
        HfFileSystem().invalidate_cache()
    assert read(place, most=MOST) == DATA
    hub_server.asked.clear()
    hub_server.troubles = ["503"] * 100
    with pytest.raises(RemoteError, match=r"cannot be read: the server answers 503\n") as caught:
        read(place, 0, 4, most=MOST)
    assert "goes on" in (caught.value.hint or "")
    assert sum(method == "GET" for method, _, _ in hub_server.asked) <= 6, "not by two layers"
    assert capfd.readouterr().err == "", "one message, ours"


def test_bars_of_the_hub_are_shown_where_ours_are(
    hub_server: Web, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    from huggingface_hub import snapshot_download

    from speechft.storage import hub_files

    monkeypatch.setitem(progress_bar_states, "_global", True)  # some libraries turn all off
    _file(hub_server, "models/me/x/config.json", b"{}")
    with hub_files.bars_like_ours():
        snapshot_download("me/x")
    assert capfd.readouterr().err == ""
    assert not are_progress_bars_disabled(), "as it was before"
    monkeypatch.setattr(hub_files, "shows_progress", lambda: True)
    with hub_files.bars_like_ours():
        assert not are_progress_bars_disabled()


def test_a_client_that_is_told_to_stay_offline(
    hub_server: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()  # the client asks that when it is made
    try:
        with pytest.raises(RemoteError, match=r"told to stay offline \(HF_HUB_OFFLINE\)\n"):
            read("hf://datasets/me/set/x.bin", most=MOST)
    finally:
        close_session()
    assert hub_server.asked == []


def test_a_hub_that_says_nothing(hub_server: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    _file(hub_server, "datasets/me/set/x.bin")
    monkeypatch.setattr(remote, "SILENCE", 0.2)
    hub_server.troubles = ["", *["stall"] * 9]
    with pytest.raises(RemoteError, match=r"sent nothing, or too little, for too long, 4 times"):
        read("hf://datasets/me/set/x.bin", most=MOST)


def test_what_comes_to_the_hub_is_seen(hub_server: Web, tmp_path: Path) -> None:
    place = "hf://datasets/me/set"
    assert stat(f"{place}/x.bin") is None, "there is no repository"
    _file(hub_server, "datasets/me/set/x.bin", b"first")
    assert read(f"{place}/x.bin", most=MOST) == b"first"
    assert read(f"{place}/x.bin", 1, 2, most=MOST) == b"ir"
    assert remote.names_below(place) == ["x.bin"]
    _file(hub_server, "datasets/me/set/x.bin", b"first and more")
    _file(hub_server, "datasets/me/set/y.bin", b"second")
    assert remote.names_below(place) == ["x.bin", "y.bin"]
    assert stat(f"{place}/y.bin") is not None
    assert read(f"{place}/x.bin", 6, 8, most=MOST) == b"and more"
    assert read(f"{place}/x.bin", most=MOST) == b"first and more"


def test_waiting_as_the_hub_wants_is_said(hub_server: Web) -> None:
    stat("hf://datasets/me/none/x")  # the filter is there
    log, said = logging.getLogger("huggingface_hub.utils._http"), logging.Handler()
    told: list[str] = []
    said.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(said)
    try:
        log.warning("HTTP Error 503 thrown while requesting GET x")
        log.warning("Retrying in 1s [Retry 1/5].")
        log.warning("Rate limited. Waiting 301.0s before retry [Retry 1/5].")
    finally:
        log.removeHandler(said)
    assert told == ["Rate limited. Waiting 301.0s before retry [Retry 1/5]."]
