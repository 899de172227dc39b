"""CCA with labels: 1 for what can be read off, 0 for noise, and the eigenproblem between."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import eigh

from speechft.analysis import cca
from speechft.analysis.cca import label_cca

RNG = np.random.default_rng(0)
NAMES = RNG.choice(list("abcdefgh"), 1600)
ONE_HOT = (NAMES[:, None] == np.array(list("abcdefgh"))).astype(float)
FITTED = RNG.random(1600) < 0.5
GROUPS = RNG.integers(12, size=1600)


def test_labels_that_are_there_linearly() -> None:
    features = np.hstack([ONE_HOT @ RNG.normal(size=(8, 20)), np.ones((1600, 2))])
    found = label_cca(features, NAMES.tolist(), FITTED, GROUPS)
    assert found.value == pytest.approx(1, abs=1e-3)
    rotation, _ = np.linalg.qr(RNG.normal(size=(22, 22)))
    turned = label_cca(5 * features @ rotation - 3, NAMES.tolist(), FITTED, GROUPS)
    assert turned.value == pytest.approx(1, abs=1e-3)


def test_noise_of_many_dimensions_is_zero_within_its_interval() -> None:
    found = label_cca(RNG.normal(size=(1600, 200)), NAMES.tolist(), FITTED, GROUPS)
    low, high = found.interval() or (1.0, 1.0)
    assert low <= 0.01
    assert high >= -0.01
    assert abs(found.value or 1) < 0.05


def test_correlations_are_those_of_the_eigenproblem(monkeypatch: pytest.MonkeyPatch) -> None:
    """All variance, no ridge, measured where it was fitted: the textbook's canonical directions."""
    monkeypatch.setattr(cca, "RIDGE", 0.0)
    monkeypatch.setattr(cca, "KEPT_VARIANCE", 1.0)
    x = ONE_HOT[:, :5] @ RNG.normal(size=(5, 6)) + RNG.normal(size=(1600, 6))
    twice = np.vstack([x, x])
    names, half = [*NAMES, *NAMES], np.arange(3200) < 1600
    found = label_cca(twice, names, half, np.zeros(3200, int)).value
    c, y = x - x.mean(0), (ONE_HOT - ONE_HOT.mean(0))[:, :7]  # the eighth is the rest
    between = c.T @ y @ np.linalg.solve(y.T @ y, y.T @ c)
    squares, directions = eigh(between, c.T @ c)
    variates = c @ directions
    weights = np.abs(variates.T @ c).sum(1) / np.linalg.norm(variates, axis=0)
    expected = weights @ np.sqrt(squares.clip(0)) / weights.sum()
    assert found == pytest.approx(expected, rel=1e-6)


def test_too_little_to_fit() -> None:
    x = RNG.normal(size=(10, 4))
    assert label_cca(x, ["a"] * 10, np.arange(10) < 5, np.zeros(10, int)).value is None
    assert label_cca(x, list("abcdefghij"), np.arange(10) < 5, np.zeros(10, int)).value is None
    still = label_cca(np.ones((1600, 4)), NAMES.tolist(), FITTED, GROUPS)
    assert still.value is None
