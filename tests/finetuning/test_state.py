"""State of a training: on disk, by name, for what has moments and what has none yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speechft.errors import CheckpointError
from speechft.finetuning.state import (
    average_of,
    forget_after,
    load_checkpoint,
    moments_of,
    save_checkpoint,
    set_average,
    set_moments,
    set_weights,
    share_checkpoint,
    weights_of,
)
from speechft.finetuning.training_setup import write_head


def test_later_steps_are_forgotten_by_a_training_that_goes_back(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "best"):
        for step in (5, 10, 15):
            save_checkpoint(place, step, {"step": step}, keep=3)
    forget_after(tmp_path, 10)
    for place in (tmp_path, tmp_path / "best"):
        assert len(list(place.glob("step-*.pt"))) == 2
        newest = load_checkpoint(place)
        assert newest is not None
        assert newest["step"] == 10


class _TwoHeads(nn.Module):
    """A body and two heads, of which a batch uses one; the first parameter is never used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.unused = nn.Parameter(torch.ones(3))
        self.body, self.a, self.b = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, rows: Tensor, head: str) -> Tensor:
        return getattr(self, head)(self.body(rows).tanh()).square().mean()  # type: ignore[no-any-return]


def _optimizer(module: nn.Module) -> torch.optim.Optimizer:
    named = list(module.named_parameters())
    groups = [{"params": [p for n, p in named if ("body" in n) == body]} for body in (True, False)]
    return torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1, fused=True)


def _updates(module: _TwoHeads, optimizer: torch.optim.Optimizer, heads: str) -> None:
    for number, head in enumerate(heads):
        optimizer.zero_grad()
        rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(number))
        module(rows, head).backward()
        optimizer.step()
    optimizer.zero_grad()


def _equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("numbered", [False, True], ids=["by name", "by number, as before"])
def test_moments_go_on_to_the_bit_where_some_have_none_yet(tmp_path: Path, numbered: bool) -> None:
    """The second head has seen no batch: its first update after the stop must be its first."""
    whole = _TwoHeads()
    optimizer = _optimizer(whole)
    _updates(whole, optimizer, "aaa")
    moments: dict[str, Any] = moments_of(whole, optimizer)
    assert moments["state"].keys() == {"body.weight", "body.bias", "a.weight", "a.bias"}
    if numbered:  # as before there were groups: all parameters in their order
        order = {name: number for number, (name, _) in enumerate(whole.named_parameters())}
        groups = [{**g, "params": [order[n] for n in g["params"]]} for g in moments["param_groups"]]
        moments = {
            "state": {order[n]: entry for n, entry in moments["state"].items()},
            "param_groups": groups,
        }
    state = {"weights": weights_of(whole), "optimizer": moments, "average": {}}
    save_checkpoint(tmp_path, 3, state)
    again = _TwoHeads()
    again.unused.requires_grad_(False)
    found = share_checkpoint(tmp_path, again)
    assert found is not None
    other = _optimizer(again)
    set_weights(again, found["weights"])
    set_moments(again, other, found["optimizer"])
    assert not again.unused.requires_grad
    assert again.b.weight not in other.state
    assert all(parameter.grad is None for parameter in again.parameters())
    assert _equal(again, whole)
    again.unused.requires_grad_(True)
    for module, one in ((whole, optimizer), (again, other)):
        _updates(module, one, "bab")
    assert _equal(again, whole)


def test_before_the_first_update_there_are_no_moments() -> None:
    module = _TwoHeads()
    before, optimizer = weights_of(module), _optimizer(module)
    moments = moments_of(module, optimizer)
    assert moments["state"] == {}
    assert not optimizer.state
    set_moments(module, optimizer, moments)
    assert not optimizer.state
    assert all(torch.equal(before[n], p) for n, p in module.named_parameters())


def test_what_is_returned_does_not_move_with_the_training() -> None:
    module = _TwoHeads()
    before = weights_of(module)
    average = {"body.weight": torch.zeros(4, 4)}
    whole = average_of(module, average)
    assert torch.equal(whole["body.weight"], torch.zeros(4, 4))
    assert torch.equal(average["body.weight"], torch.zeros(4, 4))
    _updates(module, _optimizer(module), "a")
    assert torch.equal(whole["body.weight"], torch.zeros(4, 4))
    assert not torch.equal(before["body.weight"], module.body.weight)
    spread = set_average(module, {"weights": before, "average": whole})
    assert spread.keys() == {"body.weight"}
    assert torch.equal(spread["body.weight"], torch.zeros(4, 4))
    assert torch.equal(before["body.weight"], module.body.weight)


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_of_another_training_are_refused_in_a_sentence(change: str) -> None:
    module = _TwoHeads()
    weights = weights_of(module)
    weights["body.weight"] = torch.zeros(2, 2)
    if change == "missing":
        del weights["body.weight"]
        weights["head.weight"] = torch.zeros(2)
    with pytest.raises(CheckpointError, match="checkpoint of another training") as caught:
        set_weights(module, weights)
    assert caught.value.hint


def test_a_head_is_readable_like_any_new_file(tmp_path: Path) -> None:
    write_head(torch.nn.Linear(2, 2), tmp_path / "head.safetensors")
    (tmp_path / "usual").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1, modes
