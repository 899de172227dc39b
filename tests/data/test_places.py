"""Audio and manifests where they lie: which places that a file names are read, and which not."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import tone_corpus
from servers import Web, serve
from speechft.data.corpora import find_corpus
from speechft.data.cuts import read_cuts, to_lhotse
from speechft.data.manifest import Corpus
from speechft.data.places import check_source, file_of, is_part, part_of, read_bytes, read_part
from speechft.data.waveform import load_waveform, place_of
from speechft.errors import DataError, RemoteError
from speechft.features.looks import DataInspection, inspect_anything
from speechft.features.sources import find_sources
from speechft.storage import copies, remote


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tone_corpus(tmp_path_factory.mktemp("plain"), per_speaker=1)


@pytest.fixture
def web(plain: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(remote, "PAUSES", (0.01,))
    monkeypatch.setenv("SPEECHFT_CACHE", str(tmp_path / "caches"))
    copies.copied_folder.cache_clear()
    shutil.copytree(plain.folder, tmp_path / "served" / "tones")
    with serve(tmp_path / "served") as server:
        yield server


def same(ours: Corpus, theirs: Corpus) -> None:
    for split in theirs.statistics:
        for a, b in zip(ours.split(split), theirs.split(split), strict=True):
            assert a.supervisions == b.supervisions
            np.testing.assert_array_equal(load_waveform(a), load_waveform(b))


@pytest.mark.parametrize("packs", ["", "gzip"])
def test_a_prepared_corpus_on_a_web_server(web: Web, plain: Corpus, packs: str) -> None:
    web.packs = packs
    corpus = find_corpus(f"{web.address}/tones/", Path("unused"))
    assert corpus.digest == plain.digest
    same(corpus, plain)
    cut = next(iter(corpus.split("dev")))
    assert place_of(cut) == f"{web.address}/tones/dev-000.wav"


def test_a_prepared_corpus_in_an_object_store(bucket: str, plain: Corpus) -> None:
    for file in sorted(plain.folder.iterdir()):
        remote.upload(file, f"{bucket}/tones/{file.name}", {})
    same(find_corpus(f"{bucket}/tones", Path("unused")), plain)


def test_a_prepared_corpus_on_the_hub(hub_server: Web, plain: Corpus) -> None:
    shutil.copytree(plain.folder, hub_server.folder / "datasets" / "me" / "sets" / "tones")
    same(find_corpus("hf://datasets/me/sets/tones", Path("unused")), plain)


def test_audio_to_extract_from_at_addresses(web: Web, plain: Corpus) -> None:
    place = f"{web.address}/tones"
    assert find_sources([place]).cuts.keys() == find_sources([plain.folder]).cuts.keys()
    (name,) = find_sources([f"{place}/dev-000.wav"]).cuts
    assert name == "dev-000"
    cuts = find_sources([f"{place}/dev.jsonl.gz"]).cuts
    assert cuts.keys() == {cut.id for cut in plain.split("dev")}
    load_waveform(cuts["dev-000"])
    found = inspect_anything(place)
    assert isinstance(found, DataInspection)
    assert (found.kind, found.path, found.read) == ("corpus", place, 9)


def test_a_server_that_fails_is_not_the_fault_of_a_recording(web: Web) -> None:
    cut = next(iter(find_corpus(f"{web.address}/tones", Path("unused")).split("dev")))
    web.troubles = ["500", "500"]
    with pytest.raises(RemoteError, match=r"dev-000\.wav cannot be read: the server answers 500"):
        load_waveform(cut)
    (web.folder / "tones" / "dev-000.wav").unlink()
    with pytest.raises(DataError, match=r"dev-000\.wav .*: the server answers 404"):
        load_waveform(cut)


def _read(place: str, answers: Any) -> None:
    answers.put(read_bytes(place, 2, 3))


def _read_here_and_in_a_fork(place: str) -> None:
    assert read_bytes(place) == b"0123456789"
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_read, args=(place, answers))
    child.start()
    assert answers.get(timeout=60) == b"234"
    child.join(60)
    assert read_bytes(place, 0, 1) == b"0"


def test_a_forked_process_has_connections_of_its_own(web: Web, hub_server: Web) -> None:
    (web.folder / "x.txt").write_text("0123456789")
    _read_here_and_in_a_fork(f"{web.address}/x.txt")
    home = hub_server.folder / "datasets" / "me" / "set"
    home.mkdir(parents=True)
    (home / "x.txt").write_text("0123456789")
    _read_here_and_in_a_fork("hf://datasets/me/set/x.txt")


HOME = "https://host/corpus"


@pytest.mark.parametrize(
    ("kind", "source", "home"),
    [
        ("command", "touch /tmp/x", ""),
        ("file", "pipe:touch /tmp/x", ""),
        ("url", "https://host/x.wav", ""),
        ("file", "s3://bucket/x.wav", ""),
        ("url", "x.wav", ""),
        ("file", "/etc/passwd", HOME),
        ("file", "../x.wav", HOME),
        ("file", "a/../../x.wav", HOME),
        ("url", "http://169.254.169.254/latest", HOME),
        ("url", "https://host/other/x.wav", HOME),
        ("url", f"{HOME}/../x.wav", HOME),
        ("url", "http://host/corpus/x.wav", HOME),
        ("file", part_of("/etc/passwd", 0, 5), HOME),
    ],
)
def test_what_a_manifest_names_is_not_fetched(kind: str, source: str, home: str) -> None:
    with pytest.raises(ValueError, match="is not read; expected is a file"):
        check_source(kind, source, home)


def test_what_is_below_the_address_of_the_user_is_read() -> None:
    assert check_source("file", "a/x y.wav", HOME) == f"{HOME}/a/x%20y.wav"
    assert check_source("url", f"{HOME}/x.wav", HOME) == f"{HOME}/x.wav"
    assert check_source("file", "simplecache::s3://b/x", HOME).startswith(f"{HOME}/simplecache")
    assert check_source("file", "/data/x.wav") == ""


def test_schemes_that_the_user_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHFT_SCHEMES", "s3, file,ssh")
    assert check_source("url", "s3://bucket/x.wav") == "s3://bucket/x.wav"
    for source in ("https://host/x.wav", "file:///etc/passwd", "ssh://host/x"):
        with pytest.raises(ValueError, match="environment variable SPEECHFT_SCHEMES"):
            check_source("url", source)


def test_a_manifest_of_this_machine_with_audio_elsewhere(
    web: Web, tmp_path: Path, plain: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = gzip.decompress((plain.folder / "dev.jsonl.gz").read_bytes()).decode().splitlines()
    item = json.loads(lines[0])
    item["recording"]["sources"][0] |= {"type": "url", "source": f"{web.address}/tones/dev-000.wav"}
    (tmp_path / "cuts.jsonl").write_text(json.dumps(item))
    with pytest.raises(DataError, match="SPEECHFT_SCHEMES names its scheme"):
        list(read_cuts(tmp_path / "cuts.jsonl"))
    assert not web.asked, "nothing was fetched to find out"
    monkeypatch.setenv("SPEECHFT_SCHEMES", "http")
    (cut,) = read_cuts(tmp_path / "cuts.jsonl")
    np.testing.assert_array_equal(load_waveform(cut), load_waveform(next(iter(plain.split("dev")))))
    assert to_lhotse(item).recording.sources[0].source.endswith("dev-000.wav#bytes=")


def test_parts(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    named = part_of(str(tmp_path / "x"), 3, 4)
    assert is_part(named)
    assert file_of(named) == str(tmp_path / "x")
    assert read_part(named) == b"3456"
    assert read_part(part_of(str(tmp_path / "x"))) == b"0123456789"
    assert file_of("x") == "x"
    for start, size, told in ((0, 11, "ends 1 bytes too early"), (-1, 2, "no part of it")):
        with pytest.raises(DataError, match=told):
            read_bytes(str(tmp_path / "x"), start, size)
