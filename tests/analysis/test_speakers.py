"""Speaker EER against the one of the tasks, and nearest neighbours against a slow loop."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from speechft.analysis import speakers
from speechft.analysis.neighbours import neighbours_accuracy
from speechft.analysis.speakers import pairs_of, speaker_eer
from speechft.tasks.metrics import equal_error_rate

RNG = np.random.default_rng(0)
NAMES = np.arange(12).repeat(5)
MEANS = RNG.normal(size=(12, 10)).repeat(5, 0) + 0.9 * RNG.normal(size=(60, 10))


def test_the_rate_is_that_of_the_tasks() -> None:
    first, second = pairs_of(60, 0)
    centred = MEANS - MEANS.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    scores = np.round((centred[first] * centred[second]).sum(1), 12)
    expected = 100 * equal_error_rate((NAMES[first] == NAMES[second]).astype(int), scores)
    found = speaker_eer(MEANS, NAMES)
    assert found.value == pytest.approx(expected, abs=1e-6)
    assert found.n == 60 * 59 // 2
    low, high = found.interval() or (0.0, 0.0)
    assert low < expected < high


def test_ends_and_chance() -> None:
    apart = np.eye(12)[NAMES]
    assert speaker_eer(apart, NAMES).value == pytest.approx(0)
    noise = speaker_eer(RNG.normal(size=(60, 400)), NAMES)
    low, high = noise.interval() or (0.0, 0.0)
    assert low <= 50 <= high
    assert speaker_eer(apart, np.zeros(60, int)).value is None
    assert speaker_eer(np.ones((60, 4)), NAMES).value == pytest.approx(50), "silence: all the same"
    assert speaker_eer(MEANS[:1], NAMES[:1]).value is None


def test_pairs_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speakers, "MOST_PAIRS", 100)
    for count in (60, 3000):
        first, second = pairs_of(count, 0)
        assert len(first) == 100
        assert (first < second).all()
        assert len({*zip(first.tolist(), second.tolist(), strict=True)}) == 100
        np.testing.assert_array_equal(pairs_of(count, 0)[0], first)


@pytest.mark.parametrize("apart", [False, True])
def test_neighbours_are_those_of_a_slow_loop(apart: bool) -> None:
    labels = RNG.integers(3, size=60)
    labels[7] = -1
    values = (MEANS - MEANS.mean(0)) / MEANS.std(0)
    right = []
    for one in range(60):
        if labels[one] < 0:
            continue
        others = [
            n
            for n in range(60)
            if n != one and labels[n] >= 0 and not (apart and NAMES[n] == NAMES[one])
        ]
        near = [values[one] @ values[n] / np.linalg.norm(values[n]) for n in others]
        votes = [int(labels[others[n]]) for n in np.argsort(near)[::-1][:10]]
        right.append(Counter(votes).most_common(1)[0][0] == labels[one])
    found = neighbours_accuracy(MEANS, labels, NAMES, apart=apart)
    assert found.value == pytest.approx(100 * np.mean(right))
    assert found.n == 59


def test_neighbours_at_the_ends() -> None:
    assert neighbours_accuracy(np.eye(12)[NAMES], NAMES, NAMES, apart=False, k=4).value == 100
    assert neighbours_accuracy(np.eye(12)[NAMES], NAMES, NAMES, apart=True, k=4).value == 0
    alone = neighbours_accuracy(MEANS[:5], NAMES[:5], NAMES[:5], apart=True)
    assert alone.value is None, "no other speaker"
