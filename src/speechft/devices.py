"""Which device and which precision to compute in."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

from speechft.errors import ConfigError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Resolved = Literal["fp32", "bf16", "fp16"]


def pick_device(name: str = "auto") -> torch.device:
    """Return the device by name; ``auto`` takes the first GPU, else the CPU.

    Raises:
        ConfigError: There is no such device.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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


def autocast(
    precision: Resolved, device: torch.device
) -> contextlib.AbstractContextManager[object]:
    """Return the autocast context of a resolved precision."""
    import torch

    if precision == "fp32":
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)
