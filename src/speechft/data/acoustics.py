"""Room and noise for a clean waveform: numpy only, so that corpus workers start quickly.

scipy's transforms are imported where they are used, for every reader of audio knows this file.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Waveform = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000
"""Samples per second of everything inside the package."""


def resample(waveform: Waveform, ratio: float) -> Waveform:
    """Resample by any ratio (band-limited, by FFT; off by at most half a sample at the end).

    Args:
        waveform: (S,) samples.
        ratio: Output samples per input sample. With a target rate r' and a warp w,
            ``ratio = w * r' / r`` also moves pitch and formants by ``1 / w``.

    Returns:
        (round(S * ratio),) samples.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    samples = len(waveform)
    wanted = round(samples * ratio)
    size_in = next_fast_len(samples + 512, real=True)
    size_out = round(size_in * ratio)
    spectrum = rfft(waveform, size_in)
    bins = size_out // 2 + 1
    if len(spectrum) > bins:
        spectrum = spectrum[:bins]
    else:
        spectrum = np.pad(spectrum, (0, bins - len(spectrum)))
    resampled = irfft(spectrum, size_out) * (size_out / size_in)
    return np.asarray(resampled[:wanted], dtype=np.float32)


def add_reverb(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """Convolve with a random room: direct sound plus exponentially decaying noise.

    Reverberation time (60 dB) 0.12 to 0.5 s, direct-to-reverberant ratio 0 to 12 dB, pre-delay
    2 to 12 ms. The direct sound stays where it was, so alignments hold.

    Args:
        waveform: (S,) samples.
        rng: Source of the room.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    decay_time = rng.uniform(0.12, 0.5)
    ratio_db = rng.uniform(0.0, 12.0)
    delay = int(rng.uniform(0.002, 0.012) * SAMPLE_RATE)
    length = int(decay_time * SAMPLE_RATE)
    tail = rng.standard_normal(length) * 10.0 ** (-3.0 * np.arange(length) / length)
    tail *= 10.0 ** (-ratio_db / 20.0) / np.sqrt(np.sum(tail**2))
    response = np.zeros(delay + length)
    response[0] = 1.0
    response[delay:] += tail
    samples = len(waveform)
    size = next_fast_len(samples + len(response), real=True)
    wet = irfft(rfft(waveform, size) * rfft(response, size), size)[:samples]
    return np.asarray(wet, dtype=np.float32)


def add_noise(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """Add coloured, slowly modulated noise at a signal-to-noise ratio of 8 to 30 dB.

    The spectrum falls with f^-k, k between 0 (white) and 1 (brown in amplitude).

    Args:
        waveform: (S,) samples.
        rng: Source of the noise.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    samples = len(waveform)
    size = next_fast_len(samples, real=True)
    spectrum = rfft(rng.standard_normal(size))
    frequency = np.maximum(np.arange(len(spectrum)) * SAMPLE_RATE / size, 40.0)
    noise = irfft(spectrum * frequency ** -rng.uniform(0.0, 1.0), size)[:samples]
    rate, phase, depth = rng.uniform(0.2, 4.0), rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.6)
    noise *= 1.0 + depth * np.sin(2 * np.pi * rate * np.arange(samples) / SAMPLE_RATE + phase)
    snr_db = rng.uniform(8.0, 30.0)
    power = float(np.mean(waveform.astype(np.float64) ** 2)) + 1e-12
    noise *= np.sqrt(power * 10.0 ** (-snr_db / 10.0) / (np.mean(noise**2) + 1e-12))
    return np.asarray(waveform + noise, dtype=np.float32)


def add_colour(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """Filter with a random smooth response, as another microphone would.

    The gain over log frequency is a sum of three cosines of 1 to 4 dB each.

    Args:
        waveform: (S,) samples.
        rng: Source of the response.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    samples = len(waveform)
    size = next_fast_len(samples, real=True)
    spectrum = rfft(waveform, size)
    frequency = np.arange(len(spectrum)) * SAMPLE_RATE / size
    octaves = np.log2(np.maximum(frequency, 60.0) / 60.0)
    gain_db = np.zeros_like(octaves)
    for _ in range(3):
        cycles, phase = rng.uniform(0.05, 0.4), rng.uniform(0, 2 * np.pi)
        gain_db += rng.uniform(1.0, 4.0) * np.cos(2 * np.pi * cycles * octaves + phase)
    coloured = irfft(spectrum * 10.0 ** (gain_db / 20.0), size)[:samples]
    return np.asarray(coloured, dtype=np.float32)


def distort(
    waveform: Waveform,
    rng: np.random.Generator,
    colour_probability: float = 0.80,
    reverb_probability: float = 0.42,
    noise_probability: float = 0.70,
) -> Waveform:
    """Put a waveform through a random microphone, room and noise, each with its probability.

    Args:
        waveform: (S,) samples.
        rng: Source of all draws.
        colour_probability: Chance of a microphone that is not flat.
        reverb_probability: Chance of a room.
        noise_probability: Chance of noise.
    """
    steps = (
        (add_reverb, reverb_probability),
        (add_colour, colour_probability),
        (add_noise, noise_probability),
    )
    for step, probability in steps:
        if rng.random() < probability:
            waveform = step(waveform, rng)
    return waveform


def set_level(waveform: Waveform, level_db: float) -> Waveform:
    """Scale to a root-mean-square level in dB below full scale; peaks stay below 0.99.

    Args:
        waveform: (S,) samples.
        level_db: Wanted level, such as -26.
    """
    rms = float(np.sqrt(np.mean(waveform.astype(np.float64) ** 2))) + 1e-9
    gain = 10.0 ** (level_db / 20.0) / rms
    peak = float(np.max(np.abs(waveform), initial=0.0)) * gain
    scaled = waveform * (gain / max(1.0, peak / 0.99))
    return np.asarray(scaled, dtype=np.float32)
