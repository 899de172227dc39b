"""The audio reader: lengths and samples against a second decoder or another source of the truth."""

from __future__ import annotations

import dataclasses
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import MultiCut, Recording
from lhotse.cut import MonoCut

from speechft.data import mpeg
from speechft.data.audio import LOSSY_ROUNDING, read_header, read_samples
from speechft.data.inspection import inspect
from speechft.data.manifest import load_waveform
from speechft.data.utterances import Utterance, to_cut
from speechft.errors import DataError

RATE = 16_000


def noise(samples: int = 48_000, seed: int = 0) -> Any:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def write(path: Path, samples: Any = None, rate: int = RATE, **how: Any) -> Path:
    soundfile.write(path, noise() if samples is None else samples, rate, **how)
    return path


FORMATS = [
    *[("WAV", subtype) for subtype in soundfile.available_subtypes("WAV") if "MPEG" not in subtype],
    *[("AU", subtype) for subtype in ("PCM_16", "ULAW", "G721_32", "G723_24", "G723_40")],
    *[("AIFF", "PCM_16"), ("W64", "PCM_16"), ("RF64", "PCM_16"), ("CAF", "ALAC_16")],
    *[("NIST", "PCM_16"), ("NIST", "ULAW"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")],
    *[("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")],
]


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_a_part_is_the_same_part_of_the_whole(tmp_path: Path, kind: str, subtype: str) -> None:
    """Also where the format cannot seek (GSM, G.721), or seeks wrongly (Vorbis near its end)."""
    path = write(tmp_path / "a.audio", format=kind, subtype=subtype)
    header, whole = read_samples(path)
    assert whole.shape == (header.samples, 1)
    assert 0 <= header.samples - 48_000 <= 1024, "block codecs fill their last block"
    assert (header.remark, header.cut_off) == ("", "")
    for start, count in ((0, 100), (1, 1_000), (20_001, 5_000), (47_000, 900)):
        _, part = read_samples(path, start, count)
        np.testing.assert_allclose(part, whole[start : start + count], atol=1e-6)
    assert inspect(path, 2.9, 2.99).problems == ()


@pytest.mark.parametrize(
    ("name", "tool"), [("a.mp3", "mpg123"), ("a.ogg", "sox"), ("a.wav", "sox")]
)
def test_as_another_decoder_reads_it(tmp_path: Path, name: str, tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed: apt-get install sox libsox-fmt-all mpg123")
    how = {"format": "WAV", "subtype": "GSM610"} if name == "a.wav" else {}
    path = write(tmp_path / name, rate=8_000 if how else RATE, **how)
    other = tmp_path / "other.wav"
    command = {
        "mpg123": ["mpg123", "-q", "-w", other, path],
        "sox": ["sox", "-D", path, "-e", "signed", "-b", "16", other],
    }[tool]
    subprocess.run(list(map(str, command)), check=True)
    expected, _ = soundfile.read(other, dtype="float32", always_2d=True)
    header, samples = read_samples(path)
    assert header.samples == len(expected)
    np.testing.assert_allclose(samples, expected, atol=2**-14)


def frames_of(path: Path) -> mpeg.MpegFrames:
    frames = mpeg.read_frames(path.read_bytes())
    assert frames is not None
    return frames


def without_tag(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[frames_of(path).places[0][0] :])
    return path


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("channels", [1, 2])
def test_frames_of_an_mp3_are_those_that_its_tag_counts(
    tmp_path: Path, rate: int, mode: str, channels: int
) -> None:
    path = write(
        tmp_path / "a.mp3",
        np.repeat(noise(20_000)[:, None], channels, 1),
        rate,
        bitrate_mode=mode,
        compression_level=0.5,
    )
    frames = frames_of(path)
    assert frames.told in (None, len(frames.places))
    assert 0 <= frames.samples - 20_000 < LOSSY_ROUNDING
    tagged = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256) + path.read_bytes()
    again = mpeg.read_frames(tagged + b"TAG" + bytes(125))
    assert again is not None
    assert [size for _, size in again.places] == [size for _, size in frames.places]


@pytest.mark.parametrize("quiet_first", [True, False])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_of_variable_rate_without_a_tag_is_read_whole(
    tmp_path: Path, quiet_first: bool, channels: int
) -> None:
    quiet, loud = np.zeros(64_000, np.float32), 3 * noise(96_000)
    samples = np.concatenate([quiet, loud] if quiet_first else [loud, quiet])
    samples = np.repeat(samples[:, None], channels, 1)
    how = {"bitrate_mode": "VARIABLE", "compression_level": 0.5}
    path = without_tag(write(tmp_path / "a.mp3", samples, **how))
    with soundfile.SoundFile(path) as file:
        assert abs(file.frames - 160_000) > 10_000, "libsndfile's guess"
    header, found = read_samples(path)
    assert 0 <= header.samples - 160_000 < LOSSY_ROUNDING
    assert len(found) == header.samples
    loud_part = found[70_000:150_000] if quiet_first else found[5_000:90_000]
    assert np.abs(loud_part).mean() > 0.05
    _, part = read_samples(path, 80_000, 8_000)
    np.testing.assert_allclose(part, found[80_000:88_000], atol=1e-5)
    assert inspect(path).problems == ()
    cut = to_cut(Utterance("u", str(path), header.samples, RATE, channels))
    assert len(load_waveform(cut)) == header.samples


def test_joined_mp3s_are_read_to_the_end_and_the_difference_is_named(tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"{n}.mp3", noise(seed=n)) for n in (1, 2))
    both = tmp_path / "both.mp3"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    header = read_header(both)
    assert abs(header.samples - 96_000) < LOSSY_ROUNDING
    assert "its header says 3." in header.remark
    assert [kind for kind, _ in inspect(both).problems] == ["length-differs"]


def test_half_an_mp3_is_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp3")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    ((kind, problem),) = inspect(path).problems
    assert (kind, problem[:14]) == ("cut-off", "is cut off: 1.")


def unknown_flac(path: Path, samples: Any = None) -> Path:
    data = bytearray(write(path, samples).read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    return path


def test_a_flac_of_unknown_length_is_read_as_with_it(tmp_path: Path) -> None:
    expected = read_samples(write(tmp_path / "known.flac"))[1]
    path = unknown_flac(tmp_path / "a.flac")
    header, samples = read_samples(path)
    assert header.samples == 48_000
    np.testing.assert_array_equal(samples, expected)
    np.testing.assert_array_equal(read_samples(path, 30_000, 50)[1], expected[30_000:30_050])
    assert inspect(path).problems == ()


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "AIFF", "AU", "NIST"])
def test_half_a_file_is_cut_off(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "a.audio", format=kind, subtype="PCM_16")
    assert inspect(path).problems == ()
    path.write_bytes(path.read_bytes()[:-48_000])
    ((kind, problem),) = inspect(path, samples=False).problems
    assert (kind, problem) == ("cut-off", "is cut off: 1.50 s are missing at its end")


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_that_was_written_to_a_pipe_has_all_its_samples(tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "a.wav")
    data = bytearray(path.read_bytes())
    data[40:44] = struct.pack("<I", size)
    path.write_bytes(data)
    header, samples = read_samples(path)
    assert (header.samples, len(samples), header.cut_off) == (48_000, 48_000, "")


