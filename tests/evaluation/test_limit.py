"""A quick look sees the same classes in every split, whatever the order of the corpus."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from helpers import cut_of
from speechft.data.labels import label_of
from speechft.evaluation.limit import limited

if TYPE_CHECKING:
    from lhotse.cut import Cut


def split(name: str, **counts: int) -> list[Cut]:
    return [
        cut_of(f"{name}-{label}{n}", 1600, labels={"word": label} if label != "none" else {})
        for label, count in counts.items()
        for n in range(count)
    ]


def word(cut: Cut) -> str | None:
    return label_of(cut, "word")


SPLITS = (
    split("train", a=9, b=9, c=9, only=9),
    split("dev", b=2, a=2, c=5),
    split("test", c=1, b=4, a=4, new=4),
)


def test_classes_take_turns_until_they_are_used_up() -> None:
    train, dev, test = limited(SPLITS, 8, word)
    assert Counter(map(word, train)) == {"a": 2, "b": 2, "c": 2, "only": 2}
    assert Counter(map(word, dev)) == {"a": 2, "b": 2, "c": 4}
    counts = Counter(map(word, test))
    assert (counts["c"], counts["new"]) == (1, 2)
    assert sorted((counts["a"], counts["b"])) == [2, 3], "the last place is one of the two's"


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_few_places_go_to_classes_that_all_splits_have(limit: int) -> None:
    chosen = [set(map(word, cuts)) for cuts in limited(SPLITS, limit, word)]
    assert chosen[0] == chosen[1] == chosen[2]
    assert chosen[0] <= {"a", "b", "c"}
    assert len(chosen[0]) == limit


def test_the_order_of_the_corpus_does_not_matter_and_more_only_adds() -> None:
    before: list[set[str]] = [set(), set(), set()]
    for limit in (1, 3, 5, 9, 100):
        chosen = limited(SPLITS, limit, word)
        turned = limited([cuts[::-1] for cuts in SPLITS], limit, word)
        for number, cuts in enumerate(chosen):
            ids = [cut.id for cut in cuts]
            assert ids == [cut.id for cut in SPLITS[number] if cut.id in set(ids)], "in order"
            assert set(ids) == {cut.id for cut in turned[number]}
            assert set(ids) >= before[number]
            assert len(ids) == min(limit, len(SPLITS[number]))
            before[number] = set(ids)


def test_cuts_without_a_label_come_last_and_no_limit_takes_all() -> None:
    mixed = split("x", none=5, a=1)
    [chosen] = limited([mixed], 2, word)
    assert Counter(map(word, chosen)) == {"a": 1, None: 1}
    [unlabelled] = limited([split("x", none=5)], 3, word)
    assert len(unlabelled) == 3
    assert limited(SPLITS, None, word) == [list(cuts) for cuts in SPLITS]
    assert limited([[], mixed], 2, word)[0] == []
