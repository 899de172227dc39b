"""A look at one recording before it enters a corpus: its header and, if wanted, its samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechft.data.audio import LOSSY_ROUNDING, read_blocks, read_header
from speechft.data.audio import Header as Header
from speechft.data.waveform import CANCELLED_SHARE, LOUDEST
from speechft.errors import DataError

MIN_SECONDS = 0.05
"""Shorter recordings give no frame to most encoders."""
SILENCE_PEAK = 1e-4
"""Recordings whose samples all stay below this (-80 dB of full scale) count as silence."""
CLIPPED_SAMPLE = 0.9999
"""Magnitude from which a sample counts as clipped."""
CLIPPED_SHARE = 1e-3
"""Share of clipped samples from which a recording is named."""
_ROUNDING = 0.05
"""Seconds that a segment may end after its recording: time stamps are rounded."""
_LIKELY = 0.1
"""Seconds that a segment has at least if its times are taken for another unit."""


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


def inspect(
    path: Path,
    start: float | None = None,
    end: float | None = None,
    *,
    channel: int | None = None,
    samples: bool = True,
) -> Found:
    """Inspect a recording.

    Args:
        path: The audio file.
        start: First second of the segment; None for the whole file.
        end: Last second of the segment; None for the end of the file.
        channel: The channel that counts; None for the mean of all.
        samples: Decode the samples and look for NaN, silence, clipping and channels that cancel;
            otherwise read the header only.
    """
    try:
        header = read_header(path)
    except DataError as error:
        if not path.exists():
            return Found(None, problems=(("missing-audio", error.message),))
        return Found(None, problems=(("unreadable-audio", unreadable(error.message)),))
    problems = _of_header(header, channel)
    first, last = 0, header.samples
    if start is not None or end is not None:
        first = round((start or 0.0) * header.sample_rate)
        wanted = header.samples if end is None else round(end * header.sample_rate)
        last = min(wanted, header.samples)
        if first >= header.samples or wanted - header.samples > _ROUNDING * header.sample_rate:
            length = header.samples / header.sample_rate
            last_second = length if end is None else end
            problem = f"seconds {start or 0:g} to {last_second:g} of a recording of {length:.2f} s"
            problem += _other_unit(start or 0.0, last_second, header)
            return Found(header, problems=(*problems, ("segment-outside", problem)))
    count = last - first
    problems += _lengths(count, header)
    if samples and all(kind == "length-differs" for kind, _ in problems):
        problems += _samples(path, first, count, channel, header)
    return Found(header, first, count, tuple(problems))


def _other_unit(start: float, end: float, header: Header) -> str:
    """Say in which unit a segment would lie within its recording; empty where in none."""
    for unit, second in (("milliseconds", 1000), ("samples", header.sample_rate)):
        inside = end / second <= header.samples / header.sample_rate + _ROUNDING
        if inside and (end - start) / second >= _LIKELY:
            return f"; in {unit} it would lie inside, but start and end are seconds"
    return ""


def unreadable(reason: str) -> str:
    """Return a reason why a file is no audio as a sentence about it, without its subject."""
    return (
        reason
        if reason.startswith(("is ", "holds ", "has "))
        else f"not readable as audio ({reason})"
    )


def _of_header(header: Header, channel: int | None) -> list[tuple[str, str]]:
    problems = []
    if header.cut_off:
        problems.append(("cut-off", header.cut_off))
    if header.remark:
        problems.append(("length-differs", header.remark))
    if channel is not None and channel >= header.channels:
        problem = f"has {header.channels} channels, numbered from 0: there is no channel {channel}"
        problems.append(("no-channel", problem))
    return problems


def _lengths(count: int, header: Header) -> list[tuple[str, str]]:
    if count <= 0:
        return [("zero-length", "holds no samples")]
    if count < MIN_SECONDS * header.sample_rate:
        return [("too-short", f"{count} samples at {header.sample_rate} Hz are too short")]
    return []


def _samples(
    path: Path, first: int, count: int, channel: int | None, header: Header
) -> list[tuple[str, str]]:
    peak, clipped, read = 0.0, 0, 0
    together, apart = 0.0, 0.0
    try:
        for block in read_blocks(path, first, count):
            heard = block if channel is None else block[:, channel : channel + 1]
            magnitude = np.abs(heard)
            highest = float(magnitude.max())
            if not np.isfinite(highest):
                return [("not-a-number", "holds NaN or infinite samples")]
            if highest > LOUDEST:
                return [("not-a-number", f"holds samples beyond {LOUDEST:g}")]
            peak = max(peak, highest)
            if highest >= CLIPPED_SAMPLE:
                clipped += int((magnitude.max(axis=1) >= CLIPPED_SAMPLE).sum())
            if heard.shape[1] > 1:
                together += float(np.square(heard.mean(axis=1, dtype=np.float64)).sum())
                apart += float(np.square(heard, dtype=np.float64).mean(axis=1).sum())
            read += len(heard)
    except DataError as error:
        return [("unreadable-audio", unreadable(error.message))]
    if read < count - (LOSSY_ROUNDING if header.lossy else 0):
        return [("unreadable-audio", f"ends after {read} of {count} samples")]
    if peak < SILENCE_PEAK:
        return [("silence", f"is silent: no sample exceeds {SILENCE_PEAK:g}")]
    if together < CANCELLED_SHARE * apart:
        return [("channels-cancel", "its channels cancel when they are averaged: choose one")]
    if clipped >= CLIPPED_SHARE * count:
        return [("clipping", f"{100 * clipped / count:.1f} % of the samples are at full scale")]
    return []
