"""Tensors in files without a name, and which frames are kept where there is no room for all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from speechft.features.frame_plan import FramePlan
from speechft.features.kept import Picked, TensorRows, TensorsByName, Timed


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_tensors_come_back(kind: torch.dtype) -> None:
    rows, known = TensorRows(ragged=1), list[torch.Tensor]()
    for frames in (3, 0, 5, 3):
        known.append((10 * torch.randn(2, frames, 4)).to(kind))
        assert rows.add(known[-1]) == len(known) - 1
    known.append(torch.ones(7, 2))  # another kind among them
    rows.add(known[-1])
    for one, two in zip(rows, known, strict=True):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)
    assert len(rows[1:3]) == 2
    with pytest.raises(IndexError):
        rows[5]


def test_tensors_have_names_and_may_share_a_row() -> None:
    held = TensorsByName()
    held["a"] = torch.ones(2)
    held.name_row("b", held.add_row(torch.zeros(3)))
    held["a"] = torch.full((4,), 2.0)
    assert list(held) == ["a", "b"]
    assert [len(t) for t in held.picked(["b", "a", "b"])] == [3, 4, 3]
    assert len(held.picked(["b", "a"])[0:1]) == 1
    with pytest.raises(KeyError):
        held["c"]
    with pytest.raises(TypeError):
        del held["a"]
    timed = Timed()
    timed.add("x", torch.ones(2, 2), 640)
    assert (list(timed), len(timed), timed["x"][1]) == (["x"], 1, 640)


def test_frames_that_are_read_often_go_before_others() -> None:
    plan = FramePlan(often=60, seldom=50, room=80, rare={"t1", "t2", "t3"})
    assert [plan.take(name, 20) for name in ("t1", "a", "t2", "b", "c")] == [
        True,
        True,
        False,
        True,
        True,
    ]
    assert FramePlan(100, 50, 80, {"t"}).take("t", 1) is False
    tight = FramePlan(100, 0, 50)
    assert [tight.take(name, size) for name, size in (("a", 40), ("b", 30), ("c", 10))] == [
        True,
        False,
        True,
    ]


def test_the_plan_says_what_is_kept_and_what_it_costs() -> None:
    place = Path("/work")
    small = FramePlan(10, 10, 100)
    assert small.text(place, 500) is None
    assert small.cost(60.0, 3.0, 3600.0) is None
    large = FramePlan(3_000_000_000, 0, 10**10)
    assert large.text(place, 2 * 10**10) == (
        "frames take 3.0 GB; /work has 20.0 GB free and holds them while this goes on"
    )
    tight = FramePlan(6 * 10**9, 2 * 10**9, 2 * 10**9)
    told = tight.text(place, 4 * 10**9)
    assert told is not None
    assert "frames take 8.0 GB; /work has 4.0 GB free and holds 2.0 GB" in told
    assert "6.0 GB are computed again" in told
    assert tight.cost(60.0, 3.0, 7200.0) == (
        "a minute of audio takes 3 s: about 6 min for these features, and up to 4 min more for "
        "each epoch of a task on frames"
    )


@pytest.mark.parametrize("count", [1, 40_000])
def test_some_are_stacked_as_they_come_one_by_one(count: int) -> None:
    rows = TensorRows()
    for number in range(count):
        rows.add(torch.tensor([[number, 1.5], [2.5, -number]]))
    picked = Picked(rows, range(count - 1, -1, -1))
    chosen = [0, count // 2, 0, count - 1]
    assert torch.equal(picked.stack(chosen), torch.stack([picked[n] for n in chosen]))


def test_tensors_of_several_kinds_are_stacked_if_those_chosen_agree() -> None:
    rows = TensorRows()
    for tensor in (torch.ones(2), torch.ones(3), torch.zeros(2), torch.zeros(2).half()):
        rows.add(tensor)
    assert Picked(rows, [2, 1, 0]).stack([0, 2]).tolist() == [[0, 0], [1, 1]]
