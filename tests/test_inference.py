"""How the evidence is judged, against closed forms, scipy, sklearn and simulations."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from helpers import study


@pytest.fixture(scope="module")
def inference() -> ModuleType:
    return study("inference")


def test_logit_error_is_clipped(inference: ModuleType) -> None:
    assert inference.logit_error(50.0) == pytest.approx(0.0)
    assert inference.logit_error(20.0) == pytest.approx(math.log(0.25))
    low, high = inference.logit_error(np.array([0.0, 250.0]))
    assert (low, high) == pytest.approx((math.log(1 / 99), math.log(99)))


def test_without_items_it_is_the_t_test_over_lineages(inference: ModuleType) -> None:
    values = np.array([0.31, 0.12, 0.45, 0.22])
    found = inference.estimate(values, np.zeros(0), 30)
    known = stats.ttest_1samp(values, 0.0)
    assert found.p_value() == pytest.approx(known.pvalue)
    assert found.interval() == pytest.approx(tuple(known.confidence_interval(0.95)))
    assert found.freedom == pytest.approx(3)


def test_keeping_is_two_one_sided_t_tests(inference: ModuleType) -> None:
    values = np.array([0.02, -0.03, 0.01, 0.04])
    found = inference.estimate(values, np.zeros(0), 30)
    low = stats.ttest_1samp(values, -0.1, alternative="greater").pvalue
    high = stats.ttest_1samp(values, 0.1, alternative="less").pvalue
    assert found.p_equivalent(0.1) == pytest.approx(max(low, high))
    assert found.p_equivalent(0.01) > 0.05 > found.p_equivalent(0.1)


def test_one_lineage_has_no_interval(inference: ModuleType) -> None:
    alone = inference.estimate([0.4], np.zeros(0), 30)
    assert alone.value == 0.4
    assert math.isnan(alone.p_value())
    assert math.isnan(alone.p_equivalent())
    with pytest.raises(ValueError, match="no lineage"):
        inference.estimate([], np.zeros(0), 30)


@pytest.mark.parametrize(("spread", "items"), [(0.1, 0.02), (0.05, 0.05), (0.02, 0.1)])
def test_the_interval_covers_the_truth(inference: ModuleType, spread: float, items: float) -> None:
    """Lineages and items both vary: of nominal 95 % the intervals cover 92 to 98."""
    rng, hits, studies = np.random.default_rng(0), 0, 1000
    for _ in range(studies):
        shared = items * rng.normal(size=30)  # speakers, the same for every lineage
        lineages = 0.3 + spread * rng.normal(size=4)
        weights = rng.multinomial(30, np.full(30, 1 / 30), size=200) / 30
        whole = 30**0.5 * shared  # so that the mean over 30 speakers has the spread ``items``
        found = inference.estimate(lineages + whole.mean(), lineages.mean() + weights @ whole, 30)
        low, high = found.interval()
        hits += low <= 0.3 <= high
    assert 0.92 < hits / studies < 0.985


def test_holm_by_hand(inference: ModuleType) -> None:
    adjusted = inference.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": float("nan"), "e": 0.005})
    # sorted: e .005 x 5, a .01 x 4, c .03 x 3, b .04 x 2 (not below c), d counts as 1
    assert adjusted == pytest.approx({"e": 0.025, "a": 0.04, "c": 0.09, "b": 0.09, "d": 1.0})
    assert list(adjusted) == ["a", "b", "c", "d", "e"]


def test_holm_holds_the_error_of_the_family(inference: ModuleType) -> None:
    rng = np.random.default_rng(1)
    families = rng.uniform(size=(4000, 10))
    wrong = [
        min(inference.holm(dict(enumerate(family))).values()) < 0.05  # type: ignore[arg-type]
        for family in families
    ]
    assert np.mean(wrong) == pytest.approx(0.05, abs=0.012)


def test_isotonic_is_that_of_sklearn(inference: ModuleType) -> None:
    from sklearn.isotonic import IsotonicRegression

    values = np.random.default_rng(2).normal(size=12) + np.linspace(0, 2, 12)
    known = IsotonicRegression().fit_transform(np.arange(12), values)
    assert inference.isotonic(values) == pytest.approx(known)


def test_equal_gain_is_read_off_between_the_points_around_it(inference: ModuleType) -> None:
    gains, values = [0.0, 0.2, 0.6, 1.0], [0.0, -0.1, -0.3, -0.9]
    assert inference.at_gain(gains, values, 0.4) == pytest.approx(-0.2)
    assert inference.at_gain(gains, values, 0.2) == pytest.approx(-0.1)
    assert inference.at_gain(gains, values, 1.0) == pytest.approx(-0.9)
    assert math.isnan(inference.at_gain(gains, values, 1.1))


def test_equal_gain_on_a_path_that_falls_back(inference: ModuleType) -> None:
    """Gains .5 and .3 become .4 each; the level is first reached on the way there."""
    found = inference.at_gain([0.0, 0.5, 0.3, 0.8], [0.0, -1.0, -2.0, -3.0], 0.2)
    assert found == pytest.approx(-0.5)
    assert math.isnan(inference.at_gain([0.0, -0.2, -0.1], [0.0, -1.0, -2.0], 0.1))
    with pytest.raises(ValueError, match="gain and a value"):
        inference.at_gain([0.0], [0.0], 0.1)
