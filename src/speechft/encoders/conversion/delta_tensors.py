"""Task vectors in a delta file, read like tensors; what they are added to comes from the base."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from speechft.encoders.conversion.tensors import ArrayTensor, Buffer, FileTensor, Tensor
from speechft.errors import CheckpointError
from speechft.storage.documents import parse_json

DELTA_KEY = "speechft_delta"
SCALE_SUFFIX = "::scale"


@dataclass
class DeltaTensor:
    """One task vector: ``read`` gives tuned minus base, and nothing is subtracted from it."""

    name: str
    shape: tuple[int, ...]
    stored: FileTensor | ArrayTensor
    scale: Buffer | None
    dtype: str = field(default="F32")
    is_delta: bool = field(default=True)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the file."""
        return self.stored.nbytes

    def held(self) -> DeltaTensor:
        """Return it in memory, in the stored type."""
        return replace(self, stored=self.stored.held())

    def raw(self, start: int, stop: int) -> Buffer:
        """Return stored bytes."""
        return self.stored.raw(start, stop)

    def read(self, start: int, out: Buffer) -> None:
        """Fill ``out`` with the entries of the task vector from ``start`` on."""
        if self.stored.dtype == "I8":
            out[:] = self.stored.raw(start, start + out.size).view(np.int8)
        else:
            self.stored.read(start, out)
        if self.scale is not None:
            width = max(math.prod(self.shape) // self.scale.size, 1)
            out *= self.scale[np.arange(start, start + out.size) // width]


def read_details(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Return what a delta file says about itself.

    Raises:
        CheckpointError: Its description is damaged.
    """
    try:
        details = parse_json(metadata[DELTA_KEY].encode(), unique=True)
        kinds = {"family": str, "base_digest": str, "config": dict}
        if not isinstance(details, dict):
            raise ValueError("it is not a mapping")
        for name, kind in kinds.items():
            if not isinstance(details.get(name), kind | None):
                raise ValueError(f"{name} is {str(details[name])[:80]!r}")
    except ValueError as error:
        raise CheckpointError(f"{path}: the delta's description is damaged: {error}") from None
    return details


def delta_tensors(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the task vectors of a delta file, with their scales taken in.

    Raises:
        CheckpointError: A scale is missing or of the wrong size.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE_SUFFIX) or not isinstance(tensor, FileTensor):
            continue
        scale = None
        if tensor.dtype not in ("F32", "F16", "I8"):
            raise CheckpointError(
                f"{path}: the task vector {name!r} is of type {tensor.dtype}, expected F32, F16, I8"
            )
        stored = tensors.get(name + SCALE_SUFFIX)
        if stored is not None and (stored.dtype != "F32" or not math.prod(stored.shape)):
            raise CheckpointError(f"{path}: the scale of {name!r} is not of type F32, or empty")
        if stored is not None:
            scale = np.empty(math.prod(stored.shape), np.float32)
            stored.read(0, scale)
        rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
        if (scale is None) != (tensor.dtype == "F32") or (scale is not None and scale.size != rows):
            raise CheckpointError(f"{path}: the scale of {name!r} is missing or of the wrong size")
        result[name] = DeltaTensor(name, tensor.shape, tensor, scale)
    return result
