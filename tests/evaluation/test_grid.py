"""Probes trained side by side against the same probes trained alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechft.evaluation.grid import ModuleGrid, Probe, ProbeGrid, make_grid
from speechft.tasks.heads import FrameHead, UtteranceHead, mean_pool
from speechft.tasks.recurrent import DiarizationHead, RecurrentHead

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


RECURRENT: list[Callable[[], nn.Module]] = [
    lambda: RecurrentHead(DIM, CLASSES, projection=6, hidden=(5,), dropout=0.2),
    lambda: DiarizationHead(DIM, CLASSES, 5),
    lambda: FrameHead(DIM, CLASSES, 5),
]


@pytest.mark.parametrize("head", RECURRENT, ids=["asr", "sd", "pr"])
def test_modules_side_by_side_are_modules_alone(head: Callable[[], nn.Module]) -> None:
    """Dropout included: every probe draws as when it is alone."""

    def built(rates: Sequence[float]) -> ModuleGrid:
        seeds = [5] * len(rates)
        return ModuleGrid(lambda: Probe(STATES, head()), rates, clip=0.5, seeds=seeds)

    def trained(rates: Sequence[float]) -> ModuleGrid:
        grid = built(rates)
        grid.train(True)
        for states, lengths, targets in batches(FrameHead)[:8]:
            logits = grid.logits(states, torch.full_like(lengths, states.shape[2]))
            grid.update(torch.stack([loss_of(row, targets) for row in logits]))
        return grid

    together = trained(RATES)
    for number, rate in enumerate(RATES):
        for name, weights in trained([rate]).snapshot(0).items():
            torch.testing.assert_close(weights, together.snapshot(number)[name])


def test_modules_and_vectorised_grids_train_alike() -> None:
    seeds = [1, 2, 1]
    vectorised = ProbeGrid(make(UtteranceHead), RATES, clip=0.3, seeds=seeds)
    modules = ModuleGrid(make(UtteranceHead), RATES, clip=0.3, seeds=seeds)
    for grid in (vectorised, modules):
        train_grid(grid, UtteranceHead, last=8)
    for number in range(3):
        for name, weights in modules.snapshot(number).items():
            torch.testing.assert_close(
                weights, vectorised.snapshot(number)[name], atol=1e-5, rtol=1e-4
            )


def test_kept_and_restored_modules() -> None:
    grid = ModuleGrid(make(FrameHead), RATES, seeds=[0, 1, 2])
    train_grid(grid, FrameHead, last=3)
    saved = grid.snapshot(2)
    grid.keep([2, 0])
    torch.testing.assert_close(grid.snapshot(0), saved)
    train_grid(grid, FrameHead, last=6, first=3)
    grid.restore(1, saved)
    torch.testing.assert_close(grid.snapshot(1), saved)


def test_the_fastest_grid_is_taken() -> None:
    assert isinstance(make_grid(make(FrameHead), RATES), ProbeGrid)
    assert isinstance(make_grid(make(FrameHead), RATES, weight_decay=0.1), ModuleGrid)
    recurrent = make_grid(lambda: Probe(STATES, DiarizationHead(DIM)), RATES)
    assert isinstance(recurrent, ModuleGrid)
    augmented = make_grid(lambda: Probe(STATES, FrameHead(DIM, 2), lambda x, n: x), RATES)
    assert isinstance(augmented, ModuleGrid)


def test_pooled_training_is_unpooled_training_step_by_step() -> None:
    """The mean over time of every hidden state is all that an utterance-level probe sees."""
    framed = ProbeGrid(make(UtteranceHead), RATES)
    pooled = ProbeGrid(make(UtteranceHead), RATES)
    steps = batches(UtteranceHead)
    for states, lengths, targets in steps:
        means = torch.stack([mean_pool(state, lengths) for state in states])[:, :, None]
        ones = torch.ones_like(lengths)
        losses = []
        for grid, inputs in ((framed, (states, lengths)), (pooled, (means, ones))):
            losses.append(torch.stack([loss_of(row, targets) for row in grid.logits(*inputs)]))
            grid.update(losses[-1])
        torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-6)
    hits = []
    for grid, pool in ((framed, False), (pooled, True)):
        hits.append([])
        for states, lengths, targets in steps:
            if pool:
                states = torch.stack([mean_pool(state, lengths) for state in states])[:, :, None]
                lengths = torch.ones_like(lengths)
            hits[-1] += (grid.logits(states, lengths).argmax(-1) == targets).sum(1).tolist()
    assert hits[0] == hits[1]
