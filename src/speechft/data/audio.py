"""The one reader of audio files: their true length, and their samples from any place on.

What a header says is checked against a second source: the frames of an MP3 are counted, a FLAC of
unknown length is decoded to its end, the size of a WAV is compared with the file. Formats whose
seeking is not exact (telephone codecs; Vorbis, where libsndfile 1.2 is off near the end; MP3 of
variable rate, where it is off by whole waves) are decoded from their beginning.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from speechft.data import mpeg
from speechft.data.containers import lacks_end, missing_bytes, what_it_is, with_size
from speechft.data.cut_fields import RATES
from speechft.data.places import MAX_BYTES
from speechft.data.plain_wav import read_plain
from speechft.errors import DataError
from speechft.storage.documents import read_limited

Samples = npt.NDArray[np.float32]

LOSSY_ROUNDING = 4_608
"""Samples by which two decoders may differ on a lossy file: delay and padding of its encoder."""
CUT_OFF = 0.05
"""Seconds that a file may be shorter than its header says; more, and it is cut off."""

_LOSSY = frozenset({"VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"})
_SEEKS = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW", "ALAC_", "OPUS")
"""Beginnings of the encodings in which libsndfile finds every sample exactly."""
MAX_VALUES = 1 << 28
"""Samples of all channels that are read at once: 4.6 hours at 16 kHz, a gigabyte."""
_DENSEST = 8_192
"""Samples of a channel in a byte of FLAC: no block is shorter than 8 bytes, or holds more than
65,535 samples."""
_UNKNOWN = 1 << 40
"""More samples than any file has: libsndfile's way to say that it does not know."""
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an audio file without keeping its samples."""

    samples: int
    """True length, for each channel."""
    sample_rate: int
    channels: int
    lossy: bool = field(default=False, compare=False)
    """Whether decoders may differ in length by `LOSSY_ROUNDING`."""
    remark: str = ""
    """How the file differs from what its own header says; it is read all the same."""
    cut_off: str = ""
    """What is missing at its end, where that is more than `CUT_OFF`."""


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """A file read forwards: soundfile seeks after every read of what it calls seekable."""

    def seekable(self) -> bool:
        return False


def read_header(source: Path | str | bytes) -> Header:
    """Return what an audio file holds.

    Args:
        source: A path, or the bytes of a file.

    Raises:
        DataError: It cannot be read; the message is the reason.
    """
    with _opened(source) as (_, header):
        return header


def read_samples(
    source: Path | str | bytes, start: int = 0, count: int | None = None
) -> tuple[Header, Samples]:
    """Return what a file holds and (S, C) samples at its own rate, fewer where it ends before.

    Args:
        source: A path, or the bytes of a file.
        start: First sample.
        count: How many; None for all that follow.

    Raises:
        DataError: It cannot be read; the message is the reason.
    """
    plain = read_plain(source, start, count)
    if plain is not None and RATES[0] <= plain[0][1] <= RATES[1]:
        samples, rate, channels = plain[0]
        return Header(samples, rate, channels), plain[1]
    with _opened(source) as (file, header):
        wanted = header.samples - start if count is None else count
        _require_room(min(wanted, header.samples - start), header)
        parts = list(_blocks(file, source, start, wanted))
    if not parts:
        return header, np.zeros((0, header.channels), dtype=np.float32)
    return header, parts[0] if len(parts) == 1 else np.concatenate(parts)


def read_blocks(source: Path | str | bytes, start: int, count: int) -> Iterator[Samples]:
    """Yield (S, C) samples piece by piece, as `read_samples` returns them.

    Raises:
        DataError: It cannot be read; the message is the reason.
    """
    with _opened(source) as (file, _):
        yield from _blocks(file, source, start, count)


def _blocks(file: Any, source: Path | str | bytes, start: int, left: int) -> Iterator[Samples]:
    passing = start
    try:
        if start and soundfile.SoundFile.seekable(file) and file.subtype.startswith(_SEEKS):
            file.seek(start)
            passing = 0
        while passing > 0:
            passed = len(file.read(min(_BLOCK, passing), dtype="float32", always_2d=True))
            if not passed:
                return
            passing -= passed
        while left > 0:
            block = file.read(min(_BLOCK, left), dtype="float32", always_2d=True)
            if not len(block):
                return
            left -= len(block)
            yield block
    except (OSError, RuntimeError) as error:
        raise DataError(_reason(source, error)) from None


@contextmanager
def _opened(source: Path | str | bytes) -> Iterator[tuple[Any, Header]]:
    """Open a file; what it lacks of a length is put right in a copy in memory."""
    _require_regular(source)
    try:
        file = _Forward(_handle(source))
    except (OSError, RuntimeError, TypeError, ValueError) as error:  # headerless: a TypeError
        raise DataError(_reason(source, error)) from None
    with file:
        if not RATES[0] <= file.samplerate <= RATES[1]:
            raise DataError(
                f"has {file.samplerate:,} samples a second, expected are {RATES[0]:,} to "
                f"{RATES[1]:,}"
            )
        lossy = file.subtype in _LOSSY
        if file.subtype.startswith("MPEG_LAYER_"):
            mended, remark, missing = _mpeg(file, _bytes(source))
        elif file.frames > min(_UNKNOWN, _DENSEST * _size(source)):
            mended, remark, missing = _unknown_length(file, source), "", 0.0
        else:
            mended, remark = None if file.frames else with_size(source), ""
            if mended is not None:
                remark = "its header says that it is empty; all that follows is read"
            if file.format == "OGG" and lacks_end(source):
                remark = "its stream has no end: it may be cut off"
            lacks = missing_bytes(source)
            missing = lacks / _bytes_a_second(file) if lacks else 0.0
        if mended is None:
            yield file, _header(file, lossy, remark, missing)
            return
    with _Forward(BytesIO(mended)) as file:
        yield file, _header(file, lossy, remark, missing)


def _header(file: Any, lossy: bool, remark: str, missing: float) -> Header:
    cut_off = f"is cut off: {missing:.2f} s are missing at its end" if missing > CUT_OFF else ""
    return Header(file.frames, file.samplerate, file.channels, lossy, remark, cut_off)


def _bytes_a_second(file: Any) -> float:
    sizes = {"PCM_U8": 1, "PCM_S8": 1, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
    sizes |= {"ULAW": 1, "ALAW": 1, "PCM_16": 2}
    return float(file.samplerate * file.channels * sizes.get(file.subtype, 0.5))


def _mpeg(file: Any, data: bytes) -> tuple[bytes | None, str, float]:
    """Return the file with its true length if libsndfile has another, and what differs."""
    frames = mpeg.read_frames(data)
    if frames is None:
        return None, "", 0.0
    told = frames.told or 0
    if told and abs(told - len(frames.places)) <= 1:
        return None, "", 0.0
    holds = frames.samples / file.samplerate
    if told > len(frames.places):
        missing = (told - len(frames.places)) * frames.samples_a_frame / file.samplerate
        return None, "", missing
    remark = ""
    if told:
        says = told * frames.samples_a_frame / file.samplerate
        remark = f"its header says {says:.2f} s, it holds {holds:.2f} s; all of it is read"
    if file.frames == frames.samples:
        return None, remark, 0.0
    return mpeg.with_length(data, frames), remark, 0.0


def _unknown_length(file: Any, source: Path | str | bytes) -> bytes:
    """Return a FLAC with its number of samples, which are counted by decoding it.

    Raises:
        DataError: It cannot be decoded, or is of another kind.
    """
    data = bytearray(_bytes(source))
    place = data.find(b"fLaC")
    if place < 0:
        raise DataError("its length is not known")
    count = 0
    try:
        while passed := len(file.read(_BLOCK, dtype="float32", always_2d=True)):
            count += passed
    except (OSError, RuntimeError) as error:
        raise DataError(_reason(source, error)) from None
    data[place + 21] = (data[place + 21] & 0xF0) | (count >> 32 & 0x0F)
    data[place + 22 : place + 26] = (count & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


def _handle(source: Path | str | bytes) -> Any:
    return BytesIO(source) if isinstance(source, bytes) else os.fspath(source)


def _bytes(source: Path | str | bytes) -> bytes:
    return source if isinstance(source, bytes) else read_limited(source, MAX_BYTES)


def _size(source: Path | str | bytes) -> int:
    return len(source) if isinstance(source, bytes) else os.stat(source).st_size


def _require_regular(source: Path | str | bytes) -> None:
    """Refuse pipes and devices, which never end; what does not exist is told by the reader.

    Raises:
        DataError: It is one, or no file can have that name.
    """
    if isinstance(source, bytes):
        return
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError) as error:
        raise DataError(_reason(source, error)) from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError("is no regular file")


def _require_room(samples: int, header: Header) -> None:
    """Refuse to read more than `MAX_VALUES` into memory.

    Raises:
        DataError: Says how long it is.
    """
    if samples * header.channels > MAX_VALUES:
        raise DataError(
            f"has {samples:,} samples of {header.channels} channels "
            f"({samples / header.sample_rate / 3600:.1f} h), more than {MAX_VALUES:,} values",
            hint="name segments of it: columns start and end of a table",
        )


def _reason(source: Path | str | bytes, error: Exception) -> str:
    """Say in one line why a file cannot be read: what it is, if that can be told."""
    if not isinstance(source, bytes):
        if isinstance(error, ValueError):
            return f"does not exist: no file can have that name ({error})"
        path = Path(source)
        if path.is_symlink() and not path.exists():
            return f"is a link to nothing ({os.readlink(path)})"
        try:
            missing = not path.exists()
        except OSError as broken:  # a link to itself is missing; a name that is too long is this
            return f"cannot be opened ({broken.strerror})"
        if missing:
            return "does not exist"
        if path.is_dir():
            return "is a folder"
    told = what_it_is(source)
    if told:
        return told
    if "unsupported encoding" in str(error) or "flac decoder" in str(error):
        return "holds an encoding that libsndfile does not read: ffmpeg -i FILE FILE.wav"
    return str(error).partition("\n")[0].rpartition(": ")[2].rstrip(".")
