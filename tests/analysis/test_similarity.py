"""Cosine and CKA: known invariances, the slow sum over quadruples, and coverage."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from speechft.analysis.similarity import (
    batches_of,
    centred_cosine,
    cka,
    cosine_of_frames,
    gram,
    hsic,
)

RNG = np.random.default_rng(0)


def frames(utterances: int, dim: int, each: int = 8) -> tuple[np.ndarray, np.ndarray]:
    return RNG.normal(size=(utterances * each, dim)), np.arange(utterances).repeat(each)


def test_hsic_is_the_sum_over_quadruples() -> None:
    """Song et al. 2012, theorem 2: an average over all (i, j, q, r) that differ."""
    x, y = RNG.normal(size=(7, 3)), RNG.normal(size=(7, 2))
    k, other = x @ x.T, y @ y.T
    total, count = 0.0, 0
    for i, j, q, r in permutations(range(7), 4):
        total += k[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q])
        count += 1
    assert hsic(gram(x), gram(y)) == pytest.approx(total / count)


def test_cka_does_not_see_rotation_scale_and_shift() -> None:
    x, utterances = frames(64, 40)
    rotation, _ = np.linalg.qr(RNG.normal(size=(40, 40)))
    batches = batches_of(utterances, 0)
    for y in (x, 3 * x @ rotation + 5, np.hstack([x, np.zeros((512, 9))])):
        found = cka(x, y, batches, utterances)
        assert found.value == pytest.approx(1.0)
        assert found.interval() == pytest.approx((1.0, 1.0))
    half = cka(x, x + RNG.normal(size=x.shape), batches, utterances)
    other = cka(x @ rotation, 2 * (x + 0), batches, utterances)
    assert 0.4 < (half.value or 0) < 0.6
    assert other.value == pytest.approx(1.0)


def test_independent_noise_is_zero_within_its_interval() -> None:
    """Wider than a batch has frames, where the biased estimate would be about 0.75."""
    x, utterances = frames(64, 600)
    y, _ = frames(64, 600)
    found = cka(x, y, batches_of(utterances, 0), utterances // 4)
    low, high = found.interval() or (1.0, 1.0)
    assert low <= 0 <= high
    assert high - low < 0.05
    k, other = x[:256] @ x[:256].T, y[:256] @ y[:256].T
    centre = np.eye(256) - 1 / 256
    k, other = centre @ k @ centre, centre @ other @ centre
    assert (k * other).sum() / np.sqrt((k * k).sum() * (other * other).sum()) > 0.6


def test_without_a_speaker_is_cka_of_the_others() -> None:
    x, utterances = frames(70, 12)
    y = x + RNG.normal(size=x.shape)
    speakers = utterances % 5
    batches = batches_of(utterances, 3)
    found = cka(x, y, batches, speakers)
    for speaker in range(5):
        left = [batch[speakers[batch] != speaker] for batch in batches]
        expected = cka(x, y, left, speakers).value
        assert found.without[speaker] == pytest.approx(expected)


def test_coverage_of_the_interval_of_cka() -> None:
    """A common part of variance v in unit noise: CKA of (shared, shared + noise) is known."""
    rng = np.random.default_rng(5)
    speakers, dim, noise = np.arange(20).repeat(16), 6, 0.5
    batches, held = [np.arange(320)], 0
    # with C the covariances, CKA = |C_xy|^2 / (|C_xx| |C_yy|) in Frobenius norms
    scales = np.array([3.0, 2.0, 1.0, 1.0, 0.5, 0.5])
    c_xx, c_yy = scales**2, scales**2 + noise**2
    truth = (c_xx**2).sum() / np.sqrt((c_xx**2).sum() * (c_yy**2).sum())
    for _ in range(120):
        x = rng.normal(size=(320, dim)) * scales
        found = cka(x, x + noise * rng.normal(size=(320, dim)), batches, speakers)
        low, high = found.interval() or (0.0, 0.0)
        held += low <= truth <= high
    assert held / 120 >= 0.88


def test_batches_are_whole_utterances_of_enough_frames() -> None:
    utterances = np.arange(100).repeat(RNG.integers(1, 9, size=100))
    batches = batches_of(utterances, 0, size=50)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(utterances)))
    assert all(len(batch) >= 50 for batch in batches)
    seen = [set(utterances[batch].tolist()) for batch in batches]
    assert sum(map(len, seen)) == 100
    assert [b.tolist() for b in batches_of(utterances, 0, size=50)] == [b.tolist() for b in batches]
    assert [len(b) for b in batches_of(np.zeros(7, int), 0)] == [7]
    assert batches_of(np.empty(0, int), 0) == []


def test_an_outlier_dimension_hides_in_the_raw_cosine_alone() -> None:
    x, utterances = frames(40, 30)
    y, _ = frames(40, 30)
    x[:, 0] += 100
    y[:, 0] += 100
    groups = np.arange(40)
    assert cosine_of_frames(x, y).mean() > 0.99
    assert abs(centred_cosine(x, y, utterances, groups).value or 1) < 0.1
    same = centred_cosine(x, 2 * x + 7, utterances, groups)
    assert same.value == pytest.approx(1.0)


def test_silence_has_no_cosine_and_no_cka() -> None:
    x, utterances = frames(8, 5)
    still = np.ones_like(x)
    assert np.isnan(cosine_of_frames(x, np.zeros_like(x))).all()
    assert centred_cosine(x, still, utterances, np.arange(8)).value is None
    assert cka(x, still, batches_of(utterances, 0), utterances).value is None
    assert cka(x[:3], x[:3], [np.arange(3)], np.zeros(3, int)).value is None
