"""Probes trained side by side against the same probes trained alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechft.evaluation.grid import Probe, ProbeGrid
from speechft.tasks.heads import FrameHead, UtteranceHead

STATES, DIM, CLASSES, STEPS = 4, 10, 6, 20
RATES = (1e-3, 1e-2, 3e-2)


def make(kind: type[nn.Module], dtype: torch.dtype = torch.float32) -> Callable[[], Probe]:
    return lambda: Probe(STATES, kind(DIM, CLASSES, 5)).to(dtype)


def batches(
    kind: type[nn.Module], dtype: torch.dtype = torch.float32
) -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    result = []
    for step in range(STEPS):
        size, frames = 3 + step % 3, 7 + step % 4
        states = 4.0 * torch.randn(STATES, size, frames, DIM, generator=generator).to(dtype)
        lengths = torch.randint(2, frames + 1, (size,), generator=generator)
        shape = (size, frames) if kind is FrameHead else (size,)
        result.append((states, lengths, torch.randint(CLASSES, shape, generator=generator)))
    return result


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def train_alone(
    kind: type[nn.Module], rate: float, clip: float, dtype: torch.dtype
) -> tuple[Probe, int]:
    torch.manual_seed(5)
    probe = make(kind, dtype)()
    optimizer = torch.optim.Adam(probe.parameters(), lr=rate)
    clipped = 0
    for states, lengths, targets in batches(kind, dtype):
        optimizer.zero_grad()
        loss_of(probe(states, lengths), targets).backward()
        clipped += int(nn.utils.clip_grad_norm_(probe.parameters(), clip) > clip)
        optimizer.step()
    return probe, clipped


def train_grid(
    grid: ProbeGrid,
    kind: type[nn.Module],
    first: int = 0,
    last: int = STEPS,
    dtype: torch.dtype = torch.float32,
) -> None:
    for states, lengths, targets in batches(kind, dtype)[first:last]:
        grid.update(torch.stack([loss_of(row, targets) for row in grid.logits(states, lengths)]))


@pytest.mark.parametrize(
    ("dtype", "rates"), [(torch.float32, RATES), (torch.float64, (*RATES, 0.3))]
)
@pytest.mark.parametrize("clip", [0.5, 1e9])
@pytest.mark.parametrize("kind", [FrameHead, UtteranceHead])
def test_each_probe_is_trained_as_it_would_be_alone(
    kind: type[nn.Module], clip: float, dtype: torch.dtype, rates: tuple[float, ...]
) -> None:
    grid = ProbeGrid(make(kind, dtype), rates, clip=clip, seed=5)
    train_grid(grid, kind, dtype=dtype)
    for number, rate in enumerate(rates):
        probe, clipped = train_alone(kind, rate, clip, dtype)
        assert (clipped > 0) == (clip < 1)
        weights = grid.snapshot(number)
        expected = dict(probe.named_parameters())
        assert weights.keys() == expected.keys()
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, expected[name].detach(), atol=1e-6, rtol=1e-6)
        states, lengths, _ = batches(kind, dtype)[0]
        with torch.no_grad():
            alone = probe(states, lengths)
            torch.testing.assert_close(
                grid.logits(states, lengths)[number], alone, atol=1e-5, rtol=1e-5
            )


def test_probes_start_alike_and_by_the_seed() -> None:
    first, same = (ProbeGrid(make(FrameHead), RATES, seed=1) for _ in range(2))
    other = ProbeGrid(make(FrameHead), RATES, seed=2)
    for name, tensor in first.parameters.items():
        assert torch.equal(tensor[0], tensor[2])
        assert torch.equal(tensor, same.parameters[name])
    name = "head.linear.weight"
    assert not torch.equal(first.parameters[name], other.parameters[name])


def test_kept_probes_go_on_as_if_nothing_had_happened() -> None:
    whole = ProbeGrid(make(UtteranceHead), RATES, seed=5)
    train_grid(whole, UtteranceHead)
    halved = ProbeGrid(make(UtteranceHead), RATES, seed=5)
    train_grid(halved, UtteranceHead, 0, 8)
    halved.keep([2, 0])
    train_grid(halved, UtteranceHead, 8)
    assert halved.logits(*batches(UtteranceHead)[0][:2]).shape[0] == 2
    for place, number in enumerate((2, 0)):
        expected = whole.snapshot(number)
        for name, tensor in halved.snapshot(place).items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6)


def test_snapshot_is_a_copy_and_restores_one_probe() -> None:
    grid = ProbeGrid(make(FrameHead), RATES, seed=5)
    before = grid.snapshot(1)
    kept = copy.deepcopy(before)
    train_grid(grid, FrameHead, 0, 3)
    after = [grid.snapshot(number) for number in range(3)]
    assert all(torch.equal(before[name], kept[name]) for name in before)
    assert not torch.equal(after[1]["head.linear.weight"], before["head.linear.weight"])
    grid.restore(1, before)
    for number, expected in enumerate((after[0], before, after[2])):
        found = grid.snapshot(number)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    train_grid(grid, FrameHead, 3, 4)  # still trainable
    assert not torch.equal(grid.snapshot(1)["head.linear.weight"], before["head.linear.weight"])
