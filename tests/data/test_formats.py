"""Every file format against an independent decoder, lengths to the sample; skipped where none is.

Files of programs that people use (lame, ffmpeg, flac, opusenc, sox) are read beside those that
libsndfile writes itself: `tests/data/test_audio.py` reads these in parts.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from speechft.data.audio import read_header, read_samples
from speechft.data.inspection import inspect

RATE, LENGTH = 16_000, 30_011
DELAY = 529
"""Samples that an MP3 decoder gives before the first of the recording."""
INSTALL = "apt-get install sox libsox-fmt-all mpg123 lame ffmpeg flac opus-tools"


def run(*command: str | Path, to: Path | None = None) -> None:
    program = str(command[0])
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: {INSTALL}")
    done = subprocess.run(list(map(str, command)), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    if to is not None:
        to.write_bytes(done.stdout)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """A voice-like sweep of 1.9 s, so that lossy encoders have something to do."""
    time = np.arange(LENGTH) / RATE
    samples = 0.3 * np.sin(2 * np.pi * (200 + 400 * time) * time) * np.hanning(LENGTH)
    path = tmp_path / "source.wav"
    soundfile.write(path, samples + 0.001 * np.sin(1e4 * time), RATE, subtype="PCM_16")
    return path


def as_sox(path: Path) -> npt.NDArray[np.float32]:
    other = path.with_suffix(".by-sox.wav")
    run("sox", "-D", path, "-e", "floating-point", "-b", "32", other)
    return soundfile.read(other, dtype="float32", always_2d=True)[0]


def as_ffmpeg(path: Path) -> npt.NDArray[np.float32]:
    other = path.with_suffix(".by-ffmpeg.wav")
    run("ffmpeg", "-v", "error", "-i", path, "-c:a", "pcm_f32le", other)
    return soundfile.read(other, dtype="float32", always_2d=True)[0]


def as_mpg123(path: Path) -> npt.NDArray[np.float32]:
    other = path.with_suffix(".by-mpg123.wav")
    run("mpg123", "-q", "-w", other, path)
    return soundfile.read(other, dtype="float32", always_2d=True)[0]


def as_flac(path: Path) -> npt.NDArray[np.float32]:
    other = path.with_suffix(".by-flac.wav")
    run("flac", "-s", "-d", "-f", "-o", other, path)
    return soundfile.read(other, dtype="float32", always_2d=True)[0]


def as_opusdec(path: Path) -> npt.NDArray[np.float32]:
    other = path.with_suffix(".by-opusdec.wav")
    run("opusdec", "--quiet", "--no-dither", "--float", path, other)
    return soundfile.read(other, dtype="float32", always_2d=True)[0]


DECODERS = {f.__name__[3:]: f for f in (as_sox, as_ffmpeg, as_mpg123, as_flac, as_opusdec)}
SOX = ["sox", "-D", "WAV"]
FFMPEG = ["ffmpeg", "-v", "error", "-i", "WAV"]
FORMATS: dict[str, tuple[str, list[str], str, float]] = {
    # name: (file, how it is written, who else decodes it, largest difference of a sample)
    "WAV of 8 bits": ("a.wav", [*SOX, "-e", "unsigned", "-b", "8", "OUT"], "sox", 0),
    "WAV of 16 bits": ("a.wav", [*SOX, "OUT"], "sox", 0),
    "WAV of 24 bits": ("a.wav", [*SOX, "-b", "24", "OUT"], "sox", 0),
    "WAV of 32 bits": ("a.wav", [*SOX, "-b", "32", "OUT"], "sox", 0),
    "WAV of floats": ("a.wav", [*SOX, "-e", "float", "-b", "32", "OUT"], "sox", 0),
    "WAV of doubles": ("a.wav", [*SOX, "-e", "float", "-b", "64", "OUT"], "sox", 0),
    "WAV, A-law": ("a.wav", [*SOX, "-e", "a-law", "OUT"], "ffmpeg", 0),
    "WAV, mu-law": ("a.wav", [*SOX, "-e", "u-law", "OUT"], "ffmpeg", 0),
    "WAV, GSM": ("a.wav", [*SOX, "-e", "gsm", "OUT"], "sox", 0),
    "WAV, IMA ADPCM": ("a.wav", [*SOX, "-e", "ima-adpcm", "OUT"], "sox", 0),
    "WAV, MS ADPCM": ("a.wav", [*SOX, "-e", "ms-adpcm", "OUT"], "sox", 0),
    "WAV of a pipe": ("a.wav", [*FFMPEG, "-f", "wav", "-"], "sox", 0),
    "WAV, extensible": ("a.wav", [*FFMPEG, "-ac", "6", "-c:a", "pcm_s24le", "OUT"], "ffmpeg", 0),
    "RF64": ("a.wav", [*FFMPEG, "-rf64", "always", "OUT"], "ffmpeg", 0),
    "W64": ("a.w64", [*FFMPEG, "OUT"], "ffmpeg", 0),
    "AIFF": ("a.aiff", [*SOX, "OUT"], "sox", 0),
    "AIFC, little-endian": (
        "a.aifc",
        [*FFMPEG, "-c:a", "pcm_s16le", "-f", "aiff", "OUT"],
        "ffmpeg",
        0,
    ),
    "AU": ("a.au", [*SOX, "OUT"], "sox", 0),
    "AU, mu-law": ("a.au", [*SOX, "-e", "u-law", "OUT"], "sox", 0),
    "CAF": ("a.caf", [*FFMPEG, "-c:a", "pcm_s16le", "OUT"], "ffmpeg", 0),
    "SPHERE": ("a.sph", [*SOX, "OUT"], "sox", 0),
    "SPHERE, mu-law": ("a.sph", [*SOX, "-e", "u-law", "OUT"], "sox", 0),
    "FLAC": ("a.flac", ["flac", "-s", "-o", "OUT", "WAV"], "flac", 0),
    "FLAC of a pipe": ("a.flac", [*FFMPEG, "-f", "flac", "-"], "flac", 0),
    "Vorbis": ("a.ogg", [*SOX, "OUT"], "sox", 2**-14),
    "Opus": (
        "a.opus",
        [*FFMPEG, "-ar", "48000", "-c:a", "libopus", "OUT"],
        "opusdec",
        2**-12,
    ),
    "MP3 of constant rate": (
        "a.mp3",
        ["lame", "--quiet", "-b", "64", "WAV", "OUT"],
        "mpg123",
        2**-14,
    ),
    "MP3 of variable rate": (
        "a.mp3",
        ["lame", "--quiet", "-V", "5", "WAV", "OUT"],
        "mpg123",
        2**-14,
    ),
    "MP3 without a tag": (
        "a.mp3",
        ["lame", "--quiet", "-t", "-V", "5", "WAV", "OUT"],
        "mpg123",
        2**-14,
    ),
    "MP3 with pictures": (
        "a.mp3",
        [
            "lame",
            "--quiet",
            "--tt",
            "x" * 200,
            "--id3v2-only",
            "--pad-id3v2-size",
            "9000",
            "WAV",
            "OUT",
        ],
        "mpg123",
        2**-14,
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_as_another_decoder_reads_it(name: str, wav: Path, tmp_path: Path) -> None:
    file, words, decoder, difference = FORMATS[name]
    path = tmp_path / file
    given = [{"WAV": str(wav), "OUT": str(path)}.get(word, word) for word in words]
    run(*given, to=None if "OUT" in words else path)
    expected = DECODERS[decoder](path)
    header, samples = read_samples(path)
    assert header == read_header(path)
    if decoder == "mpg123" and len(expected) - len(samples) == DELAY:
        expected = expected[DELAY:]  # without a tag, mpg123 leaves the delay of decoders in
    assert (header.samples, len(samples)) == (len(expected), len(expected))
    np.testing.assert_allclose(samples, expected, atol=difference + 1e-7)
    assert (header.cut_off, header.remark) == ("", "")
    assert inspect(path).problems == ()
    start = LENGTH // 3
    _, part = read_samples(path, start, 1_000)
    np.testing.assert_allclose(part, samples[start : start + 1_000], atol=1e-6)


NOT_READ = {
    "MPEG-4": ("a.m4a", FFMPEG),
    "WebM": ("a.webm", FFMPEG),
    "Windows Media": ("a.wma", FFMPEG),
    "Matroska": ("a.mka", FFMPEG),
    "AAC": ("a.aac", FFMPEG),
    "CAF, ALAC": ("a.caf", [*FFMPEG, "-c:a", "alac"]),
    "FLAC in Ogg": ("a.oga", [*FFMPEG, "-c:a", "flac"]),
    "WavPack": ("a.wv", FFMPEG),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_is_not_read_is_named_with_the_command_that_helps(
    name: str, wav: Path, tmp_path: Path
) -> None:
    file, words = NOT_READ[name]
    path = tmp_path / file
    run(*(str(wav) if word == "WAV" else word for word in words), path)
    ((kind, problem),) = inspect(path).problems
    assert (kind, "ffmpeg -i FILE FILE.wav" in problem) == ("unreadable-audio", True), problem


def test_raw_samples_say_how_they_become_a_recording(wav: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(wav.read_bytes()[44:])
    ((kind, problem),) = inspect(path).problems
    assert kind == "unreadable-audio"
    assert problem.startswith("has no header")
    command = problem[problem.index("sox") :].replace("FILE", str(path)).split()
    run(*command)
    np.testing.assert_array_equal(read_samples(Path(f"{path}.wav"))[1], read_samples(wav)[1])
