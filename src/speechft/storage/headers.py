"""Headers of safetensors files, read without torch and as strictly as the library reads them."""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechft.errors import CheckpointError
from speechft.storage.disk import reading
from speechft.storage.documents import parse_json

MAX_HEADER_BYTES = 16 << 20
"""Of a safetensors header; that of a model of 10,000 tensors takes 1 MB."""

_BY_BITS = {
    4: "F4",
    6: "F6_E2M3 F6_E3M2",
    8: "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
    16: "I16 U16 F16 BF16",
    32: "I32 U32 F32",
    64: "I64 U64 F64 C64",
}
DTYPE_BITS = {name: bits for bits, names in _BY_BITS.items() for name in names.split()}
"""Types of safetensors with bits per element."""


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies in a safetensors file."""

    name: str
    dtype: str
    """Safetensors name of the type: F32, F16, BF16, I64, ..."""
    shape: tuple[int, ...]
    start: int
    """Offset of the first byte from the beginning of the file."""
    nbytes: int


def read_header(path: Path) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Read the header of a safetensors file: its tensors by name, and its metadata.

    As strict as the library: the tensors cover the rest of the file without gap or overlap, and
    each takes the bytes that its shape and type need.

    Raises:
        CheckpointError: The file is missing, truncated, or not a safetensors file.
    """
    try:
        with reading(path) as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
            if not 0 < length <= size - 8:
                raise ValueError("the header is incomplete")
            if length > MAX_HEADER_BYTES:
                raise ValueError(f"its header of {length} bytes is larger than {MAX_HEADER_BYTES}")
            header = parse_json(file.read(length), unique=True)
        if not isinstance(header, dict):
            raise ValueError(f"the header is {type(header).__name__}, expected names of tensors")
        metadata = header.pop("__metadata__", None)
        metadata = {} if metadata is None else metadata
        if not isinstance(metadata, dict) or not all(map(_is_text, metadata.values())):
            raise ValueError("__metadata__ is not a mapping from text to text")
        entries = {name: _entry(name, item, 8 + length) for name, item in header.items()}
        _check_cover(entries, 8 + length, size)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be loaded, it is not a complete safetensors file: {error}",
            hint="it may be truncated; copy or download it again",
        ) from None
    return entries, metadata


def is_whole(path: Path) -> bool:
    """Return whether a file is there and not cut off, as far as that is told without reading it.

    Any file holds something; safetensors and arrays of numpy have the bytes that they announce.
    """
    try:
        if path.suffix == ".safetensors":
            read_header(path)
        elif path.suffix == ".npy":
            return _is_whole_array(path)
        return path.is_file() and path.stat().st_size > 0
    except (OSError, CheckpointError):
        return False


def _is_whole_array(path: Path) -> bool:
    from numpy.lib import format as npy

    with reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if npy.read_magic(file) != (1, 0):
                return True  # of structured types, which nothing here writes
            shape, _, dtype = npy.read_array_header_1_0(file)
        except ValueError:
            return False
        return file.tell() + math.prod(shape) * dtype.itemsize == size


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _counts(value: Any) -> bool:
    """Tell whether a value is a list of integers that can be sizes or offsets."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _entry(name: str, item: Any, first: int) -> TensorEntry:
    """Return one tensor of a header.

    Raises:
        ValueError: Its description is malformed.
    """
    if not name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a tensor")
    if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ValueError(f"tensor {name!r} has the unknown type {str(dtype)[:40]!r}")
    if not _counts(shape) or len(shape) > 64:
        raise ValueError(f"tensor {name!r} has the shape {str(shape)[:80]}, expected sizes")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"tensor {name!r} has data_offsets {str(offsets)[:80]}, expected two")
    nbytes, bits = offsets[1] - offsets[0], math.prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * nbytes:
        raise ValueError(
            f"tensor {name!r} of shape {shape} and type {dtype} should take {bits / 8:g} bytes, "
            f"its header says {nbytes}"
        )
    return TensorEntry(name, dtype, tuple(shape), first + offsets[0], nbytes)


def _check_cover(entries: dict[str, TensorEntry], first: int, size: int) -> None:
    """Refuse tensors that overlap, leave bytes between them, or do not end with the file.

    Raises:
        ValueError: Names the first such tensor.
    """
    end = first
    for entry in sorted(entries.values(), key=lambda one: (one.start, one.nbytes)):
        if entry.start + entry.nbytes > size:
            raise ValueError(f"tensor {entry.name!r} reaches past the end of the file")
        if entry.start != end:
            kind = "overlaps another" if entry.start < end else "does not follow another"
            raise ValueError(f"tensor {entry.name!r} {kind}")
        end += entry.nbytes
    if end != size:
        raise ValueError(f"{size - end} bytes follow the last tensor")


def sorted_metadata(data: bytes) -> bytes:
    """Return a safetensors file whose metadata stand in the order of their names.

    The library writes them in an order that differs from call to call; so equal content gives
    equal bytes.

    Args:
        data: Of a whole file, as ``safetensors.torch.save`` gives them.
    """
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]
