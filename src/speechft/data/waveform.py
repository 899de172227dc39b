"""From a cut to its waveform: any format, rate and number of channels to 16 kHz mono."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from speechft.data.acoustics import SAMPLE_RATE
from speechft.errors import DataError

if TYPE_CHECKING:
    from lhotse.cut import Cut

_RANGE = "#bytes="


def load_waveform(cut: Cut) -> npt.NDArray[np.float32]:
    """Read a cut as 16 kHz mono; other rates are resampled, channels averaged.

    Returns:
        (S,) samples in [-1, 1].

    Raises:
        DataError: The audio cannot be read, is empty, or holds NaN.
    """
    source = cut.recording.sources[0]
    where = cut.id if source.type == "memory" else source.source
    if cut.num_samples == 0:
        raise DataError(f"audio {where} is empty")
    try:
        samples = _read(cut)
    except DataError as error:
        raise DataError(f"audio {where} {error.message}", hint=error.hint) from None
    except Exception as error:  # lhotse and libsndfile raise many kinds
        raise DataError(f"audio {where} {_problem(cut, error)}") from None
    if cut.sampling_rate != SAMPLE_RATE:
        samples = _resample(samples, cut.sampling_rate)
    waveform = samples if samples.ndim == 1 else samples.mean(axis=0, dtype=np.float32)
    if not np.isfinite(waveform).all():
        raise DataError(f"audio {where} holds NaN or infinite samples")
    return np.ascontiguousarray(waveform, dtype=np.float32)


def count_samples(cut: Cut) -> int:
    """Return how many 16 kHz samples `load_waveform` gives, without reading any."""
    return -(-int(cut.num_samples) * SAMPLE_RATE // int(cut.sampling_rate))


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
    if source.type == "file":
        return _decode(source.source, cut)
    if source.type == "memory":
        return _decode(BytesIO(source.source), cut)
    if source.type == "url" and _RANGE in source.source:
        from speechft.data.places import read_bytes

        place, _, where = source.source.rpartition(_RANGE)
        start, size = map(int, where.split("+"))
        return _decode(BytesIO(read_bytes(place, start, size)), cut)
    return np.asarray(cut.load_audio(), dtype=np.float32)


def _decode(file: Any, cut: Cut) -> npt.NDArray[np.float32]:
    import soundfile

    with soundfile.SoundFile(file) as audio:
        expected = cut.recording.num_samples
        if audio.frames != expected:
            raise DataError(
                f"has {audio.frames} samples, but its manifest says {expected}: "
                "it changed after the corpus was prepared"
            )
        audio.seek(round(cut.start * cut.sampling_rate))
        samples: npt.NDArray[np.float32] = audio.read(cut.num_samples, dtype="float32").T
    if samples.shape[-1] != cut.num_samples:
        raise DataError(
            f"cannot be read: it ends after {samples.shape[-1]} of {cut.num_samples} samples"
        )
    return samples


def _resample(samples: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float32]:
    """Resample by windowed sinc interpolation, as torchaudio does (lhotse's implementation)."""
    import torch
    from lhotse.augmentation import get_or_create_resampler

    with torch.autocast("cpu", enabled=False):  # the reader may run inside the encoder's bf16
        resampled: npt.NDArray[np.float32] = get_or_create_resampler(rate, SAMPLE_RATE)(
            torch.from_numpy(np.ascontiguousarray(samples))
        ).numpy()
    return resampled


def _problem(cut: Cut, error: Exception) -> str:
    """Say in one line why the audio of a cut cannot be read."""
    source = cut.recording.sources[0]
    if source.type == "file" and not Path(source.source).exists():
        return "does not exist"
    return f"cannot be read: {str(error).partition(chr(10))[0]}"
