"""The jackknife against closed forms, and its coverage in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from speechft.analysis.intervals import Estimate, jackknife, mean_estimate, number_groups


def test_of_single_items_it_is_the_t_interval() -> None:
    values = np.random.default_rng(0).normal(size=12)
    found = mean_estimate(values, np.arange(12)).interval()
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(found, (expected.low, expected.high))


def test_means_without_a_speaker_are_those_of_the_others() -> None:
    rng = np.random.default_rng(1)
    values, groups = rng.normal(size=30), rng.integers(5, size=30)
    values[4] = np.nan
    found = mean_estimate(values, groups)
    by_hand = jackknife(lambda kept: float(np.nanmean(values[kept])), groups)
    assert found.value == pytest.approx(np.nanmean(values))
    assert found.n == 29
    assert dict(found.without) == pytest.approx(dict(by_hand.without))


def test_speakers_count_not_utterances() -> None:
    """Utterances of a speaker are alike: repeating each a hundred times tells nothing new."""
    values, speakers = np.array([1.0, 2.0, 4.0, 7.0]), np.arange(4)
    once = mean_estimate(values, speakers).interval()
    often = mean_estimate(values.repeat(100), speakers.repeat(100)).interval()
    np.testing.assert_allclose(once, often)


def test_coverage_is_nominal() -> None:
    """Ten speakers with effects of their own: the 95 % interval holds the truth in about 95 %."""
    rng = np.random.default_rng(2)
    speakers = np.arange(10).repeat(6)
    held = 0
    for _ in range(600):
        values = rng.normal(size=10)[speakers] + rng.normal(size=60)
        low, high = mean_estimate(values, speakers).interval() or (0.0, 0.0)
        held += low <= 0 <= high
    assert 0.92 <= held / 600 <= 0.98


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(3)
    speakers, common = np.arange(8).repeat(4), rng.normal(size=8).repeat(4)
    one = mean_estimate(common + 0.5 + 0.01 * rng.normal(size=32), speakers)
    other = mean_estimate(common + 0.01 * rng.normal(size=32), speakers)
    low, high = one.minus(other).interval() or (0.0, 0.0)
    assert 0.48 < low < 0.5 < high < 0.52
    assert one.minus(one).interval() == (0.0, 0.0)


def test_what_is_not_defined_has_no_interval() -> None:
    nothing = mean_estimate(np.array([np.nan, np.nan]), np.array([0, 1]))
    assert (nothing.value, nothing.interval()) == (None, None)
    alone = mean_estimate(np.array([1.0, 2.0]), np.array([0, 0]))
    assert (alone.value, alone.interval()) == (1.5, None)
    assert Estimate(1.0).minus(Estimate(None)).value is None
    assert number_groups(["b", "a", "b"]).tolist() == [1, 0, 1]
