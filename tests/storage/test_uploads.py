"""Outputs at addresses: moved up whole, completed after a stop, never in the place of others'."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

import speechft
from servers import serve
from speechft import cli
from speechft.data.corpora import find_corpus
from speechft.data.manifest import Corpus
from speechft.errors import AbsentError, ConfigError, RemoteError, RunError
from speechft.progress import status
from speechft.storage import remote, uploads
from speechft.storage.outputs import overwriting
from speechft.storage.uploads import MARK_NAME, Standing, at_hand, output_at, path_here, standing


def write(out: Path, **files: str) -> None:
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)


def put(place: str, **files: str) -> None:
    """Write files as a command that is given an address."""
    with output_at(place) as out:
        write(out, **files)


def fail(place: str, **files: str) -> None:
    """Write files as a command that ends with an error."""
    with output_at(place) as out:
        write(out, **files)
        raise KeyError


def at(address: str) -> dict[str, str]:
    """Return what lies at an address, without our record."""
    names = [name for name in remote.names_below(address) if name != MARK_NAME]
    return {n: remote.read(f"{address}/{n}", most=1 << 20).decode() for n in names}


def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Be another machine, which has nothing here."""
    monkeypatch.setenv("SPEECHFT_CACHE", str(tmp_path / "another"))


def test_an_output_is_moved_up_when_it_is_complete(bucket: str) -> None:
    place = f"{bucket}/runs/x"
    with pytest.raises(KeyError):
        fail(place, a="1")
    assert remote.names_below(f"{bucket}/runs") == [], "nothing of what failed"
    with output_at(place) as out:
        assert (out / "a").read_text() == "1", "the work is still here"
        write(out, **{"a": "2", "b/c": "3", ".partial/w": "no", "cache/f": "no", ".lock": ""})
        assert at(place) == {}
    assert at(place) == {"a": "2", "b/c": "3"}
    mark = json.loads(remote.read(f"{place}/{MARK_NAME}", most=1 << 20))
    assert mark["whole"]
    assert mark["files"].keys() == {"a", "b/c"}
    with output_at(place) as out:
        (out / "a").unlink()
        write(out, d="4")
    assert at(place) == {"b/c": "3", "d": "4"}, "what is no longer part of it is gone"


def test_an_interrupted_upload_is_completed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, plain, done = f"{bucket}/x", uploads.upload, list[str]()

    def breaking(file: Path, address: str, notes: Any) -> None:
        if address.endswith("/c"):
            raise KeyboardInterrupt
        plain(file, address, notes)

    monkeypatch.setattr(uploads, "upload", breaking)
    with pytest.raises(KeyboardInterrupt):
        put(place, a="1", b="2", c="3")
    assert at(place) == {"a": "1", "b": "2"}
    assert not json.loads(remote.read(f"{place}/{MARK_NAME}", most=1 << 20))["whole"]

    def counting(file: Path, address: str, notes: Any) -> None:
        done.append(address.removeprefix(place))
        plain(file, address, notes)

    monkeypatch.setattr(uploads, "upload", counting)
    with output_at(place) as out:
        assert (out / "c").read_text() == "3"
    assert done == [".speechft-trial", f"/{MARK_NAME}", "/c", f"/{MARK_NAME}"]
    assert at(place) == {"a": "1", "b": "2", "c": "3"}
    done.clear()
    with output_at(place):
        pass
    assert done == [".speechft-trial"], "nothing new, nothing written"


