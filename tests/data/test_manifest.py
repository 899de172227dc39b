"""Manifests: a corpus comes back as it was written; any recording becomes 16 kHz mono."""

from __future__ import annotations

import dataclasses
import gc
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechft.data.labels import label_of, phones_of
from speechft.data.manifest import CORPUS_FILE, Corpus, load_waveform, open_corpus, write_corpus
from speechft.data.utterances import Utterance, to_cut
from speechft.errors import DataError

FIRST = Utterance(
    id="b",
    path="audio/b.wav",
    samples=16_000,
    text="hello",
    speaker="anna",
    phones=[("HH", 0.0, 0.2), ("OW", 0.2, 1.0)],
    labels={"style": "calm"},
    sha256="00ff",
)
SECOND = Utterance(id="a", path="audio/a.wav", samples=8_000, speaker="bert")


def write(folder: Path, *items: Utterance, **info: Any) -> Corpus:
    folder.mkdir(exist_ok=True)
    write_corpus(folder, "small", "source", {"train": items, "dev": [SECOND]}, info)
    return open_corpus(folder)


def sine(rate: int, seconds: float = 1.0, frequency: float = 440.0) -> Any:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


def cut_of(path: Path, samples: int, rate: int = 16_000, channels: int = 1) -> Any:
    return to_cut(Utterance("u", str(path), samples, rate, channels))


def test_round_trip(tmp_path: Path) -> None:
    corpus = write(tmp_path, FIRST, SECOND, licence="none")
    assert corpus.name == "small"
    assert corpus.info == {"licence": "none"}
    cuts = list(corpus.split("train"))
    assert [cut.id for cut in cuts] == ["a", "b"], "sorted by id"
    cut = cuts[1]
    assert (cut.duration, cut.sampling_rate, cut.num_samples) == (1.0, 16_000, 16_000)
    assert [label_of(cut, k) for k in ("text", "speaker", "style")] == ["hello", "anna", "calm"]
    assert label_of(cut, "sha256") == "00ff"
    assert phones_of(cut) == FIRST.phones
    assert corpus.statistics["train"] == {
        "utterances": 2,
        "hours": round(1.5 / 3600, 4),
        "speakers": 2,
        "labels": {"alignment": 1, "phones": 1, "speaker": 2, "style": 1, "text": 1},
    }


def test_relative_paths_follow_the_folder_and_absolute_ones_stay(tmp_path: Path) -> None:
    elsewhere = dataclasses.replace(FIRST, id="c", path="/somewhere/c.wav")
    write(tmp_path / "old", FIRST, elsewhere)
    shutil.move(tmp_path / "old", tmp_path / "new")
    cuts = open_corpus(tmp_path / "new").split("train")
    sources = [cut.recording.sources[0].source for cut in cuts]
    assert sources == [str(tmp_path / "new" / "audio" / "b.wav"), "/somewhere/c.wav"]


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"style": "wild"}},
        {"labels": {}},
        {"text": "hullo"},
        {"speaker": "otto"},
        {"phones": [("HH", 0.0, 0.3), ("OW", 0.3, 1.0)]},
        {"samples": 16_001},
        {"sha256": "00fe"},
        {"id": "z"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_digest_changes_with_anything_that_is_known(tmp_path: Path, change: dict[str, Any]) -> None:
    before = write(tmp_path / "1", FIRST)
    after = write(tmp_path / "2", dataclasses.replace(FIRST, **change))
    assert before.digest != after.digest


def test_digest_does_not_depend_on_order_or_place(tmp_path: Path) -> None:
    before = write(tmp_path / "1", FIRST, SECOND)
    moved = dataclasses.replace(FIRST, path="elsewhere/b.wav")
    assert write(tmp_path / "2", SECOND, moved).digest == before.digest


def test_task_splits(tmp_path: Path) -> None:
    plain = write(tmp_path / "1", FIRST)
    assert plain.task_splits("sid") == ("train", "dev", "test")
    assert plain.tuning_splits() == ("train", "dev")
    splits = {"sid": ["t1", "d1", "e1"], "*": ["t2", "d2", "e2"]}
    named = write(tmp_path / "2", FIRST, task_splits=splits, tuning_splits=["tune", "tune-dev"])
    assert named.task_splits("sid") == ("t1", "d1", "e1")
    assert named.task_splits("pr") == ("t2", "d2", "e2")
    assert named.tuning_splits() == ("tune", "tune-dev")


def test_unknown_split_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split 'test'; it has: train, dev"):
        write(tmp_path, FIRST).split("test")


@pytest.mark.parametrize("content", [None, b"", b"not gzip"])
def test_a_missing_or_damaged_manifest_is_named(tmp_path: Path, content: bytes | None) -> None:
    corpus = write(tmp_path, FIRST)
    path = tmp_path / "train.jsonl.gz"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"manifest .*train\.jsonl\.gz cannot be read"):
        corpus.split("train")


@pytest.mark.parametrize("lost", [["dev"], {"dev": 1}, {"dev": {"silence": -1}}])
def test_losses_that_are_no_counts_are_refused(tmp_path: Path, lost: Any) -> None:
    with pytest.raises(DataError, match="is not a prepared corpus"):
        write(tmp_path, FIRST, lost=lost)


@pytest.mark.parametrize("content", [None, "{"])
def test_a_folder_that_is_no_corpus(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / CORPUS_FILE).write_text(content)
    with pytest.raises(DataError, match="is not a prepared corpus") as caught:
        open_corpus(tmp_path)
    assert "speechft prepare" in (caught.value.hint or "")


