"""Lhotse Shar: written once, read in any order from a folder or a web server; Lhotse reads it."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from speechft.data import places, shar
from speechft.data.batching import BatchPlan, StepDataset, load_steps
from speechft.data.corpora import find_corpus
from speechft.data.labels import label_of, phones_of
from speechft.data.manifest import Corpus, Utterance, open_corpus, write_corpus
from speechft.data.places import read_bytes
from speechft.data.shar import export_shards
from speechft.data.waveform import load_waveform
from speechft.errors import DataError, PackageError
from speechft.sharing import status


@pytest.fixture(scope="module")
def sharded(tones: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return export_shards(tones, tmp_path_factory.mktemp("shar") / "out", shard_size=4)


class _Ranges(SimpleHTTPRequestHandler):
    """Serves byte ranges, as object stores do."""

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if wanted is None or not path.is_file():
            super().do_GET()
            return
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        self.send_response(206)
        data = path.read_bytes()[first : last + 1]
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


class _NoRanges(_Ranges):
    """Sends all of a file, whatever was asked for."""

    def do_GET(self) -> None:
        del self.headers["Range"]
        super().do_GET()


@contextmanager
def serve(kind: type[_Ranges], folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=str(folder)))
    server.block_on_close = False  # connections that are kept alive end with their client
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=[_Ranges, _NoRanges])
def address(sharded: Corpus, request: pytest.FixtureRequest) -> Iterator[str]:
    with serve(request.param, sharded.folder) as place:
        yield place


def same(ours: Corpus, theirs: Corpus, split: str = "train") -> None:
    pairs = list(zip(ours.split(split), theirs.split(split), strict=True))
    for a, b in pairs:
        assert (a.id, a.num_samples) == (b.id, b.num_samples)
        assert phones_of(a) == phones_of(b)
        for kind in ("text", "speaker", "style", "intent"):
            assert label_of(a, kind) == label_of(b, kind)
        np.testing.assert_array_equal(load_waveform(a), load_waveform(b))


def test_everything_comes_back(tones: Corpus, sharded: Corpus) -> None:
    names = sorted(p.name for p in (sharded.folder / "train").iterdir())
    assert len(names) == 2 * 5, "18 cuts in shards of 4"
    assert names[0] == "cuts.000000.jsonl.gz"
    assert sharded.statistics == tones.statistics
    assert len(sharded.split("train")) == 18
    same(tones, sharded)
    assert sharded.digest != tones.digest


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # lhotse leaves its streams to the garbage collector
def test_lhotse_reads_it(tones: Corpus, sharded: Corpus) -> None:
    known = {cut.id: cut for cut in tones.split("train")}
    count = 0
    for cut in CutSet.from_shar(in_dir=sharded.folder / "train"):
        np.testing.assert_array_equal(cut.load_audio()[0], load_waveform(known[cut.id]))
        count += 1
    assert count == 18
    gc.collect()


def test_from_a_web_server(tones: Corpus, address: str, tmp_path: Path) -> None:
    corpus = find_corpus(address, tmp_path)
    assert corpus.place == address
    same(tones, corpus, "dev")


def test_training_reads_shards_in_any_order(tones: Corpus, sharded: Corpus) -> None:
    batches = []
    for corpus in (tones, sharded):
        plan = BatchPlan(corpus.split("train"), seconds=4.0, utterances=4, seed=1)
        dataset = StepDataset(plan, target=lambda cut, _: cut.id, collate=tuple)
        batches.append(list(load_steps(dataset, 0, 6)))
    for ours, theirs in zip(*batches, strict=True):
        assert ours.ids == theirs.ids
        np.testing.assert_array_equal(ours.waveforms, theirs.waveforms)


def test_segments_and_other_rates_become_whole_16_khz_recordings(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.sph", 0.1 * rng.standard_normal(32_000), 16_000, format="NIST")
    soundfile.write(tmp_path / "b.wav", 0.1 * rng.standard_normal((44_100, 2)), 44_100)
    segment = Utterance("a-1", "a.sph", 8_000, offset=4_000, recording_samples=32_000)
    stereo = Utterance("b", "b.wav", 44_100, 44_100, 2, text="hello")
    write_corpus(tmp_path, "mixed", "x", {"train": [segment, stereo]}, {})
    before = list(open_corpus(tmp_path).split("train"))
    after = list(export_shards(open_corpus(tmp_path), tmp_path / "out").split("train"))
    assert [(c.id, c.start, c.num_samples) for c in after] == [("a-1", 0, 8_000), ("b", 0, 16_000)]
    assert label_of(after[1], "text") == "hello"
    for first, second in zip(before, after, strict=True):
        difference = np.abs(load_waveform(first) - load_waveform(second)).max()
        assert difference <= 1 / 32_768, "16 bits"


def test_an_interrupted_export_goes_on(
    tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    plain = shar._write_shard

    def count(*given: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        plain(*given)
        written.append(given[1])

    monkeypatch.setattr(shar, "_write_shard", count)
    with pytest.raises(KeyboardInterrupt):
        export_shards(tones, tmp_path / "out", shard_size=4, jobs=1)
    assert not (tmp_path / "out" / "corpus.json").exists()
    monkeypatch.setattr(shar, "_write_shard", lambda *given: (written.append(1), plain(*given)))
    same(tones, export_shards(tones, tmp_path / "out", shard_size=4, jobs=2))
    assert len(written) == 15, "what was there is not written again"


def test_a_shard_with_bad_audio_fails_and_all_others_are_written(tmp_path: Path) -> None:
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", np.full(16_000, 0.1), 16_000)
    items = [Utterance(name, f"{name}.wav", 16_000) for name in "abc"]
    write_corpus(tmp_path, "three", "x", {"test": items}, {})
    (tmp_path / "b.wav").write_text("no audio")
    with pytest.raises(DataError, match=r"b\.wav"):
        export_shards(open_corpus(tmp_path), tmp_path / "out", shard_size=1, jobs=2)
    states = [seen.state for seen in status(tmp_path / "out")]
    assert states == ["done", "failed", "done", "free"]
    soundfile.write(tmp_path / "b.wav", np.full(16_000, 0.1), 16_000)
    corpus = export_shards(open_corpus(tmp_path), tmp_path / "out", shard_size=1)
    assert [cut.id for cut in corpus.split("test")] == ["a", "b", "c"]
    assert status(tmp_path / "out") == []


def test_files_beside_the_manifests_come_along(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.1), 16_000)
    info = {"trials": "trials.txt", "files": ["trials.txt"]}
    write_corpus(tmp_path, "pairs", "x", {"test": [Utterance("a", "a.wav", 16_000)]}, info)
    (tmp_path / "trials.txt").write_text("1 a a\n")
    corpus = export_shards(open_corpus(tmp_path), tmp_path / "out")
    assert corpus.read_text(corpus.info["trials"]) == "1 a a\n"
    with serve(_Ranges, corpus.folder) as address:
        assert open_corpus(address).read_text(corpus.info["trials"]) == "1 a a\n"
        with pytest.raises(DataError, match=r"no\.txt cannot be read: the server answers 404"):
            open_corpus(address).read_text("no.txt")
    (corpus.folder / "trials.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"trials\.txt cannot be read: .*utf-8"):
        corpus.read_text("trials.txt")


def test_a_forked_process_opens_connections_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.txt").write_text("x")
    opened = []

    class Keeping(_Ranges):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            opened.append(self.client_address)
            super().setup()

    with serve(Keeping, tmp_path) as address:
        assert [read_bytes(f"{address}/x.txt") for _ in range(3)] == [b"x"] * 3
        assert len(opened) == 1, "kept alive within a process"
        monkeypatch.setattr(os, "getpid", lambda: -1)
        assert read_bytes(f"{address}/x.txt") == b"x"
        assert len(opened) == 2
        places._pool(-1).clear()
    places._pool.cache_clear()


def test_damaged_shards_are_named(tones: Corpus, tmp_path: Path) -> None:
    corpus = export_shards(tones, tmp_path / "out", shard_size=10)
    cut = next(iter(corpus.split("train")))
    tar = corpus.folder / "train" / "recording.000000.tar"
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(DataError, match=r"cannot be read: it ends .* bytes too early"):
        load_waveform(cut)
    (corpus.folder / "train" / "cuts.000001.jsonl.gz").write_bytes(b"no")
    with pytest.raises(DataError, match=r"shard 1 of .* cannot be read"):
        list(corpus.split("train"))
    (corpus.folder / "index" / "train.000000.json").write_text("[]")
    with pytest.raises(DataError, match=r"shard 0 of .*: 10 cuts, 0 recordings"):
        list(corpus.split("train"))


def test_places_that_cannot_be_read(address: str) -> None:
    with pytest.raises(DataError, match=r"nothing\.txt cannot be read: the server answers 404"):
        read_bytes(f"{address}/nothing.txt")
    with pytest.raises(DataError, match="is not a prepared corpus"):
        open_corpus(f"{address}/train")
    with pytest.raises(PackageError, match="needs smart_open") as caught:
        read_bytes("s3://bucket/x")
    assert "smart_open[s3]" in (caught.value.hint or "")
