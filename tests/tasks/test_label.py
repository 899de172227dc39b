"""Classification of utterances by one label."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from helpers import cut_of
from speechft.errors import DataError
from speechft.tasks.label import classification

TASK = classification("style", "speaking style", label="style")
CUTS = [cut_of(f"cut-{s}", labels={"style": s}) for s in ("slow", "fast", "slow", "odd")]


def test_classes_are_the_sorted_labels() -> None:
    vocabulary = TASK.vocabulary(CUTS)
    assert vocabulary.symbols == ("fast", "odd", "slow")
    assert [TASK.target(cut, vocabulary, 1).tolist() for cut in CUTS] == [[2], [0], [2], [1]]
    assert TASK.head(5, vocabulary, None)(torch.zeros(2, 3, 5), torch.ones(2)).shape == (2, 3)


def test_speakers_are_labels_too() -> None:
    task = classification("sid", "speakers", label="speaker")
    vocabulary = task.vocabulary([cut_of("a", speaker="ann"), cut_of("b", speaker="bob")])
    assert vocabulary.symbols == ("ann", "bob")


def test_losses_and_hits() -> None:
    vocabulary = TASK.vocabulary(CUTS)
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    targets = [TASK.target(cut, vocabulary, 1) for cut in CUTS]
    losses = TASK.losses(logits, torch.ones(4), targets, vocabulary)
    for row, target in enumerate(targets):
        torch.testing.assert_close(losses[row], F.cross_entropy(logits[row], target[0]))
    [item] = TASK.items(CUTS[1:2], [0], targets[1:2], vocabulary)
    assert (item.amount, item.total, item.prediction, item.reference) == (1, 1, "fast", "fast")
    [item] = TASK.items(CUTS[1:2], [2], targets[1:2], vocabulary)
    assert (item.amount, item.prediction, item.reference) == (0, "slow", "fast")


def test_one_value_is_not_a_task() -> None:
    with pytest.raises(DataError, match=r"at least two values of 'style'.*found 1"):
        TASK.vocabulary(CUTS[:1])


def test_missing_and_unseen_labels_are_refused() -> None:
    vocabulary = TASK.vocabulary(CUTS)
    with pytest.raises(DataError, match="cut bare has no style, which task style needs"):
        TASK.target(cut_of("bare"), vocabulary, 1)
    with pytest.raises(DataError, match="label 'new' does not occur in the training split"):
        TASK.target(cut_of("other", labels={"style": "new"}), vocabulary, 1)