def test_what_is_no_text_is_told_by_its_place(tmp_path: Path) -> None:
    (tmp_path / CORPUS_FILE).write_bytes(b'{"name":\n "x\xff\xfe"}' + bytes(range(256)) * 9)
    with pytest.raises(DataError) as caught:
        open_corpus(tmp_path)
    assert "corpus.json is not readable JSON: line 2, byte 4 is not UTF-8" in str(caught.value)
    corpus = write(tmp_path / "other", FIRST)
    (corpus.folder / "trials.txt").write_bytes(b"\x8b")
    with pytest.raises(DataError, match=r"trials\.txt cannot be read: byte 1 is not UTF-8"):
        corpus.read_text("trials.txt")


@pytest.mark.parametrize(
    ("name", "rate", "channels", "tolerance"),
    [
        ("stereo.flac", 44_100, 2, 2e-3),
        ("phone.wav", 8_000, 1, 2e-3),
        ("odd.wav", 11_025, 3, 2e-3),
        ("music.ogg", 22_050, 1, 3e-2),
        ("same.wav", 16_000, 1, 1e-4),
    ],
)
def test_any_recording_becomes_16_khz_mono(
    tmp_path: Path, name: str, rate: int, channels: int, tolerance: float
) -> None:
    mono = sine(rate)
    gains = np.linspace(0.5, 1.5, channels) if channels > 1 else np.ones(1)  # mean 1
    soundfile.write(tmp_path / name, mono[:, None] * gains, rate)
    waveform = load_waveform(cut_of(tmp_path / name, rate, rate, channels))
    assert waveform.dtype == np.float32
    assert waveform.shape == (16_000,)
    expected = sine(16_000)
    inner = slice(400, -400)  # a resampler sees the edges of the recording as steps
    assert np.abs(waveform - expected)[inner].max() < tolerance


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_samples_that_are_not_numbers_are_refused(tmp_path: Path, value: float, rate: int) -> None:
    samples = sine(rate)
    samples[rate // 2] = value
    soundfile.write(tmp_path / "x.wav", samples, rate, subtype="FLOAT")
    with pytest.raises(DataError, match=r"x\.wav holds NaN or infinite samples"):
        load_waveform(cut_of(tmp_path / "x.wav", rate, rate))


def empty(path: Path) -> None:
    soundfile.write(path, np.zeros(0), 16_000)


def no_bytes(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("hello, I am not audio")


def shorter(path: Path) -> None:
    soundfile.write(path, sine(16_000, 0.25), 16_000)


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "samples", "expected"),
    [
        (empty, 0, "is empty"),
        (no_bytes, 16_000, "cannot be read"),
        (text, 16_000, "cannot be read"),
        (folder, 16_000, "cannot be read"),
        (shorter, 16_000, "has 4000 samples, but its manifest says 16000"),
        (None, 16_000, "does not exist"),
    ],
)
def test_unusable_audio_is_one_clear_line(
    tmp_path: Path, make: Any, samples: int, expected: str
) -> None:
    path = tmp_path / "x.wav"
    if make is not None:
        make(path)
    with pytest.raises(DataError, match=expected) as caught:
        load_waveform(cut_of(path, samples))
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < len(str(path)) * 2 + 120


def test_a_segment_shares_its_recording(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.wav", sine(16_000, 2.0), 16_000)
    parts = [
        Utterance(f"talk-{n}", "talk.wav", 8_000, offset=8_000 * n, recording_samples=32_000)
        for n in range(4)
    ]
    cuts = list(write(tmp_path, *parts).split("train"))
    assert [(cut.start, cut.duration, cut.recording.id) for cut in cuts] == [
        (n / 2, 0.5, "talk") for n in range(4)
    ]
    whole = np.concatenate([load_waveform(cut) for cut in cuts])
    expected, _ = soundfile.read(tmp_path / "talk.wav", dtype="float32")
    np.testing.assert_array_equal(whole, expected)


def test_big_splits_are_read_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechft.data.manifest.EAGER_UTTERANCES", 1)
    corpus = write(tmp_path, FIRST, SECOND)
    cuts = corpus.split("train")
    assert (cuts.is_lazy, len(cuts)) == (True, 2)
    assert [cut.id for cut in cuts] == [cut.id for cut in cuts] == ["a", "b"], "again and again"
    assert next(iter(cuts)).recording.sources[0].source == str(tmp_path / "audio" / "a.wav")
    assert not corpus.split("dev").is_lazy
    (tmp_path / "train.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(DataError, match=r"train\.jsonl\.gz cannot be read"):
        list(cuts)


def test_a_resampled_recording_is_read_under_autocast(tmp_path: Path) -> None:
    import torch

    soundfile.write(tmp_path / "a.wav", sine(8_000), 8_000)
    cut = cut_of(tmp_path / "a.wav", 8_000, 8_000)
    expected = load_waveform(cut)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(load_waveform(cut), expected)


def test_memory_stays_flat_while_a_big_split_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechft.data.manifest.EAGER_UTTERANCES", 0)
    peaks = []
    for count in (200, 2_000):
        items = [dataclasses.replace(FIRST, id=f"{n:06d}") for n in range(count)]
        cuts = write(tmp_path / str(count), *items).split("train")
        next(iter(cuts))  # what is loaded once
        gc.collect()
        tracemalloc.start()
        assert sum(1 for _ in cuts) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
