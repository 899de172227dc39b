"""What a training holds: weights, moments, averages, history; spread over processes, and on disk.

Weights and moments are gathered and spread by ``torch.distributed.checkpoint.state_dict``, for one
process, DDP and ``fully_shard`` alike. Whole tensors exist on the first process alone, on the CPU.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speechft.console import warn
from speechft.errors import CheckpointError
from speechft.finetuning.layers import transformer_layers
from speechft.parallel import process_group
from speechft.progress import CHECKPOINTS, step_of
from speechft.storage.disk import is_regular
from speechft.storage.files import atomic_write, file_digest

if TYPE_CHECKING:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    from speechft.finetuning.objective import Objective

KEEP = 2
"""Checkpoints kept: the newest, and one to go back to when that is damaged."""


@dataclass
class History:
    """What happened in a training."""

    losses: list[float] = field(default_factory=list)
    """Loss of every update, NaN where it was skipped."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """Step, dev figures, by evaluation."""
    skipped: int = 0
    """Updates left out because loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    """Those since the last update that was made."""
    seconds_of_audio: float = 0.0
    seconds: float = 0.0

    def final(self, figure: str) -> float:
        """Return a dev figure of the step whose weights the training ended with."""
        selected = [entry["step"] for entry in self.evaluations if "selected" in entry]
        steps = {entry["step"]: entry[figure] for entry in self.evaluations if figure in entry}
        return steps[selected[-1] if selected else max(steps)]


class Clock:
    """How long a training has taken, its earlier parts included, and how fast it hears."""

    def __init__(self, history: History) -> None:
        self.history, self.started = history, time.monotonic()
        self.before, self.heard = history.seconds, history.seconds_of_audio

    def tick(self) -> float:
        """Note the time; return how many times faster than real time this process hears."""
        elapsed = max(1e-9, time.monotonic() - self.started)
        self.history.seconds = self.before + elapsed
        return (self.history.seconds_of_audio - self.heard) / elapsed


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all weights by name; nothing on processes other than the first.

    All processes take part.
    """
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    found: Mapping[str, Any] = get_model_state_dict(module, options=_gathered())
    return {name: tensor.clone() for name, tensor in found.items()}


def set_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a module the weights that the first process has; what the others pass is not read.

    Raises:
        CheckpointError: They are not those of this module.
    """
    from torch.distributed.checkpoint.state_dict import set_model_state_dict

    try:
        set_model_state_dict(module, dict(weights) if _is_first() else {}, options=_spread())
    except RuntimeError as error:
        raise CheckpointError(
            f"a checkpoint of another training: {' '.join(str(error).split())}",
            hint="choose another folder with --out",
        ) from None


def moments_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of an optimizer by names of parameters, whole on the first process.

    The others have the names. Before the first update there is no state (asked for it then, torch
    would make an update of nothing).
    """
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    names = [name for name, parameter in module.named_parameters() if parameter in optimizer.state]
    found: Mapping[str, Any] = {}
    if names:
        found = get_optimizer_state_dict(module, optimizer, options=_gathered())
    return dict(found) or {"state": dict.fromkeys(names), "param_groups": []}


def set_moments(
    module: nn.Module, optimizer: torch.optim.Optimizer, content: Mapping[str, Any]
) -> None:
    """Give a new optimizer the state that the first process has; the others pass the names alone.

    Torch gives moments to whatever learns, so that what has none yet must not learn meanwhile: a
    parameter that no batch has reached has no moments, and its first update must stay its first.
    """
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    moved = content["state"]
    if not moved:
        return
    learned = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in moved)
    whole = dict(content) if _is_first() else {}
    set_optimizer_state_dict(module, optimizer, whole, options=_spread())
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(learned[name])


def move_average(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    """Move an exponential average towards the weights that learn; it begins with them."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            if name in average:
                average[name].lerp_(parameter, 1 - decay)
            else:
                average[name] = parameter.detach().clone()


