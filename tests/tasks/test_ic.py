"""Intent classification over several slots."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lhotse.cut import Cut

from helpers import cut_of
from speechft.errors import DataError
from speechft.tasks.ic import IC, slot_ranges

TASK = IC


def asking(intent: str) -> Cut:
    return cut_of("asked", labels={"intent": intent})


CUTS = [asking(i) for i in ("bring/lamp/none", "activate/lamp/kitchen", "bring/shoes/kitchen")]


def test_vocabulary_holds_the_values_of_every_slot() -> None:
    vocabulary = TASK.vocabulary(CUTS)
    assert vocabulary.symbols == (
        *("0:activate", "0:bring", "1:lamp", "1:shoes", "2:kitchen", "2:none"),
    )
    assert slot_ranges(vocabulary) == [(0, 2), (2, 4), (4, 6)]
    assert TASK.target(CUTS[0], vocabulary, 1).tolist() == [1, 2, 5]


def test_many_slots_keep_their_order() -> None:
    values = "/".join("abcdefghijkl")
    vocabulary = TASK.vocabulary([asking(values), asking(values.upper())])
    ranges = slot_ranges(vocabulary)
    assert len(ranges) == 12
    for slot, (first, last) in enumerate(ranges):
        assert {s.partition(":")[0] for s in vocabulary.symbols[first:last]} == {str(slot)}


def test_loss_of_many_slots_is_that_of_each() -> None:
    values = "/".join("abcdefghijkl")
    cuts = [asking(values), asking(values.upper())]
    vocabulary = TASK.vocabulary(cuts)
    logits = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))
    targets = [TASK.target(cut, vocabulary, 1) for cut in cuts]
    expected = torch.stack(
        [
            F.cross_entropy(
                logits[:, first:last],
                torch.stack([target[slot] for target in targets]) - first,
                reduction="none",
            )
            for slot, (first, last) in enumerate(slot_ranges(vocabulary))
        ]
    ).sum(0)
    torch.testing.assert_close(TASK.losses(logits, torch.ones(2), targets, vocabulary), expected)


def test_a_slot_without_a_value_is_refused() -> None:
    with pytest.raises(DataError, match="intent 'bring//none' has a slot without a value"):
        TASK.vocabulary([asking("bring//none")])


def test_loss_is_the_sum_over_slots() -> None:
    vocabulary = TASK.vocabulary(CUTS)
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    targets = [TASK.target(cut, vocabulary, 1) for cut in CUTS]
    losses = TASK.losses(logits, torch.ones(3), targets, vocabulary)
    for row, target in enumerate(targets):
        parts = [
            F.cross_entropy(logits[row, first : first + 2], target[slot] - first)
            for slot, first in enumerate((0, 2, 4))
        ]
        torch.testing.assert_close(losses[row], torch.stack(parts).sum())


def test_only_all_slots_right_is_a_hit() -> None:
    vocabulary = TASK.vocabulary(CUTS)
    target = TASK.target(CUTS[0], vocabulary, 1)
    logits = torch.full((2, 6), -1.0)
    logits[0, [1, 2, 5]] = 1.0
    logits[1, [1, 3, 5]] = 1.0
    predictions = TASK.predict(logits, torch.ones(2), vocabulary)
    items = TASK.items([CUTS[0]] * 2, predictions, [target] * 2, vocabulary)
    assert [item.amount for item in items] == [1.0, 0.0]
    assert items[1].prediction == "bring/shoes/none"
    assert items[1].reference == "bring/lamp/none"


def test_different_numbers_of_slots_are_refused() -> None:
    with pytest.raises(DataError, match="same number of slots"):
        TASK.vocabulary([*CUTS, asking("bring/lamp")])
    vocabulary = TASK.vocabulary(CUTS)
    for intent, count in (("bring/lamp", 2), ("bring/lamp/none/now", 4)):
        with pytest.raises(DataError, match=f"{count} intent slots, the training split has 3"):
            TASK.target(asking(intent), vocabulary, 1)


def test_unseen_and_missing_values_are_refused() -> None:
    vocabulary = TASK.vocabulary(CUTS)
    with pytest.raises(DataError, match="label '1:door' does not occur in the training split"):
        TASK.target(asking("bring/door/none"), vocabulary, 1)
    with pytest.raises(DataError, match="cut silent has no intent"):
        TASK.target(cut_of("silent"), vocabulary, 1)
    with pytest.raises(DataError, match="every utterance needs an intent"):
        TASK.vocabulary([])
