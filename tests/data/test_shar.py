"""Lhotse Shar: written once, read in any order from a folder or a web server; Lhotse reads it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from servers import serve
from speechft.data import shar
from speechft.data.batching import BatchPlan, StepDataset, load_steps
from speechft.data.corpora import find_corpus
from speechft.data.labels import label_of, phones_of
from speechft.data.manifest import Corpus, open_corpus, write_corpus
from speechft.data.places import read_bytes
from speechft.data.shar import export_shards
from speechft.data.utterances import Utterance
from speechft.data.waveform import load_waveform
from speechft.errors import DataError
from speechft.progress import status


@pytest.fixture(scope="module")
def sharded(tones: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return export_shards(tones, tmp_path_factory.mktemp("shar") / "out", shard_size=4)


@pytest.fixture(params=[True, False])
def address(sharded: Corpus, request: pytest.FixtureRequest) -> Iterator[str]:
    with serve(sharded.folder, ranges=request.param) as web:
        yield web.address


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
    with serve(corpus.folder) as web:
        assert open_corpus(web.address).read_text(corpus.info["trials"]) == "1 a a\n"
        with pytest.raises(DataError, match=r"no\.txt cannot be read: the server answers 404"):
            open_corpus(web.address).read_text("no.txt")
    (corpus.folder / "trials.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"trials\.txt cannot be read: byte 1 is not UTF-8"):
        corpus.read_text("trials.txt")


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
