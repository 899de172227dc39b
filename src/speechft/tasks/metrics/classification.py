"""Accuracy of classification."""

from __future__ import annotations

from collections.abc import Sequence


def accuracy(references: Sequence[object], predictions: Sequence[object]) -> float:
    """Return the share of predictions that equal their reference.

    Raises:
        ValueError: Different numbers of items, or none.
    """
    if not references:
        raise ValueError("there are no items: accuracy is not defined")
    return sum(r == p for r, p in zip(references, predictions, strict=True)) / len(references)