def test_what_somebody_else_put_there_stays(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{bucket}/x"
    (tmp_path / "theirs").write_text("theirs")
    remote.upload(tmp_path / "theirs", f"{place}/a", {})
    with pytest.raises(RunError, match=r"x/a already exists and was not written"):
        fail(place)
    with overwriting(True), output_at(place) as out:
        write(out, a="1", b="2")
    assert at(place) == {"a": "1", "b": "2"}
    remote.upload(tmp_path / "theirs", f"{place}/b", {})
    remote.upload(tmp_path / "theirs", f"{place}/c", {})
    with pytest.raises(RunError, match="x/b already exists"):
        put(place, a="3", b="4")
    assert at(place) == {"a": "1", "b": "theirs", "c": "theirs"}
    elsewhere(monkeypatch, tmp_path)
    with pytest.raises(RemoteError, match="x/b is not what speechft wrote there"):
        at_hand(place)


def test_another_machine_goes_on_from_what_is_complete(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, first = f"{bucket}/x", path_here(f"{bucket}/x")
    with output_at(place) as out:
        write(out, a="1", b="2")
    elsewhere(monkeypatch, tmp_path)
    with output_at(place) as out:
        assert out != first
        assert (out / "a").read_text() == "1"
        (out / "b").unlink()
        write(out, a="3")
    monkeypatch.setenv("SPEECHFT_CACHE", str(tmp_path / "caches"))
    assert at_hand(place) == first
    assert {p.name: p.read_text() for p in first.iterdir()} == {"a": "3"}


def test_what_is_there_is_told_on_any_machine(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{bucket}/x"
    assert standing(place) == Standing(False)
    with pytest.raises(RunError, match=f"{place} holds no output of speechft"):
        status(place)
    put(place, a="1", **{"b/c": "2"})
    whole = json.loads(remote.read(f"{place}/{MARK_NAME}", most=1 << 20))
    elsewhere(monkeypatch, tmp_path)
    assert standing(place) == Standing(True, ("a", "b/c"), 2)
    assert status(place) == []
    uploads._put_mark(place, {**whole, "whole": False})
    remote.remove(f"{place}/a")
    assert standing(place) == Standing(False, ("a", "b/c"), 1)
    with serve(tmp_path / "served") as web:
        (tmp_path / "served" / "y").mkdir(parents=True)
        (tmp_path / "served" / "y" / MARK_NAME).write_text(json.dumps({**whole, "whole": False}))
        assert standing(f"{web.address}/y") == Standing(False, ("a", "b/c"))
        assert standing(f"{web.address}/none") == Standing(False)


def test_messages_go_by_the_address_that_was_typed(
    bucket: str,
    tones: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = ["path,split,text"]
    rows += [f"{tones.folder}/{s}-000.wav,{s},a word" for s in ("train", "dev", "test")]
    (tmp_path / "table.csv").write_text("\n".join([*rows, "none.wav,train,x"]) + "\n")

    def said(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["speechft", *words])
        with contextlib.suppress(SystemExit):
            cli.main()
        captured = capsys.readouterr()
        told = captured.out + captured.err
        for place in ("caches", "another"):
            assert str(tmp_path / place) not in told, told
        return told

    place = f"{bucket}/prep"
    told = said("prepare", "generic", str(tmp_path / "table.csv"), "--out", place)
    assert f"corpus: {place}\n" in told
    assert f"is in {place}/issues.tsv" in told
    for _ in range(2):
        told = said("status", place)
        assert f"{place}: complete, 6 files\nno process is at work at it on this machine" in told
        assert f"results: {place}/corpus.json" in told
        elsewhere(monkeypatch, tmp_path)
    assert f"{bucket}/none holds no output" in said("status", f"{bucket}/none")


def test_places_that_nothing_is_written_to(bucket: str) -> None:
    for place in (
        "https://host/x",
        "s3://bucket",
        "s3://",
        "s3:",
        "s3://bucket/..",
        "s3://bucket/a/.",
    ):
        with pytest.raises(ConfigError, match="nothing is written to"):
            fail(place)
    with pytest.raises(ConfigError) as caught:
        fail("hf://owner/name")
    assert "speechft publish DIR --repo-id owner/name" in (caught.value.hint or "")
    with pytest.raises(RemoteError, match="NoSuchBucket"):
        fail("s3://none-of-mine/x")
    with pytest.raises(AbsentError, match="no output of speechft that is complete"):
        at_hand(f"{bucket}/nothing")
    assert at_hand("~") == Path.home()


def test_verbs_write_there(bucket: str, tiny_hubert: Path, tmp_path: Path) -> None:
    place = f"{bucket}/models/tiny"
    speechft.convert(tiny_hubert, place)
    speechft.convert(tiny_hubert, place)  # ours: it may be replaced
    speechft.convert(place, f"{bucket}/models/tiny.pt")
    speechft.convert(f"{bucket}/models/tiny.pt", tmp_path / "back")
    assert standing(f"{bucket}/models/tiny.pt") == Standing(True, ("",), 1)
    assert remote.names_below(f"{bucket}/models/tiny.pt") == [""]


def test_shards_go_up_and_are_read_there(bucket: str, tones: Corpus, monkeypatch: Any) -> None:
    from speechft.data.shar import export_shards
    from speechft.data.waveform import load_waveform

    place = f"{bucket}/shards"
    with output_at(place) as out:
        export_shards(tones, out, shard_size=9)
    corpus = find_corpus(place, Path("unused"))
    assert corpus.place == place
    pairs = zip(corpus.split("dev"), tones.split("dev"), strict=True)
    assert all((load_waveform(a) == load_waveform(b)).all() for a, b in pairs)
