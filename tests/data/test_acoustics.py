"""Acoustics: resampling against scipy and closed forms; rooms, noise and levels as promised."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.signal import resample_poly

from speechft.data.acoustics import (
    SAMPLE_RATE,
    add_colour,
    add_noise,
    add_reverb,
    distort,
    resample,
    set_level,
)


def tones(
    rate: int, seconds: float, frequencies: tuple[float, ...] = (210.0, 930.0, 2875.0)
) -> npt.NDArray[np.float64]:
    """Sum of sines that fades in and out, so that its spectrum ends well below 3.5 kHz."""
    time = np.arange(round(rate * seconds)) / rate
    window = np.sin(np.pi * time / seconds) ** 2
    return window * sum(np.sin(2 * np.pi * f * time + f) for f in frequencies) / len(frequencies)


def speech_like(seconds: float = 2.0, seed: int = 0) -> npt.NDArray[np.float32]:
    return (0.1 * tones(SAMPLE_RATE, seconds, (150.0 + seed, 450.0, 1200.0))).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 44_100, 48_000])
def test_resample_agrees_with_the_closed_form(rate: int) -> None:
    given = tones(rate, 0.7).astype(np.float32)
    result = resample(given, SAMPLE_RATE / rate)
    expected = tones(SAMPLE_RATE, 0.7)
    assert result.dtype == np.float32
    assert len(result) == round(len(given) * SAMPLE_RATE / rate)
    size = min(len(result), len(expected))
    # the FFT's length is rounded to whole samples: a drift of up to half a sample at the end
    drift = np.abs(np.diff(expected)).max() / 2
    assert np.abs(result[:size] - expected[:size]).max() < drift + 1e-3


@pytest.mark.parametrize(("up", "down"), [(2, 1), (1, 2), (320, 441), (160, 441), (9, 10)])
def test_resample_agrees_with_scipy(up: int, down: int) -> None:
    given = tones(22_050, 0.8, (90.0, 210.0, 350.0)).astype(np.float32)
    result = resample(given, up / down)
    expected = resample_poly(given.astype(np.float64), up, down, window=("kaiser", 12.0))
    size = min(len(result), len(expected))
    assert abs(len(result) - len(expected)) <= 1
    drift = np.abs(np.diff(expected)).max() / 2
    assert np.abs(result[:size] - expected[:size]).max() < drift + 1e-3
    assert np.corrcoef(result[:size], expected[:size])[0, 1] > 0.999


def test_resample_removes_what_the_new_rate_cannot_hold() -> None:
    low, high = tones(16_000, 0.5, (500.0,)), tones(16_000, 0.5, (6_000.0,))
    result = resample((low + high).astype(np.float32), 0.5)
    assert np.abs(result - low[::2]).max() < 0.01


@pytest.mark.parametrize("ratio", [0.25, 1.0, 1.1])
@pytest.mark.parametrize("samples", [0, 1, 17, 4001])
def test_resample_length(samples: int, ratio: float) -> None:
    assert len(resample(np.ones(samples, np.float32), ratio)) == round(samples * ratio)


def test_resample_by_one_changes_nothing() -> None:
    given = speech_like()
    assert np.allclose(resample(given, 1.0), given, atol=1e-6)


def test_reverb_keeps_the_direct_sound_in_place() -> None:
    start, ratios = 1_000, []
    for seed in range(40):
        impulse = np.zeros(12_000, np.float32)
        impulse[start] = 1.0
        wet = add_reverb(impulse, np.random.default_rng(seed))
        assert wet.dtype == np.float32
        assert len(wet) == len(impulse)
        assert np.abs(wet[:start]).max() < 1e-6, "nothing before the direct sound"
        assert wet[start] == pytest.approx(1.0, abs=1e-6)
        assert np.abs(wet[start + 1 : start + 32]).max() < 1e-6, "pre-delay of at least 2 ms"
        tail = wet[start + 32 :].astype(np.float64)
        ratios.append(-10 * np.log10(np.sum(tail**2)))
        energy = np.cumsum(tail[::-1] ** 2)[::-1]
        below_60_db = np.flatnonzero(energy < energy[0] * 1e-6)[0] / SAMPLE_RATE
        assert 0.1 < below_60_db < 0.53
    assert -0.05 < min(ratios) < 3
    assert 9 < max(ratios) < 12.05


def test_noise_has_the_promised_ratio() -> None:
    clean = speech_like()
    power = np.mean(clean.astype(np.float64) ** 2)
    ratios = []
    for seed in range(60):
        noisy = add_noise(clean, np.random.default_rng(seed))
        assert noisy.dtype == np.float32
        noise = noisy.astype(np.float64) - clean
        ratios.append(10 * np.log10(power / np.mean(noise**2)))
    assert min(ratios) > 7.99
    assert max(ratios) < 30.01
    assert np.ptp(ratios) > 15, "the range is used"


def test_colour_is_a_gentle_filter() -> None:
    spans = []
    for seed in range(20):
        impulse = np.zeros(4_096, np.float32)
        impulse[0] = 1.0
        response = np.abs(np.fft.rfft(add_colour(impulse, np.random.default_rng(seed))))
        gain = 20 * np.log10(response)
        assert np.abs(gain).max() < 12.01, "three cosines of at most 4 dB"
        assert np.abs(np.diff(gain[16:])).max() < 1.0, "smooth"
        spans.append(np.ptp(gain))
    assert min(spans) > 1


def test_distort_is_determined_by_its_seed() -> None:
    clean = speech_like()
    first = distort(clean, np.random.default_rng(5))
    assert np.array_equal(first, distort(clean, np.random.default_rng(5)))
    others = [distort(clean, np.random.default_rng(seed)) for seed in range(6, 12)]
    assert not any(np.array_equal(first, other) for other in others)
    assert np.array_equal(clean, speech_like()), "the clean signal is left alone"


def test_distort_follows_its_probabilities() -> None:
    clean = speech_like(0.3)
    assert np.array_equal(distort(clean, np.random.default_rng(0), 0, 0, 0), clean)
    untouched = sum(
        np.array_equal(distort(clean, np.random.default_rng(seed), 0, 0, 0.5), clean)
        for seed in range(200)
    )
    assert 70 < untouched < 130


@pytest.mark.parametrize("level", [-32.0, -26.0, -20.0])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0])
def test_set_level_reaches_the_level(level: float, scale: float) -> None:
    result = set_level(speech_like() * np.float32(scale), level)
    assert result.dtype == np.float32
    measured = 20 * np.log10(np.sqrt(np.mean(result.astype(np.float64) ** 2)))
    assert measured == pytest.approx(level, abs=0.02)


def test_set_level_never_clips() -> None:
    click = np.zeros(16_000, np.float32)
    click[100], click[200] = 1.0, -0.5
    result = set_level(click, -20.0)
    assert np.abs(result).max() == pytest.approx(0.99, abs=1e-5)
    assert result[200] / result[100] == pytest.approx(-0.5), "scaled, not cut off"


def test_set_level_of_silence_is_silence() -> None:
    assert not set_level(np.zeros(100, np.float32), -20.0).any()
