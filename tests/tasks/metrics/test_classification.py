"""Accuracy."""

from __future__ import annotations

import pytest

from speechft.tasks.metrics import accuracy


def test_accuracy_is_the_share_of_hits() -> None:
    assert accuracy(["a", "b", "a", "c"], ["a", "a", "a", "b"]) == 0.5
    assert accuracy([(1, 2)], [(1, 2)]) == 1.0


def test_accuracy_needs_pairs() -> None:
    with pytest.raises(ValueError, match="no items"):
        accuracy([], [])
    with pytest.raises(ValueError, match="shorter"):
        accuracy([1, 2], [1])
