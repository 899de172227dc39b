"""From a cut to its waveform: any format, rate and number of channels to 16 kHz mono."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from speechft.console import warn
from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.places import check_source, file_of, is_part, read_bytes, read_part
from speechft.data.resampling import resample
from speechft.errors import DataError, RemoteError

if TYPE_CHECKING:
    from pathlib import Path

    from lhotse.cut import Cut

CANCELLED_SHARE = 1e-3
"""Power of the mean of the channels over the mean of their powers, below which they cancel."""
LOUDEST = float(1 << 31)
"""Largest sample: whole numbers of 32 bits that stand in a file of floating point."""
_TRANSFORM_ROUNDING = 0.025
"""Seconds that a recording may be longer or shorter after its transforms, as in lhotse."""
_WHOLE = 1e-3
"""Seconds that a cut may be shorter than its recording and still mean all of it, as in lhotse."""


def load_waveform(cut: Cut) -> npt.NDArray[np.float32]:
    """Read a cut as 16 kHz mono; other rates are resampled, the cut's channels averaged.

    Returns:
        (S,) samples in [-1, 1].

    Raises:
        DataError: The audio cannot be read, is empty, holds NaN, or its channels cancel.
    """
    where = place_of(cut)
    try:
        samples = _read(cut)
    except DataError as error:
        raise DataError(f"audio {where} {error.message}", hint=error.hint) from None
    except RemoteError:  # not the recording's fault
        raise
    except Exception as error:  # lhotse and libsndfile raise many kinds
        problem = str(error).partition("\n")[0]
        raise DataError(f"audio {where} cannot be read: {problem}") from None
    if not samples.size:
        raise DataError(f"audio {where} is empty")
    if cut.sampling_rate != SAMPLE_RATE:
        samples = resample(samples, int(cut.sampling_rate), SAMPLE_RATE)
    waveform = samples if samples.ndim == 1 else samples.mean(axis=0, dtype=np.float32)
    loudest = np.abs(waveform).max(initial=0.0)
    if not np.isfinite(loudest):
        raise DataError(f"audio {where} holds NaN or infinite samples")
    if loudest > LOUDEST:
        raise DataError(
            f"audio {where} holds samples beyond {LOUDEST:g}, expected are values in [-1, 1]"
        )
    if samples.ndim > 1 and len(samples) > 1 and channels_cancel(waveform, samples):
        raise DataError(
            f"audio {where} has channels that cancel when they are averaged",
            hint="choose one: a column 'channel' in a table, or the channel of a lhotse cut",
        )
    return np.ascontiguousarray(waveform, dtype=np.float32)


def count_samples(cut: Cut) -> int:
    """Return how many 16 kHz samples `load_waveform` gives, without reading any."""
    return -(-int(cut.num_samples) * SAMPLE_RATE // int(cut.sampling_rate))


def place_of(cut: Cut) -> str:
    """Return what messages call the audio of a cut: its path or address, or its id."""
    source = cut.recording.sources[0]
    return str(cut.id) if source.type == "memory" else file_of(str(source.source))


def channels_cancel(mean: npt.NDArray[np.float32], channels: npt.NDArray[np.float32]) -> bool:
    """Return whether the mean (S,) of channels (C, S) has lost nearly all of their power."""
    apart = float(np.square(channels, dtype=np.float64).mean())
    return float(np.square(mean, dtype=np.float64).mean()) < CANCELLED_SHARE * apart


def _read(cut: Cut) -> npt.NDArray[np.float32]:
    """Return (S,) or (channels, S) samples at the recording's own rate.

    Files are read by libsndfile directly, SPHERE included: lhotse's way takes three times as long,
    calls an external program for SPHERE, and runs what a source of type ``command`` says.
    """
    from speechft.data.cut_fields import TRANSFORMS

    recording = cut.recording
    if len(recording.sources) != 1:
        raise DataError(f"has {len(recording.sources)} sources, expected one")
    source = recording.sources[0]
    held = source.source
    if source.type == "url" and isinstance(held, str) and is_part(held):
        held = read_part(held)
    else:
        try:
            address = check_source(source.type, held)
        except ValueError as error:
            raise DataError(f"cannot be read: {error}") from None
        held = read_bytes(address) if address else held
    if not recording.transforms:
        return _decode(held, cut)
    steps = [step if isinstance(step, dict) else step.to_dict() for step in recording.transforms]
    for step in steps:
        if step["name"] not in TRANSFORMS:
            raise DataError(
                f"has the transform {step['name']!r}, which is none of those that are applied "
                f"here: {', '.join(TRANSFORMS)}"
            )
    return _transformed(held, cut, steps)


def _transformed(
    source: Path | str | bytes, cut: Cut, steps: list[dict[str, Any]]
) -> npt.NDArray[np.float32]:
    """Return (S,) or (channels, S) samples after lhotse's transforms, timed as lhotse times them.

    Args:
        source: Path or bytes of the file.
        cut: What is wanted of it, in time and rate after the transforms.
        steps: Names and arguments of transforms.
    """
    from lhotse.augmentation import AudioTransform
    from lhotse.utils import compute_num_samples

    from speechft.data.audio import read_header, read_samples

    rate = int(cut.recording.sampling_rate)
    start, duration = cut.start, cut.duration
    whole = abs(duration - cut.recording.duration) <= _WHOLE
    for step in reversed(steps):
        start, duration = AudioTransform.from_dict(step).reverse_timestamps(
            offset=start, duration=duration, sampling_rate=rate
        )
    try:
        true = read_header(source).sample_rate
        count = None if whole else compute_num_samples(duration, true)
        _, read = read_samples(source, compute_num_samples(start, true), count)
    except DataError as error:
        raise DataError(_reason(error.message)) from None
    samples = _chosen(read, cut).T
    for step in steps:
        given = step["kwargs"]
        if step["name"] == "Volume":
            samples = samples * np.float32(given["factor"])
        elif step["name"] == "Speed":
            samples = resample(samples, round(rate * given["factor"]), rate)
        else:
            rates = int(given["source_sampling_rate"]), int(given["target_sampling_rate"])
            samples = resample(samples, *rates)
    wanted = int(cut.num_samples)
    lacks = wanted - samples.shape[1]
    if abs(lacks) > _TRANSFORM_ROUNDING * rate:
        raise DataError(
            f"has {samples.shape[1]} samples after its transforms, but its manifest says {wanted}"
        )
    samples = np.pad(samples[:, :wanted], ((0, 0), (0, max(0, lacks))), mode="edge")
    return samples[0] if len(samples) == 1 else samples


def _reason(message: str) -> str:
    """Return why audio cannot be read as what follows its name in a sentence."""
    if message == "does not exist":
        return message
    it = "it " if message.startswith(("is ", "holds ", "has ")) else ""
    return f"cannot be read: {it}{message}"


def _decode(source: Path | str | bytes, cut: Cut) -> npt.NDArray[np.float32]:
    from speechft.data.audio import LOSSY_ROUNDING, read_samples

    start, count = round(cut.start * cut.sampling_rate), int(cut.num_samples)
    try:
        header, samples = read_samples(source, start, count)
    except DataError as error:
        raise DataError(_reason(error.message)) from None
    recording = cut.recording
    differs = header.samples - int(recording.num_samples)
    if header.sample_rate != recording.sampling_rate:
        raise DataError(
            f"has {header.sample_rate} samples a second, but its manifest says "
            f"{recording.sampling_rate}"
        )
    if differs and abs(differs) > (LOSSY_ROUNDING if header.lossy else 0):
        raise DataError(
            f"has {header.samples} samples, but its manifest says {recording.num_samples}: "
            "it changed after the corpus was prepared"
        )
    if len(samples) < count and header.lossy and count - len(samples) <= LOSSY_ROUNDING:
        _tell_padding()
        samples = np.pad(samples, ((0, count - len(samples)), (0, 0)))
    if len(samples) != count:
        raise DataError(f"cannot be read: it ends after {len(samples)} of {count} samples")
    chosen = _chosen(samples, cut)
    return chosen[:, 0] if chosen.shape[1] == 1 else chosen.T


def _chosen(samples: npt.NDArray[np.float32], cut: Any) -> npt.NDArray[np.float32]:
    """Return the channels of a cut among (S, C) samples of its file."""
    known = list(cut.recording.sources[0].channels)
    if len(known) != samples.shape[1]:
        raise DataError(
            f"has {samples.shape[1]} channels, but its manifest says {len(known)}",
            hint="prepare the corpus again, or mend the manifest",
        )
    wanted = [cut.channel] if isinstance(cut.channel, int) else list(cut.channel)
    strange = [channel for channel in wanted if channel not in known]
    if strange:
        raise DataError(f"has the channels {known}; the cut wants {strange}")
    return samples if wanted == known else samples[:, [known.index(c) for c in wanted]]


@cache
def _tell_padding() -> None:
    """Say once that a manifest counts the samples of lossy files as another decoder does."""
    warn(
        "some lossy recordings are a little shorter than their manifest says, which another "
        "decoder made: zeros fill them up"
    )
