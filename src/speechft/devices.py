"""Which device and which precision to compute in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal, TypeVar

from speechft import launcher
from speechft.errors import ConfigError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16", "fp16")
Resolved = Literal["fp32", "bf16", "fp16"]
Batch = TypeVar("Batch")

_BATCHES = 4
"""Batches on a processor after which free memory is given back: the system clears every page that
is asked for again, which after each batch would cost a tenth of a small encoder's time."""


_default: list[str] = []
"""What ``auto`` means, the innermost `use_device` last."""


@contextlib.contextmanager
def use_device(name: str) -> Iterator[None]:
    """Compute on one device: within, it is what `pick_device` returns for ``auto``.

    A device says where something is computed, not what: it belongs to no configuration and to no
    digest, and every part that computes asks `pick_device`.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...

    Raises:
        ConfigError: There is no such device, or a launcher shares out the GPUs.
    """
    if name == "auto":
        yield
        return
    device = pick_device(name)
    if device.index is not None and launcher.size() > 1:
        raise ConfigError(
            f"device {name!r} is one for several processes, each of which has its own",
            hint=f"leave it out, or say --device {device.type}",
        )
    _default.append(name)
    try:
        with _current_gpu(device):
            yield
    finally:
        _default.pop()


def pick_device(name: str = "auto") -> torch.device:
    """Return the device by name; ``auto`` takes that of `use_device`, else a GPU, else the CPU.

    Of several processes on one machine each takes the GPU of its place among them
    (``LOCAL_RANK``, as torchrun and Accelerate number them), or the one that it sees.

    Raises:
        ConfigError: There is no such device.
    """
    import torch

    if name == "auto" and _default:
        name = _default[-1]
    if name in ("auto", "cuda") and torch.cuda.is_available():
        place = launcher.local_rank()
        if place is None:
            return torch.device("cuda")
        return torch.device(f"cuda:{place % max(torch.cuda.device_count(), 1)}")
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        first = str(error).partition("\n")[0]
        raise ConfigError(f"device {name!r} cannot be used: {first}") from None
    return device


def resolve_precision(precision: Precision, device: torch.device) -> Resolved:
    """Turn ``auto`` into bf16 where the hardware multiplies in it, else fp32.

    A CPU without bf16 instructions emulates them about a hundred times slower than fp32.
    """
    import torch

    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("amx_bf16", False) or capabilities.get("avx512_bf16", False)
    return "bf16" if device.type == "cpu" and fast else "fp32"


def arithmetic_of(device: torch.device) -> dict[str, str | int]:
    """Return what decides the last digits of a figure beside the precision.

    ``device`` is ``cpu`` or the name of the GPU; on a processor ``kernel`` is the instruction set
    that torch computes with, such as ``AVX512``, and ``threads`` their number, which decides the
    order of sums.
    """
    import torch

    if device.type != "cpu":
        gpu = device.type == "cuda"
        return {"device": torch.cuda.get_device_name(device) if gpu else device.type}
    return {
        "device": "cpu",
        "kernel": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def autocast(
    precision: Resolved, device: torch.device
) -> contextlib.AbstractContextManager[object]:
    """Return the autocast context of a resolved precision."""
    import torch

    if precision == "fp32":
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


def _current_gpu(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context in which a GPU is the one that libraries take by themselves."""
    import torch

    one = device.type == "cuda" and device.index is not None
    return torch.cuda.device(device) if one else contextlib.nullcontext()


def returning_memory(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches; what they leave free goes back to the system every few of them.

    On a processor tensors lie on the heap of the C library. Batches of ever new lengths leave holes
    in it that are free and yet held by the process: after an hour of audio four times what was in
    use. So the memory of one pass would grow with its audio.

    Args:
        batches: What is computed batch by batch.
        device: Where; a GPU's memory is not touched.
    """
    number = 0
    for number, batch in enumerate(batches, 1):
        yield batch
        if device.type == "cpu" and number % _BATCHES == 0:
            _trim()
    if device.type == "cpu" and number >= _BATCHES:
        _trim()


def _trim() -> None:
    """Give free memory back where the C library can be told to (glibc)."""
    import ctypes
    import sys

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def peak_memory() -> dict[str, float]:
    """Return the most memory that this process has held so far, in GB, by kind."""
    import resource
    import sys

    import torch

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"resident": peak * (1 if sys.platform == "darwin" else 1024) / 1e9}
    if torch.cuda.is_available():
        found["on the GPU"] = torch.cuda.max_memory_allocated() / 1e9
    return {name: round(value, 2) for name, value in found.items()}
