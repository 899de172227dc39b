"""Tensors that stay where they are until a piece of them is asked for, in files or in memory."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from speechft.errors import CheckpointError
from speechft.storage.disk import open_regular
from speechft.storage.headers import read_header

FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Safetensors names of the types that can be merged, with bytes per element."""

_PIECE = 1 << 20

Buffer = np.ndarray[Any, np.dtype[Any]]
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class Tensor(Protocol):
    """One stored tensor; ``read`` and ``raw`` take ranges of the flattened elements and bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes as it is stored."""

    def raw(self, start: int, stop: int) -> Buffer:
        """Return bytes ``start`` to ``stop`` as uint8, in the stored type."""

    def read(self, start: int, out: Buffer) -> None:
        """Fill ``out`` (float32 or float64, flat) with the elements from ``start`` on."""


def numel(tensor: Tensor) -> int:
    """Return the number of elements."""
    return math.prod(tensor.shape)


def is_finite(tensor: Tensor) -> bool:
    """Return whether no element is NaN or infinite, reading a piece at a time."""
    if tensor.dtype not in FLOAT_BYTES:
        return True
    size = numel(tensor)
    buffer = np.empty(min(size, _PIECE), np.float64 if tensor.dtype == "F64" else np.float32)
    for start in range(0, size, _PIECE):
        piece = buffer[: min(_PIECE, size - start)]
        tensor.read(start, piece)
        if not np.isfinite(piece).all():
            return False
    return True


class TensorFile:
    """A file opened for positioned reads, closed with the object."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = open_regular(path)
        except OSError as error:
            raise CheckpointError(f"cannot open {path}: {error.strerror}") from None

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)

    def read_into(self, offset: int, target: Buffer) -> None:
        """Fill ``target`` (contiguous) with the bytes at ``offset``.

        Raises:
            CheckpointError: The file ends before ``target`` is full.
        """
        if not target.size:
            return
        view = target.data.cast("B")
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if count == 0:
                raise CheckpointError(
                    f"{self.path} ends in the middle of its tensors",
                    hint="it changed while it was read, or it is truncated; copy it again",
                )
            done += count


@dataclass
class FileTensor:
    """A tensor in a safetensors file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: TensorFile
    offset: int
    nbytes: int

    def raw(self, start: int, stop: int) -> Buffer:
        """Return bytes ``start`` to ``stop`` as uint8, in the stored type."""
        target = np.empty(stop - start, np.uint8)
        if target.size:
            self.file.read_into(self.offset + start, target)
        return target

    def read(self, start: int, out: Buffer) -> None:
        """Fill ``out`` (float32 or float64, flat) with the elements from ``start`` on."""
        if not out.size:
            return
        width = FLOAT_BYTES[self.dtype]
        if out.dtype == np.dtype(_NUMPY[self.dtype]):
            self.file.read_into(self.offset + start * width, out)
            return
        stored = np.empty(out.size, _NUMPY[self.dtype])
        self.file.read_into(self.offset + start * width, stored)
        decode(stored, self.dtype, out)

    def held(self) -> ArrayTensor:
        """Return it in memory, in the stored type."""
        data = self.raw(0, self.nbytes).view(_NUMPY.get(self.dtype, "u1"))
        return ArrayTensor(self.name, self.dtype, self.shape, data)


@dataclass
class ArrayTensor:
    """A tensor in memory: ``data`` is flat and holds bfloat16 as uint16."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Buffer

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes as it is stored."""
        return int(self.data.nbytes)

    def raw(self, start: int, stop: int) -> Buffer:
        """Return bytes ``start`` to ``stop`` as uint8, in the stored type."""
        return self.data.view(np.uint8)[start:stop]

    def read(self, start: int, out: Buffer) -> None:
        """Fill ``out`` (float32 or float64, flat) with the elements from ``start`` on."""
        decode(self.data[start : start + out.size], self.dtype, out)

    def held(self) -> ArrayTensor:
        """Return it: it is in memory."""
        return self