def test_an_ogg_without_an_end_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ogg", noise(400_000))
    data = path.read_bytes()
    path.write_bytes(data[: data.rfind(b"OggS")])
    assert "it may be cut off" in read_header(path).remark


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty: it has no bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (bytes(4) + b"ftypM4A " + bytes(50), "MPEG-4 audio (AAC or ALAC), which is not read here"),
        (b"\x1aE\xdf\xa3" + bytes(50), "WebM, which is not read here: ffmpeg -i"),
        (b"#!AMR\n" + bytes(50), "is AMR"),
        (b"\xff\xf1\x50\x80" + bytes(50), "is AAC"),
        (b"<!DOCTYPE html><html>", "web page, not audio: download it again"),
        (b"PK\x03\x04" + bytes(50), "zip archive: unpack it"),
        (bytes(400), "holds nothing but zero bytes"),
    ],
)
def test_what_is_no_audio_says_what_it_is(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_header(path)
    assert expected in caught.value.message
    ((kind, problem),) = inspect(path).problems
    assert (kind, expected in problem) == ("unreadable-audio", True)


def test_a_link_to_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to(tmp_path / "gone.wav")
    ((kind, problem),) = inspect(tmp_path / "a.wav").problems
    assert kind == "missing-audio"
    assert problem == f"is a link to nothing ({tmp_path / 'gone.wav'})"


def stereo(folder: Path) -> tuple[Recording, Any]:
    samples = np.stack([noise(seed=1), 0.5 * noise(seed=2), 0.2 * noise(seed=3)], 1)
    path = write(folder / "call.wav", samples, subtype="FLOAT")
    return Recording.from_file(path), samples


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_cut_of_one_channel_is_that_channel(tmp_path: Path, channel: int) -> None:
    recording, samples = stereo(tmp_path)
    cut = MonoCut("c", 0.5, 1.0, channel, recording=recording)
    found = load_waveform(cut)
    np.testing.assert_array_equal(found, samples[8_000:24_000, channel])
    np.testing.assert_array_equal(found, cut.load_audio()[0], "as lhotse reads it")


def test_a_cut_of_several_channels_is_their_mean(tmp_path: Path) -> None:
    recording, samples = stereo(tmp_path)
    found = load_waveform(MultiCut("c", 0.0, 3.0, [0, 2], recording=recording))
    np.testing.assert_allclose(found, samples[:, [0, 2]].mean(axis=1), atol=1e-7)
    utterance = Utterance("u", str(tmp_path / "call.wav"), 48_000, channels=3, channel=1)
    np.testing.assert_array_equal(load_waveform(to_cut(utterance)), samples[:, 1])


def test_channels_that_cancel_are_refused_and_each_alone_is_read(tmp_path: Path) -> None:
    samples = noise()
    path = write(tmp_path / "a.wav", np.stack([samples, -samples], 1), subtype="FLOAT")
    both = to_cut(Utterance("u", str(path), 48_000, channels=2))
    with pytest.raises(DataError, match="channels that cancel when they are averaged") as caught:
        load_waveform(both)
    assert "choose one" in (caught.value.hint or "")
    assert [kind for kind, _ in inspect(path).problems] == ["channels-cancel"]
    assert inspect(path, channel=1).problems == ()
    one = to_cut(Utterance("u", str(path), 48_000, channels=2, channel=1))
    np.testing.assert_array_equal(load_waveform(one), -samples)


def test_a_manifest_with_other_channels_or_another_rate_is_refused(tmp_path: Path) -> None:
    recording, _ = stereo(tmp_path)
    one = to_cut(Utterance("u", str(tmp_path / "call.wav"), 48_000))
    with pytest.raises(DataError, match="has 3 channels, but its manifest says 1"):
        load_waveform(one)
    slower = dataclasses.replace(recording, sampling_rate=8_000, duration=6.0)
    with pytest.raises(DataError, match="16000 samples a second, but its manifest says 8000"):
        load_waveform(MonoCut("c", 0.0, 1.0, 0, recording=slower))


@pytest.mark.parametrize("more", [1_105, -1_105])
def test_lossy_files_may_be_counted_otherwise_by_a_manifest(tmp_path: Path, more: int) -> None:
    path = write(tmp_path / "a.mp3")
    samples = read_header(path).samples
    cut = to_cut(Utterance("u", str(path), samples + more))
    found = load_waveform(cut)
    assert len(found) == samples + more, "as the manifest promises"
    expected = read_samples(path)[1][:, 0]
    shared = min(len(found), samples)
    np.testing.assert_array_equal(found[:shared], expected[:shared])
    assert not found[samples:].any()
    with pytest.raises(DataError, match="it changed after the corpus was prepared"):
        load_waveform(to_cut(Utterance("u", str(path), samples + 10_000)))


FUZZED = ["WAV", "AIFF", "AU", "NIST", "FLAC", "OGG", "MP3"]


@pytest.mark.parametrize("kind", FUZZED)
def test_damaged_bytes_are_read_or_named_and_never_end_in_another_error(
    tmp_path: Path, kind: str
) -> None:
    data = write(tmp_path / "a.audio", noise(8_000), format=kind).read_bytes()
    rng, told = np.random.default_rng(FUZZED.index(kind)), []
    for number in range(40):
        broken = bytearray(data[: rng.integers(1, len(data))] if number % 2 else data)
        for place in rng.integers(0, min(len(broken), 64 if number % 4 else len(broken)), 3):
            broken[place] = rng.integers(256)
        path = tmp_path / f"{number}.audio"
        path.write_bytes(broken)
        try:
            header, samples = read_samples(path)
        except DataError as error:
            told.append(error.message)
        else:
            assert len(samples) <= header.samples
        assert all(problem for _, problem in inspect(path).problems)
    assert told
    assert all(message and "\n" not in message for message in told)
