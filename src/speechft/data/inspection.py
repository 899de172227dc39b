"""A look at one recording before it enters a corpus: its header and, if wanted, its samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

MIN_SECONDS = 0.05
"""Shorter recordings give no frame to most encoders."""
SILENCE_PEAK = 1e-4
"""Recordings whose samples all stay below this (-80 dB of full scale) count as silence."""
CLIPPED_SAMPLE = 0.9999
"""Magnitude from which a sample counts as clipped."""
CLIPPED_SHARE = 1e-3
"""Share of clipped samples from which a recording is named."""
_BLOCK = 1 << 20
_LFS = b"version https://git-lfs"
_ROUNDING = 0.05
"""Seconds that a segment may end after its recording: time stamps are rounded."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of an audio file says."""

    samples: int
    sample_rate: int
    channels: int


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a recording or a segment of it."""

    header: Header | None
    offset: int = 0
    """First sample of the segment."""
    samples: int = 0
    """Samples of the segment."""
    problems: tuple[tuple[str, str], ...] = ()
    """(kind, problem), kinds as in `speechft.data.issues.KINDS`."""


def read_header(path: Path) -> Header | str:
    """Return the header of a file, or in words why there is none."""
    try:
        with soundfile.SoundFile(path) as file:
            return Header(file.frames, file.samplerate, file.channels)
    except (OSError, RuntimeError, TypeError) as error:  # headerless formats give a TypeError
        if _is_lfs_pointer(path):
            return "is a Git LFS pointer, not audio: run git lfs pull"
        return f"not readable as audio ({error})"


def _is_lfs_pointer(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_LFS)) == _LFS


def inspect(
    path: Path, start: float | None = None, end: float | None = None, *, samples: bool = True
) -> Found:
    """Inspect a recording.

    Args:
        path: The audio file.
        start: First second of the segment; None for the whole file.
        end: Last second of the segment; None for the end of the file.
        samples: Decode the samples and look for NaN, silence and clipping; otherwise read the
            header only.
    """
    header = read_header(path)
    if isinstance(header, str):
        kind = "unreadable-audio" if path.exists() else "missing-audio"
        problem = header if path.exists() else "does not exist"
        return Found(None, problems=((kind, problem),))
    first, last = 0, header.samples
    if start is not None or end is not None:
        first = round((start or 0.0) * header.sample_rate)
        wanted = header.samples if end is None else round(end * header.sample_rate)
        last = min(wanted, header.samples)
        if first >= header.samples or wanted - header.samples > _ROUNDING * header.sample_rate:
            length = header.samples / header.sample_rate
            last_second = length if end is None else end
            problem = f"seconds {start or 0:g} to {last_second:g} of a recording of {length:.2f} s"
            return Found(header, problems=(("segment-outside", problem),))
    count = last - first
    problems = _lengths(count, header)
    if samples and not problems:
        problems = _samples(path, first, count)
    return Found(header, first, count, tuple(problems))


def _lengths(count: int, header: Header) -> list[tuple[str, str]]:
    if count <= 0:
        return [("zero-length", "holds no samples")]
    if count < MIN_SECONDS * header.sample_rate:
        return [("too-short", f"{count} samples at {header.sample_rate} Hz are too short")]
    return []


def _samples(path: Path, first: int, count: int) -> list[tuple[str, str]]:
    peak, clipped, read = 0.0, 0, 0
    try:
        with soundfile.SoundFile(path) as file:
            file.seek(first)
            while read < count:
                block = file.read(min(_BLOCK, count - read), dtype="float32", always_2d=True)
                if not len(block):
                    return [("unreadable-audio", f"ends after {read} of {count} samples")]
                magnitude = np.abs(block)
                highest = float(magnitude.max())
                if not np.isfinite(highest):
                    return [("not-a-number", "holds NaN or infinite samples")]
                peak = max(peak, highest)
                if highest >= CLIPPED_SAMPLE:
                    clipped += int((magnitude.max(axis=1) >= CLIPPED_SAMPLE).sum())
                read += len(block)
    except (OSError, RuntimeError) as error:
        return [("unreadable-audio", f"not readable as audio ({error})")]
    if peak < SILENCE_PEAK:
        return [("silence", f"is silent: no sample exceeds {SILENCE_PEAK:g}")]
    if clipped >= CLIPPED_SHARE * count:
        return [("clipping", f"{100 * clipped / count:.1f} % of the samples are at full scale")]
    return []
