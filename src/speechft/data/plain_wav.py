"""WAV of 16-bit samples behind the usual header of 44 bytes, read without libsndfile.

Most short recordings are such files, and opening one through libsndfile costs more than to compute
its features. Whatever differs in a single byte that matters is left to libsndfile.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from speechft.storage.disk import open_regular

_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_LONG = 1 << 24
"""Bytes beyond which libsndfile reads piece by piece, and says what is too long for memory."""
_SCALE = np.float32(1 / 32768)


def read_plain(
    source: Path | str | bytes, start: int, count: int | None
) -> tuple[tuple[int, int, int], npt.NDArray[np.float32]] | None:
    """Return samples, rate and channels of a file, and (S, C) samples of it as libsndfile does.

    Args:
        source: A path, or the bytes of a file.
        start: First sample.
        count: How many, or fewer where the file ends before; None for all that follow.

    Returns:
        None where the file is of another kind, damaged, empty, long, or cannot be opened, or does
        not reach to ``start``.
    """
    if isinstance(source, bytes):
        described = _described(source[: _HEADER.size], len(source))
        if described is None:
            return None
        first, size = _part(described, start, count)
        if size > _LONG or not 0 <= start <= described[0]:
            return None
        return described, _samples(source[first : first + size], described[2])
    try:
        descriptor = open_regular(source)
    except OSError:
        return None
    try:
        total = os.fstat(descriptor).st_size
        described = _described(os.pread(descriptor, _HEADER.size, 0), total)
        if described is None:
            return None
        first, size = _part(described, start, count)
        if size > _LONG or not 0 <= start <= described[0]:
            return None
        data = os.pread(descriptor, size, first)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None if len(data) != size else (described, _samples(data, described[2]))


def _described(header: bytes, total: int) -> tuple[int, int, int] | None:
    """Return samples, rate and channels that a header tells of a file of ``total`` bytes."""
    if len(header) < _HEADER.size or header[:4] != b"RIFF":
        return None
    riff, outer, wave, fmt, length, kind, channels, rate, _, align, bits, data, size = (
        _HEADER.unpack(header)
    )
    is_plain = (
        (riff, wave, fmt, data) == (b"RIFF", b"WAVE", b"fmt ", b"data")
        and (length, kind, bits) == (16, 1, 16)
        and align == 2 * channels > 0
        and 0 < size == total - _HEADER.size
        and outer == total - 8
        and size % align == 0
    )
    return (size // align, rate, channels) if is_plain else None


def _part(described: tuple[int, int, int], start: int, count: int | None) -> tuple[int, int]:
    """Return where in the file a part begins, and its bytes."""
    samples, _, channels = described
    held = samples - start
    wanted = held if count is None else max(0, min(held, count))
    return _HEADER.size + 2 * channels * start, 2 * channels * wanted


def _samples(data: bytes, channels: int) -> npt.NDArray[np.float32]:
    values = np.frombuffer(data, "<i2").astype(np.float32)
    values *= _SCALE
    return values.reshape(-1, channels)