def decode(stored: Buffer, dtype: str, out: Buffer) -> None:
    """Write ``stored`` elements of type ``dtype`` into ``out`` (float32 or float64)."""
    if dtype != "BF16":
        out[:] = stored
    elif out.dtype == np.float32:
        bits = out.view(np.uint32)
        bits[:] = stored
        bits <<= 16
    else:
        wide = np.empty(stored.size, np.float32)
        decode(stored, dtype, wide)
        out[:] = wide


def encode(values: Buffer, dtype: str) -> Buffer:
    """Return float32 or float64 ``values`` in ``dtype``, rounded to nearest even.

    bfloat16 comes back as uint16. A value beyond the range of the type becomes infinite, as it
    does in torch; the caller checks.
    """
    if dtype == "BF16":
        single = np.ascontiguousarray(values, np.float32)
        bits = single.view(np.uint32)
        rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
        return np.where(np.isnan(single), 0x7FC0, rounded).astype(np.uint16)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, _NUMPY[dtype])


def round_through(values: Buffer, dtype: str) -> Buffer:
    """Return ``values`` as they would be after being stored in ``dtype``."""
    rounded = np.empty_like(values)
    decode(encode(values, dtype), dtype, rounded)
    return rounded


def safetensors_tensors(paths: Iterable[Path]) -> dict[str, Tensor]:
    """Open safetensors files and return their tensors by name, in the order of the headers.

    Raises:
        CheckpointError: A file is missing or truncated, or two files hold the same name.
    """
    tensors: dict[str, Tensor] = {}
    for path in paths:
        entries, _ = read_header(path)
        file = TensorFile(path)
        for name, entry in entries.items():
            if name in tensors:
                raise CheckpointError(
                    f"tensor {name!r} occurs twice in the shards of {path.parent}"
                )
            tensors[name] = FileTensor(
                name, entry.dtype, entry.shape, file, entry.start, entry.nbytes
            )
    return tensors


_TORCH_NAMES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}


def memory_tensor(name: str, value: Any) -> ArrayTensor:
    """Wrap a torch tensor or a numpy array; CPU tensors that are contiguous are not copied.

    Raises:
        CheckpointError: ``value`` is something else, or of a type that weights do not have.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        dtype = _TORCH_NAMES.get(str(value.dtype))
        if dtype is None:
            raise CheckpointError(f"tensor {name!r} has the unsupported type {value.dtype}")
        if value.layout != torch.strided or value.is_meta or value.is_nested:
            raise CheckpointError(f"tensor {name!r} is sparse, nested or without numbers")
        stored, size = value.untyped_storage().nbytes(), value.numel() * value.element_size()
        if size > stored:
            raise CheckpointError(
                f"tensor {name!r} of shape {list(value.shape)} should take {size} bytes, "
                f"{stored} are stored",
                hint="tensors that repeat their numbers are not read; save them with .contiguous()",
            )
        flat = value.detach().cpu().contiguous().reshape(-1)
        data = flat.view(torch.uint16).numpy() if dtype == "BF16" else flat.numpy()
        return ArrayTensor(name, dtype, tuple(value.shape), data)
    if isinstance(value, np.ndarray):
        array: npt.NDArray[Any] = value
        kind = {"b": "BOOL", "f": f"F{8 * array.itemsize}", "u": f"U{8 * array.itemsize}"}
        dtype = kind.get(array.dtype.kind, f"I{8 * array.itemsize}")
        if array.dtype.kind not in "bfui" or dtype == "F128":
            raise CheckpointError(f"array {name!r} has the unsupported type {array.dtype}")
        return ArrayTensor(name, dtype, array.shape, np.ascontiguousarray(array).reshape(-1))
    raise CheckpointError(
        f"{name!r} holds {type(value).__name__}, expected a tensor",
        hint="a state dict maps names to tensors",
    )
