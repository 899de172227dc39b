"""Error rates of verification against s3prl and a slow count; see oracle/superb/07_metrics."""

from __future__ import annotations

import numpy as np
import pytest

from oracle_data import entries
from speechft.tasks import metrics

CASES = entries("superb/07_metrics/eer_mindcf.json")


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_values_are_those_of_s3prl(case: dict) -> None:
    labels, scores = case["labels"], case["scores"]
    if len(set(labels)) == 1:
        for function in (metrics.equal_error_rate, metrics.min_dcf):
            with pytest.raises(ValueError, match="at least one of each"):
                function(labels, scores)
        return
    expected = case["compute_eer"]["value"]
    found = metrics.equal_error_rate_and_threshold(labels, scores)
    assert found == pytest.approx((expected["value"], expected["threshold"]), abs=1e-9)
    for name, prior in (("compute_minDCF", 0.01), ("compute_minDCF_p0.5", 0.5)):
        expected = case[name]["value"]
        found = metrics.min_dcf_and_threshold(labels, scores, p_target=prior)
        assert found == pytest.approx((expected["value"], expected["threshold"]), abs=1e-12)


def test_separated_gaussians_have_the_rate_of_theory() -> None:
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200_000)
    scores = rng.normal(labels * 2.0, 1.0)
    assert metrics.equal_error_rate(labels, scores) == pytest.approx(norm.cdf(-1.0), abs=0.002)


def test_scores_must_be_finite_and_as_many() -> None:
    with pytest.raises(ValueError, match="NaN"):
        metrics.eer([1, 0], [float("nan"), 1.0])
    with pytest.raises(ValueError, match="2 labels but 3 scores"):
        metrics.min_dcf([1, 0], [0.0, 1.0, 2.0])


def test_the_costs_of_the_field_stand_where_none_are_given() -> None:
    """A false alarm among 1,000 others, before the one target, costs beta / 1000."""
    labels = [0, 1, *[0] * 999]
    scores = [2.0, 1.0, *[0.0] * 999]
    value, threshold = metrics.verification.mtwv_and_threshold(["q"] * 1001, labels, scores)
    assert value == pytest.approx(1 - (1 - 0.0008) / (100 * 0.0008) / 1000, abs=1e-12)
    assert threshold == 1.0
    nothing = metrics.verification.mtwv_and_threshold(["q"] * 2, [0, 1], [2.0, 1.0])
    assert nothing == (0.0, float("inf"))


def test_the_cheapest_cost_is_that_of_the_better_trivial_answer() -> None:
    """With P(target) 0.9 all are accepted: P_fa 1 at 0.1 over the cost of doing just that."""
    labels, scores = [1, 0, 1, 0], [1.0, 2.0, 3.0, 4.0]
    assert metrics.min_dcf(labels, scores, p_target=0.9) == pytest.approx(1.0)
