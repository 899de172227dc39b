"""Any two rates: what torchaudio gives, whatever their common divisor, and in bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from speechft.data import resampling
from speechft.data.resampling import resample


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100])
def test_both_ways_agree(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = np.random.default_rng(0).standard_normal((2, rate // 4)).astype(np.float32)
    usual = resample(given, rate, 16_000)
    monkeypatch.setattr(resampling, "_KERNEL", 0)
    monkeypatch.setattr(resampling, "_BLOCK", 10_000)
    np.testing.assert_allclose(resample(given, rate, 16_000), usual, atol=2e-4)


def test_rates_without_a_common_divisor_take_little() -> None:
    time = np.arange(15_999) / 15_999
    tracemalloc.start()
    made = resample(np.sin(2 * np.pi * 440 * time).astype(np.float32), 15_999, 16_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert made.shape == (16_000,)
    np.testing.assert_allclose(made[50:-50], expected[50:-50], atol=0.02)
    assert peak < 200e6
