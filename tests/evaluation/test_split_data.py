"""Batches of frames as probes take them: padded with zeros, in memory that the next one gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from speechft.data.labels import Vocabulary
from speechft.evaluation import split_data
from speechft.evaluation.split_data import SplitData
from speechft.tasks import find_task

LENGTHS = (5, 9, 2, 7, 9, 1)


class Kept:
    """Stands for features: (2, T, 3) states of cuts that are numbers."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.states = [torch.randn(2, length, 3, generator=draw) for length in LENGTHS]

    def length(self, cut: int) -> int:
        return LENGTHS[cut]

    def rows(self, cuts: list[int]) -> list[Tensor]:
        return [self.states[cut].half() for cut in cuts]


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> SplitData:
    task: Any = find_task("pr")
    monkeypatch.setattr(type(task), "target", lambda *_: torch.tensor([1]))
    monkeypatch.setattr(split_data.Cuts, "of", lambda cuts: cuts)
    kept: Any = Kept()
    cuts: Any = list(range(len(LENGTHS)))
    return SplitData(task, kept, cuts, Vocabulary(("A",)))


def test_batches_are_padded_with_zeros_whatever_was_before(data: SplitData) -> None:
    kept: Any = data._features
    for chosen in ([1, 3], [2], [0, 1, 2, 3, 4, 5], [5, 2], [4, 0, 1]):
        states, lengths, _ = data.batch(chosen, None)
        assert lengths.tolist() == [LENGTHS[n] for n in chosen]
        wanted = torch.zeros(2, len(chosen), max(lengths), 3)
        for place, number in enumerate(chosen):
            wanted[:, place, : LENGTHS[number]] = kept.states[number].half().float()
        assert states.is_contiguous()
        torch.testing.assert_close(states, wanted, rtol=0, atol=0)
        states.fill_(torch.nan)  # what a batch leaves behind is in no later one


def test_windows_of_frames(data: SplitData) -> None:
    kept: Any = data._features
    states, lengths, _ = data.batch([1, 2], None, [3, 4, 0, 2])
    assert lengths.tolist() == [4, 2]
    torch.testing.assert_close(states[:, 0], kept.states[1][:, 3:7].half().float(), rtol=0, atol=0)
    assert (states[:, 1, 2:] == 0).all()


def test_small_batches_share_memory_and_large_ones_do_not(
    data: SplitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {data.batch([n], None)[0].data_ptr() for n in (1, 0, 2)}
    assert len(places) == 1
    monkeypatch.setattr(split_data, "_HELD_BYTES", 8)
    first, second = (data.batch([1], None)[0] for _ in range(2))
    assert first.data_ptr() != second.data_ptr()
