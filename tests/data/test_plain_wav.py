"""Tests of reading plain WAV: the same samples as libsndfile, and hands off whatever differs."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechft.data.audio import read_samples
from speechft.data.plain_wav import read_plain


def wav(samples: np.ndarray, rate: int = 16_000, subtype: str = "PCM_16") -> bytes:
    held = io.BytesIO()
    soundfile.write(held, samples, rate, subtype=subtype, format="WAV")
    return held.getvalue()


def noise(samples: int, channels: int = 1) -> np.ndarray:
    generator = np.random.default_rng(samples)
    return generator.integers(-(1 << 15), 1 << 15, (samples, channels)).astype(np.int16)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(("start", "count"), [(0, None), (7, 20), (90, 50), (100, None), (0, 0)])
def test_samples_are_those_of_libsndfile(
    channels: int, start: int, count: int | None, tmp_path: Path
) -> None:
    data = wav(noise(100, channels), 22_050)
    (tmp_path / "a.wav").write_bytes(data)
    expected, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    stop = None if count is None else start + count
    for source in (data, tmp_path / "a.wav", str(tmp_path / "a.wav")):
        found = read_plain(source, start, count)
        assert found is not None
        assert found[0] == (100, rate, channels)
        assert found[1].dtype == np.float32
        assert np.array_equal(found[1], expected[start:stop])


def changed(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


DATA = wav(noise(100))
OTHERS = {
    "24 bits": wav(noise(100), subtype="PCM_24"),
    "floats": wav(noise(100) / 40_000, subtype="FLOAT"),
    "a-law": wav(noise(100), subtype="ALAW"),
    "empty": wav(noise(0)),
    "cut off": DATA[:-2],
    "more behind it": DATA + b"LIST",
    "a size of 0": changed(DATA, 40, struct.pack("<I", 0)),
    "no whole samples": changed(DATA, 32, struct.pack("<H", 3)),
    "no channels": changed(changed(DATA, 22, struct.pack("<H", 0)), 32, struct.pack("<H", 0)),
    "big-endian": changed(DATA, 0, b"RIFX"),
    "a chunk before the samples": DATA[:36] + b"fact" + struct.pack("<II", 4, 100) + DATA[36:],
    "a header alone": DATA[:44],
    "half a header": DATA[:20],
    "nothing": b"",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_differs_is_left_to_libsndfile(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(OTHERS[name])
    assert read_plain(OTHERS[name], 0, None) is None
    assert read_plain(tmp_path / "a.wav", 0, None) is None


def test_what_is_no_file_or_too_far_is_left_to_libsndfile(tmp_path: Path) -> None:
    assert read_plain(tmp_path, 0, None) is None
    assert read_plain(tmp_path / "none.wav", 0, None) is None
    assert read_plain(DATA, 101, None) is None
    assert read_plain(DATA, -1, None) is None


def test_readers_give_the_header_that_libsndfile_gives(tmp_path: Path) -> None:
    plain, other = tmp_path / "a.wav", tmp_path / "b.wav"
    plain.write_bytes(DATA)
    other.write_bytes(DATA + b"LIST\x04\0\0\0abcd")  # which libsndfile passes over
    first, second = read_samples(plain, 3, 40), read_samples(other, 3, 40)
    assert first[0] == second[0]
    assert np.array_equal(first[1], second[1])
