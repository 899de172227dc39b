"""Write what was merged as safetensors in one or several files; what an output may replace."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from speechft.cards.card import CARD_NAME
from speechft.encoders.conversion.tensors import FLOAT_BYTES, Buffer
from speechft.errors import RunError
from speechft.merging.plan import TensorPlan
from speechft.storage.files import (
    CONFIG_NAME,
    INDEX_NAME,
    PROCESSOR_NAME,
    WEIGHTS_NAME,
)
from speechft.storage.outputs import check_own

SHARD_BYTES = 5_000_000_000
"""Largest size of one weight file, as on the Hugging Face hub."""

METADATA = {"format": "pt"}
"""Metadata that transformers expects in a safetensors file."""

REPORT_NAME = "merge.json"
WRITTEN = (
    CONFIG_NAME,
    PROCESSOR_NAME,
    CARD_NAME,
    REPORT_NAME,
    WEIGHTS_NAME,
    INDEX_NAME,
    "model-*-of-*.safetensors",
)
"""Names that a merge writes: a folder with its report and only these may be replaced."""

_SIZES = FLOAT_BYTES | {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}


class SafetensorsWriter:
    """Writes the tensors of a plan, in order, into safetensors files of limited size.

    Args:
        folder: Where the files go; it is not visible under a final name yet.
        items: The tensors.
        shard_bytes: Largest size of one file's tensors.
        name: Name of the file when one is enough.
        metadata: Metadata of every file.
    """

    def __init__(
        self,
        folder: Path,
        items: Sequence[TensorPlan],
        *,
        shard_bytes: int = SHARD_BYTES,
        name: str = WEIGHTS_NAME,
        metadata: Mapping[str, str] = METADATA,
    ) -> None:
        self._folder = folder
        self._shards = _split(items, shard_bytes)
        self.names = [name]
        if len(self._shards) > 1:
            count = len(self._shards)
            self.names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
        self._shard_of = {item.name: n for n, shard in enumerate(self._shards) for item in shard}
        self._metadata = dict(metadata)
        self._current = -1
        self._file: BinaryIO | None = None

    def write(self, item: TensorPlan, data: Buffer) -> None:
        """Append ``data`` to the tensor of ``item``."""
        if self._shard_of[item.name] != self._current:
            self._open(self._shard_of[item.name])
        assert self._file is not None
        self._put(np.ascontiguousarray(data).data.cast("B"))

    def finish(self) -> None:
        """Complete the last file and write the index of several files."""
        while self._current < len(self._shards) - 1:
            self._open(self._current + 1)
        self._close()
        if len(self._shards) > 1:
            total = sum(item.nbytes for shard in self._shards for item in shard)
            index = {
                "metadata": {"total_size": total},
                "weight_map": {n: self.names[shard] for n, shard in self._shard_of.items()},
            }
            (self._folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")

    def abort(self) -> None:
        """Close what is open after an error."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()

    def _put(self, data: memoryview | bytes) -> None:
        assert self._file is not None
        view = memoryview(data)
        while len(view):
            count = self._file.write(view)
            view = view[count:]

    def _open(self, index: int) -> None:
        self._close()
        self._current = index
        path = self._folder / self.names[index]
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed in _close and abort
        self._put(header(self._shards[index], self._metadata))

    def _close(self) -> None:
        if self._file is None:
            return
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None


class WeightDigests:
    """SHA-256 of the files that `SafetensorsWriter` would write, by the same calls.

    Args:
        items: The tensors of the plan, in order.
        shard_bytes: Largest size of one file's tensors.
    """

    def __init__(self, items: Sequence[TensorPlan], *, shard_bytes: int = SHARD_BYTES) -> None:
        shards = _split(items, shard_bytes)
        self._file_of = {item.name: number for number, s in enumerate(shards) for item in s}
        self._files = [hashlib.sha256(header(shard, METADATA)) for shard in shards]

    def write(self, item: TensorPlan, data: Buffer) -> None:
        """Add ``data`` to the tensor of ``item``."""
        self._files[self._file_of[item.name]].update(np.ascontiguousarray(data).data.cast("B"))

    def finish(self) -> None:
        """Do nothing."""

    def result(self) -> list[str]:
        """Return the digest of each file, in order."""
        return [file.hexdigest() for file in self._files]


def order_for_storage(items: Sequence[TensorPlan]) -> list[TensorPlan]:
    """Return the items with wide types first, else in order: readers want aligned tensors."""
    return sorted(items, key=lambda item: -_SIZES.get(item.dtype, 1))


def header(items: Sequence[TensorPlan], metadata: Mapping[str, str]) -> bytes:
    """Return the header of a safetensors file that holds ``items`` in this order."""
    content: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for item in items:
        end = offset + item.nbytes
        shape = list(item.base.shape)
        content[item.name] = {"dtype": item.dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _split(items: Sequence[TensorPlan], limit: int) -> list[list[TensorPlan]]:
    shards: list[list[TensorPlan]] = [[]]
    size = 0
    for item in items:
        if shards[-1] and size + item.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(item)
        size += item.nbytes
    return shards


def check_replaceable(out: Path, *, is_folder: bool) -> None:
    """Refuse a place where no merge may write, before anything is read.

    Raises:
        RunError: A file is where a folder goes or the other way round, or no command of ours wrote
            what is there.
    """
    if is_folder and out.is_file():
        raise RunError(f"{out} is a file, expected a folder to write", hint="choose another --out")
    if not is_folder and out.is_dir():
        raise RunError(f"{out} is a folder, expected a file to write", hint="choose another --out")
    check_own(out, earlier=lambda: is_earlier_merge(out))


def is_earlier_merge(out: Path) -> bool:
    """Return whether a folder without a record is a merge, and holds what merges write alone."""
    return (out / REPORT_NAME).is_file() and all(
        any(map(path.match, WRITTEN)) for path in out.iterdir()
    )
