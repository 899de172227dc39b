"""Phone classification of frames."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from lhotse.cut import Cut

from helpers import TIMING, cut_of
from speechft.data.labels import UNKNOWN
from speechft.errors import DataError
from speechft.tasks.pc import PC

TASK = PC.at(TIMING)


def aligned(*phones: tuple[str, int, int]) -> Cut:
    """Return a cut with phones given in tenths of a millisecond."""
    return cut_of("aligned", phones=[(p, a / 10_000, b / 10_000) for p, a, b in phones])


def slow_target(phones: list[tuple[str, int, int]], frames: int) -> list[str | None]:
    """Return the phone at the centre of each frame, in whole tenths of a millisecond."""
    result: list[str | None] = []
    for frame in range(frames):
        centre = 200 * frame + 125
        found = [phone for phone, start, end in phones if start <= centre < end]
        result.append(found[0] if found else None)
    return result


@given(
    st.lists(st.tuples(st.sampled_from("ABC"), st.integers(1, 900)), min_size=1, max_size=12),
    st.integers(0, 700),
    st.integers(1, 60),
)
def test_targets_are_those_of_a_slow_loop(
    pieces: list[tuple[str, int]], start: int, frames: int
) -> None:
    phones = []
    for phone, duration in pieces:
        phones.append((phone, start, start + duration))
        start += duration
    vocabulary = TASK.vocabulary([aligned(("A", 0, 1), ("B", 1, 2), ("C", 2, 3))])
    target = TASK.target(aligned(*phones), vocabulary, frames).tolist()
    found = [None if number == -100 else vocabulary.symbols[number] for number in target]
    assert found == slow_target(phones, frames)


@pytest.mark.parametrize("frame", range(0, 400, 7))
def test_phone_that_starts_at_a_centre_owns_that_frame(frame: int) -> None:
    edge = 200 * frame + 125
    cut = aligned(("A", 0, edge), ("B", edge, edge + 200))
    vocabulary = TASK.vocabulary([cut])
    target = TASK.target(cut, vocabulary, frame + 3).tolist()
    assert vocabulary.decode(target[:frame]) == ["A"] * frame
    assert vocabulary.symbols[target[frame]] == "B"
    assert target[frame + 1 :] == [-100, -100]


def test_losses_are_means_over_labelled_frames() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 6, 4)
    targets = [
        torch.tensor([1, 2, -100, 3, -100, 1]),
        torch.tensor([-100, 2, 2]),
        torch.tensor([-100, -100]),
    ]
    losses = TASK.losses(logits, torch.tensor([6, 3, 2]), targets, TASK.vocabulary(_cuts()))
    for row, target in enumerate(targets[:2]):
        expected = F.cross_entropy(logits[row, : len(target)], target, ignore_index=-100)
        torch.testing.assert_close(losses[row], expected)
    assert float(losses[2]) == 0.0


def test_hits_are_counted_over_labelled_frames() -> None:
    cut = aligned(("A", 0, 400), ("B", 600, 1_000))
    vocabulary = TASK.vocabulary(_cuts())
    target = TASK.target(cut, vocabulary, 6)
    logits = F.one_hot(torch.tensor(vocabulary.encode("AAABAA", "here")), len(vocabulary)).float()
    [prediction] = TASK.predict(logits[None], torch.tensor([6]), vocabulary)
    [item] = TASK.items([cut], [prediction], [target], vocabulary)
    assert (item.prediction, item.reference) == ("A A B A", "A A B B")
    assert (item.amount, item.total) == (3, 4)


def test_unseen_phones_always_count_as_wrong() -> None:
    cut = aligned(("A", 0, 400), ("X", 400, 800))
    vocabulary = TASK.vocabulary(_cuts())
    target = TASK.target(cut, vocabulary, 4)
    guess = torch.tensor(vocabulary.encode(["A", "A", UNKNOWN, UNKNOWN], "here"))
    [item] = TASK.items([cut], [guess], [target], vocabulary)
    assert item.amount == 2


def test_alignment_is_needed() -> None:
    with pytest.raises(DataError, match="holds no aligned phones"):
        TASK.vocabulary([cut_of("silent")])


def _cuts() -> list[Cut]:
    return [aligned(("A", 0, 100), ("B", 100, 200), ("C", 200, 300))]
