"""Several processes: the group that was asked for, and what the others do while the first runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from speechft import launcher
from speechft.console import is_main_process
from speechft.devices import Precision, pick_device, resolve_precision
from speechft.errors import ConfigError, RunError
from speechft.parallel import process_group

Shared = TypeVar("Shared")


def make_accelerator(precision: Precision) -> Any:
    """Return an Accelerator, and make sure that it is what the launcher asked for.

    Raises:
        RunError: The processes that were started do not form one group.
        ConfigError: fp16 was asked for without a GPU.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    device = pick_device()
    process_group.form(device.type == "cpu")
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
    if sharding_asked() and accelerator.num_processes == 1:
        raise RunError(
            "FSDP was asked for (ACCELERATE_USE_FSDP), but there is one process to shard over",
            hint="start with accelerate launch --use_fsdp --num_processes N -m speechft, then the "
            "same arguments",
        )
    return accelerator


def sharding_asked() -> bool:
    """Return whether the launcher asked for FSDP.

    Accelerate turns FSDP on a CPU into DDP without a word, so this package shards by itself.
    """
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true", "yes")


def agree(accelerator: Any, flag: bool) -> bool:
    """Return whether a flag is set on any process."""
    if accelerator.num_processes == 1:
        return flag
    total = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum")
    return bool(total > 0)


@dataclass(frozen=True)
class Group:
    """The processes that do one thing together; what they exchange waits as long as it takes."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, accelerator: Any) -> Group:
        """Return the group that trains together."""
        return cls(accelerator.process_index, accelerator.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that decides and writes what is written once."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all have come here."""
        if self.size > 1:
            process_group.gathered(None)

    def of_first(self, value: Shared) -> Shared:
        """Return what the first process has."""
        return value if self.size == 1 else process_group.from_first(value)

    def total(self, own: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the sum over all processes."""
        return own if self.size == 1 else np.sum(process_group.gathered(own), axis=0)


@contextmanager
def main_process_scope(follow: Callable[..., Any]) -> Iterator[bool]:
    """Give the run to the first process; the others take part in its fine-tuning only.

    What ends one of them ends all, see `process_group.watched`.

    Args:
        follow: What the others call with each job that the first shares.

    Yields:
        True on the process that runs the stages; False on the others, after the first has ended.
    """
    if launcher.size() == 1:
        yield True
        return
    with process_group.watched():
        make_accelerator("fp32")
        first = is_main_process()
        while not first and (job := _next_job()) is not None:
            follow(**job)
        yield first
        if first:
            process_group.from_first(None)


def _next_job() -> dict[str, Any] | None:
    """Return what the first process shares next; None when it has come to its end."""
    return process_group.from_first(None)


@contextmanager
def shared_job(job: dict[str, Any]) -> Iterator[None]:
    """Have the other processes take part in what the first fine-tunes."""
    process_group.from_first(job)
    yield
