"""From a cut to its waveform: any format, rate and number of channels to 16 kHz mono."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from speechft.console import warn
from speechft.data.acoustics import SAMPLE_RATE
from speechft.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from lhotse.cut import Cut

CANCELLED_SHARE = 1e-3
"""Power of the mean of the channels over the mean of their powers, below which they cancel."""
_RANGE = "#bytes="


def load_waveform(cut: Cut) -> npt.NDArray[np.float32]:
    """Read a cut as 16 kHz mono; other rates are resampled, the cut's channels averaged.

    Returns:
        (S,) samples in [-1, 1].

    Raises:
        DataError: The audio cannot be read, is empty, holds NaN, or its channels cancel.
    """
    where = place_of(cut)
    if cut.num_samples == 0:
        raise DataError(f"audio {where} is empty")
    try:
        samples = _read(cut)
    except DataError as error:
        raise DataError(f"audio {where} {error.message}", hint=error.hint) from None
    except Exception as error:  # lhotse and libsndfile raise many kinds
        problem = str(error).partition("\n")[0]
        raise DataError(f"audio {where} cannot be read: {problem}") from None
    if cut.sampling_rate != SAMPLE_RATE:
        samples = _resample(samples, cut.sampling_rate)
    waveform = samples if samples.ndim == 1 else samples.mean(axis=0, dtype=np.float32)
    if not np.isfinite(waveform).all():
        raise DataError(f"audio {where} holds NaN or infinite samples")
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
    return str(cut.id if source.type == "memory" else source.source)


def channels_cancel(mean: npt.NDArray[np.float32], channels: npt.NDArray[np.float32]) -> bool:
    """Return whether the mean (S,) of channels (C, S) has lost nearly all of their power."""
    apart = float(np.square(channels, dtype=np.float64).mean())
    return float(np.square(mean, dtype=np.float64).mean()) < CANCELLED_SHARE * apart


def member_address(place: str, start: int, size: int) -> str:
    """Return how a recording names the bytes of a larger file that hold it."""
    return f"{place}{_RANGE}{start}+{size}"


def _read(cut: Cut) -> npt.NDArray[np.float32]:
    """Return (S,) or (channels, S) samples at the recording's own rate.

    Files are read by libsndfile directly, SPHERE included: lhotse's way takes three times as long
    and calls an external program for SPHERE.
    """
    recording = cut.recording
    source = recording.sources[0]
    if recording.transforms or len(recording.sources) > 1:
        return np.asarray(cut.load_audio(), dtype=np.float32)
    if source.type in ("file", "memory"):
        return _decode(source.source, cut)
    if source.type == "url" and _RANGE in source.source:
        from speechft.data.places import read_bytes

        place, _, where = source.source.rpartition(_RANGE)
        start, size = map(int, where.split("+"))
        return _decode(read_bytes(place, start, size), cut)
    return np.asarray(cut.load_audio(), dtype=np.float32)


def _decode(source: Path | str | bytes, cut: Cut) -> npt.NDArray[np.float32]:
    from speechft.data.audio import LOSSY_ROUNDING, read_samples

    start, count = round(cut.start * cut.sampling_rate), int(cut.num_samples)
    try:
        header, samples = read_samples(source, start, count)
    except DataError as error:
        reason = error.message
        if reason != "does not exist":
            it = "it " if reason.startswith(("is ", "holds ")) else ""
            reason = f"cannot be read: {it}{reason}"
        raise DataError(reason) from None
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


def _resample(samples: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float32]:
    """Resample by windowed sinc interpolation, as torchaudio does (lhotse's implementation)."""
    import torch
    from lhotse.augmentation import get_or_create_resampler

    with torch.autocast("cpu", enabled=False):  # the reader may run inside the encoder's bf16
        resampled: npt.NDArray[np.float32] = get_or_create_resampler(rate, SAMPLE_RATE)(
            torch.from_numpy(np.ascontiguousarray(samples))
        ).numpy()
    return resampled