def take_average(average: Mapping[str, Tensor], module: nn.Module) -> None:
    """Put an average in place of the weights that it is of."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in average:
                parameter.copy_(average[name])


def average_of(module: nn.Module, average: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a moving average of weights, whole on the first process, gathered in their place."""
    if not average:
        return {}
    with _exchanged(module, average):
        whole = weights_of(module)
        return {name: whole[name] for name in average if name in whole}


def set_average(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the average of a checkpoint, spread as the weights are; the weights become its."""
    if not state["average"]:
        return {}
    set_weights(module, {**state["weights"], **state["average"]})
    own = dict(module.named_parameters())
    average = {name: own[name].detach().clone() for name in state["average"]}
    set_weights(module, state["weights"])
    return average


@contextmanager
def _exchanged(module: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    _exchange(module, average)
    try:
        yield
    finally:
        _exchange(module, average)


def _exchange(module: nn.Module, average: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in average:
                weight = parameter.detach().clone()
                parameter.copy_(average[name])
                average[name] = weight


def _gathered() -> StateDictOptions:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)


def _spread() -> StateDictOptions:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, broadcast_from_rank0=_processes() > 1)


def _processes() -> int:
    distributed = torch.distributed
    started = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if started else 1


def _is_first() -> bool:
    return _processes() == 1 or torch.distributed.get_rank() == 0


def is_sharded(module: nn.Module) -> bool:
    """Return whether the parameters of a module are spread over processes."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def shard(objective: Objective, device: torch.device) -> None:
    """Spread the parameters over all processes with ``fully_shard`` (FSDP 2), layer by layer."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (_processes(),))
    for layer in transformer_layers(objective.encoder):
        fully_shard(layer, mesh=mesh)
    fully_shard(objective, mesh=mesh)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = KEEP) -> None:
    """Write the state of a training after ``step`` updates; older checkpoints are removed.

    Args:
        folder: Where checkpoints live.
        step: Updates done.
        state: Tensors and plain values, nothing that ``weights_only`` loading refuses.
        keep: How many checkpoints stay.

    Raises:
        RunError: The disk is full or the folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    digest = hashlib.sha256(content).hexdigest()[:16]
    with atomic_write(folder / f"step-{step:08d}-{digest}.pt") as file:
        file.write(content)
    for path in sorted(folder.glob(CHECKPOINTS))[:-keep]:
        path.unlink(missing_ok=True)


def forget_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps below a folder: who goes back does them again."""
    for path in folder.rglob(CHECKPOINTS):
        if step_of(path) > step:
            path.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the newest intact state, or None; a damaged file is passed over with a word."""
    for path in sorted(folder.glob(CHECKPOINTS), reverse=True):
        if is_regular(path) and file_digest(path)[:16] == path.stem.rpartition("-")[2]:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        warn(f"checkpoint {path.name} is damaged; trying the one before it")
    return None


def share_checkpoint(folder: Path, module: nn.Module) -> dict[str, Any] | None:
    """Return the newest intact state on every process; tensors are on the first alone.

    It alone reads, and what it reads goes to all; the others get names in place of tensors.
    """
    state = load_checkpoint(folder) if _is_first() else None
    if state is not None and "optimizer" in state:
        state["optimizer"] = _by_name(state["optimizer"], module)
    told = process_group.from_first(None if state is None else _without_tensors(state))
    return state if _is_first() else told


def _without_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    hollow: dict[str, Any] = {**state, "weights": {}}
    if "optimizer" in state:
        hollow["optimizer"] = {"state": dict.fromkeys(state["optimizer"]["state"])}
        hollow["average"] = dict.fromkeys(state["average"])
    return hollow


def _by_name(content: Mapping[str, Any], module: nn.Module) -> dict[str, Any]:
    """Return an optimizer's state by names; up to 2026-11 parameters were numbered in order."""
    names = [name for name, _ in module.named_parameters()]
    return {
        "state": {names[k] if isinstance(k, int) else k: v for k, v in content["state"].items()},
        "param_groups": [
            {**g, "params": [names[p] if isinstance(p, int) else p for p in g["params"]]}
            for g in content["param_groups"]
        ],
    }
