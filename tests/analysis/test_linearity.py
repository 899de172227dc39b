"""Linear connectivity: ends, straight lines, shrinking, and no verdict where nothing differs."""

from __future__ import annotations

import numpy as np
import pytest

from speechft.analysis.linearity import Products, connectivity

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 5, 40))
GROUPS = np.arange(5)


def products(u: np.ndarray, a: np.ndarray = A, b: np.ndarray = B) -> Products:
    pairs = ((u, u), (u, a), (u, b), (a, a), (a, b), (b, b))
    return Products(*((one * other).sum(1) for one, other in pairs))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_on_the_line(alpha: float) -> None:
    found = connectivity(products(0.8 * ((1 - alpha) * A + alpha * B)), alpha, GROUPS)
    assert found["cosine"].value == pytest.approx(1.0)
    assert found["coefficient"].value == pytest.approx(0.8)
    assert found["ratio"].value == pytest.approx(0.0, abs=1e-9)


def test_off_the_line_is_the_cosine_with_interpolated_features() -> None:
    u, v = RNG.normal(size=A.shape), 0.75 * A + 0.25 * B
    norms = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
    expected = (u * v).sum(1) / norms
    found = connectivity(products(u), 0.25, GROUPS)
    assert found["cosine"].value == pytest.approx(expected.mean())
    ends = (A * B).sum(1) / np.linalg.norm(A, axis=1) / np.linalg.norm(B, axis=1)
    assert found["baseline"].value == pytest.approx(ends.mean())
    assert found["ratio"].value == pytest.approx((1 - expected.mean()) / (1 - ends.mean()))
    turned = connectivity(products(-u), 0.25, GROUPS)
    assert turned["cosine"].value == pytest.approx(-expected.mean()), "signed"


def test_no_verdict_where_the_ends_are_one() -> None:
    near = A + 0.01 * B
    found = connectivity(products(A, A, near), 0.5, GROUPS)
    assert found["ratio"].value is None
    assert found["cosine"].value == pytest.approx(1.0, abs=1e-3)
    silent = np.zeros_like(A)
    assert connectivity(products(silent, silent, silent), 0.5, GROUPS)["cosine"].value is None
