"""Several processes: the group that was asked for, parameters spread over it, whole states back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speechft.devices import Precision, pick_device, resolve_precision
from speechft.errors import ConfigError, RunError

if TYPE_CHECKING:
    from speechft.finetuning.objective import Objective


def make_accelerator(precision: Precision) -> Any:
    """Return an Accelerator, and make sure that it is what the launcher asked for.

    Raises:
        RunError: ``WORLD_SIZE`` processes were started but do not form one group.
        ConfigError: fp16 was asked for without a GPU.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    device = pick_device()
    mixed = {"fp32": "no"}.get(resolved := resolve_precision(precision, device), resolved)
    if mixed == "fp16" and device.type == "cpu":
        raise ConfigError(
            "finetuning.precision=fp16 needs a GPU; a CPU trains in fp32 or bf16",
            hint="set finetuning.precision=auto",
        )
    # the mask embedding takes no part in fine-tuning
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    if AcceleratorState._shared_state.get("_mixed_precision", mixed) != mixed:
        AcceleratorState._reset_state()  # an earlier stage of this process had another precision
    accelerator = Accelerator(
        mixed_precision=mixed, cpu=device.type == "cpu", kwargs_handlers=[unused]
    )
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != wanted:
        raise RunError(
            f"{wanted} processes were started, but {accelerator.num_processes} train together",
            hint="start with: accelerate launch --num_processes N -m speechft ...",
        )
    if sharding_asked() and wanted == 1:
        raise RunError(
            "FSDP was asked for (ACCELERATE_USE_FSDP), but there is one process to shard over",
            hint="start with: accelerate launch --use_fsdp --num_processes N -m speechft ...",
        )
    return accelerator


def sharding_asked() -> bool:
    """Return whether the launcher asked for FSDP.

    Accelerate turns FSDP on a CPU into DDP without a word, so this package shards by itself.
    """
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true", "yes")


def shard(objective: Objective, device: torch.device) -> None:
    """Spread the parameters over all processes with ``fully_shard`` (FSDP 2), layer by layer."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for layer in transformer_layers(objective.encoder):
        fully_shard(layer, mesh=mesh)
    fully_shard(objective, mesh=mesh)


def transformer_layers(encoder: nn.Module) -> list[nn.Module]:
    """Return the transformer layers of an encoder: its module list ``encoder.layers``."""
    for name, module in encoder.named_modules():
        if name.endswith("encoder.layers") and isinstance(module, nn.ModuleList):
            return list(module)
    return []


def is_sharded(module: nn.Module) -> bool:
    """Return whether the parameters of a module are spread over processes."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def model_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the whole state on the CPU, on every process; sharded parameters are gathered."""
    return {name: full_tensor(value).cpu().clone() for name, value in module.state_dict().items()}


def load_model_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a whole state, spread over the processes again where the module is sharded."""
    if not is_sharded(module):
        module.load_state_dict(state)
        return
    with torch.no_grad():
        own = module.state_dict()
        for name, value in state.items():
            own[name].copy_(distribute_like(value, own[name]))


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the whole state of an optimizer on the CPU, on every process."""
    content = optimizer.state_dict()
    content["state"] = {
        number: {
            key: full_tensor(value).cpu().clone() if isinstance(value, Tensor) else value
            for key, value in entry.items()
        }
        for number, entry in content["state"].items()
    }
    return content


def load_optimizer_state(optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> None:
    """Load a whole optimizer state, spread again where the parameters are sharded."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        number: {
            key: distribute_like(value, parameters[number])
            if isinstance(value, Tensor) and value.shape == parameters[number].shape
            else value
            for key, value in entry.items()
        }
        for number, entry in content["state"].items()
    }
    optimizer.load_state_dict({**content, "state": state})


def full_tensor(value: Tensor) -> Tensor:
    """Return a tensor as it is, or gathered from all processes where it is sharded."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor().detach() if isinstance(value, DTensor) else value.detach()


def distribute_like(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor on the device of another, sharded in the same way."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return value.to(like.device)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def agree(accelerator: Any, flag: bool) -> bool:
    """Return whether a flag is set on any process."""
    if accelerator.num_processes == 1:
        return flag
    total = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum")
    return bool(total > 0)


@contextmanager
def main_process_scope() -> Iterator[bool]:
    """Give the run to the first process; the others take part in its fine-tuning only.

    Yields:
        True on the process that runs the stages; False on the others, after the first has ended.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    make_accelerator("fp32")
    if torch.distributed.get_rank() != 0:
        from speechft.finetuning.finetune import finetune

        while (job := _shared(None)) is not None:
            finetune(**job)
        yield False
        return
    try:
        yield True
    finally:
        if not _jobs:  # else they wait within the job, and the launcher ends them
            _shared(None)


@contextmanager
def shared_job(job: dict[str, Any]) -> Iterator[None]:
    """Have the other processes take part in what the first fine-tunes."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        _shared(job)
        _jobs.append(job)
        yield
        _jobs.clear()  # not where an error came out of it
    else:
        yield


_groups: list[Any] = []
_jobs: list[dict[str, Any]] = []
"""The job that all processes are at."""


def _shared(job: dict[str, Any] | None) -> dict[str, Any] | None:
    """Send from the first process to all, over a group that waits as long as a stage takes."""
    from datetime import timedelta

    if not _groups:
        _groups.append(torch.distributed.new_group(backend="gloo", timeout=timedelta(days=30)))
    box = [job]
    torch.distributed.broadcast_object_list(box, src=0, group=_groups[0])
    return box[0]
