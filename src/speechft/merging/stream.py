"""From source to sink in pieces within tensors: memory stays flat whatever the model's size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.encoders.conversion.tensors import Buffer, Tensor, encode, round_through
from speechft.errors import CheckpointError, LineageError
from speechft.merging.checks import way_past
from speechft.merging.lineage import Change
from speechft.merging.plan import Plan, TensorPlan
from speechft.merging.tensor_change import TensorChange

CHUNK = 1 << 18
"""Elements per piece: 1 MiB of float32, so that the arithmetic stays in the processor's cache."""

Advance = Callable[[int], None]
_NARROW = {"BF16": 0, "F16": 1, "F32": 2, "F64": 3}
_LIMITS = {"F16": 65504.0, "BF16": 1e18, "F32": 1e18, "F64": 1e150}
"""Values below these are within the range of a type, and so are sums of their squares."""
_TYPE_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


class Sink(Protocol):
    """Takes the bytes of the output, tensor after tensor, in the order of the plan."""

    def write(self, item: TensorPlan, data: Buffer) -> None:
        """Append ``data`` (any dtype, contiguous) to the tensor of ``item``."""

    def finish(self) -> None:
        """Complete what was written, after the last tensor."""


class Combiner(Protocol):
    """A merge method bound to a plan."""

    def __call__(
        self, tensor: TensorPlan, start: int, base: Buffer, deltas: Sequence[Buffer]
    ) -> Buffer:
        """Merge one piece: the elements from ``start`` on; ``deltas`` may be written over."""


class NoSink:
    """Takes everything and keeps nothing, for a dry run."""

    def write(self, item: TensorPlan, data: Buffer) -> None:
        """Drop the data."""

    def finish(self) -> None:
        """Do nothing."""


class ArraySink:
    """Collects the output in memory, one array per tensor, in the types of the plan."""

    def __init__(self, plan: Plan) -> None:
        self.data = {i.name: np.empty(i.nbytes, np.uint8) for i in plan.items}
        self._filled = dict.fromkeys(self.data, 0)

    def write(self, item: TensorPlan, data: Buffer) -> None:
        """Append ``data`` to the tensor of ``item``."""
        start = self._filled[item.name]
        raw = data.reshape(-1).view(np.uint8)
        self.data[item.name][start : start + raw.size] = raw
        self._filled[item.name] = start + raw.size

    def finish(self) -> None:
        """Do nothing."""


def keep_base(tensor: TensorPlan, start: int, base: Buffer, deltas: Sequence[Buffer]) -> Buffer:
    """Return a piece of the base as it is, for a look at the differences alone."""
    return base


class Room:
    """Memory for pieces, used again: new memory for every tensor costs as much as to read it."""

    def __init__(self) -> None:
        self._arrays: list[Buffer] = []

    def take(self, count: int, size: int, wide: Any) -> list[Buffer]:
        """Return ``count`` arrays of ``size`` elements; those of the call before are these."""
        if self._arrays and self._arrays[0].dtype != wide:
            self._arrays.clear()
        self._arrays = [array for array in self._arrays if array.size >= size]
        self._arrays += [np.empty(size, wide) for _ in range(count - len(self._arrays))]
        return [array[:size] for array in self._arrays[:count]]


def pieces(
    item: TensorPlan, chunk: int = CHUNK, *, room: Room | None = None
) -> Iterator[tuple[int, Buffer, list[Buffer]]]:
    """Yield start, base and task vectors of one merged tensor, piece by piece.

    The arithmetic is float32, or float64 where the base is. The arrays are used again for the next
    piece, and with ``room`` for the next tensor: copy what must stay.
    """
    wide = np.float64 if item.base.dtype == "F64" else np.float32
    room = Room() if room is None else room
    base, *deltas = room.take(1 + len(item.tuned), min(chunk, item.size), wide)
    for start in range(0, item.size, chunk):
        count = min(chunk, item.size - start)
        item.base.read(start, base[:count])
        for tensor, delta in zip(item.tuned, deltas, strict=True):
            tensor.read(start, delta[:count])
            if not getattr(tensor, "is_delta", False):
                np.subtract(delta[:count], base[:count], out=delta[:count])
        yield start, base[:count], [delta[:count] for delta in deltas]


def run(
    plan: Plan,
    sink: Sink,
    combine: Combiner = keep_base,
    *,
    allow_nonfinite: bool = False,
    chunk: int = CHUNK,
    advance: Advance = lambda _: None,
) -> list[Change]:
    """Stream the plan into the sink and measure, on the way, how each tuned model differs.

    Args:
        plan: What to do, with coefficients.
        sink: Where the bytes go.
        combine: The merge method, bound; the default measures and merges nothing.
        allow_nonfinite: Let NaN and infinities pass.
        chunk: Elements per piece.
        advance: Called with the number of elements done.

    Raises:
        LineageError: An input holds NaN or infinities.
        CheckpointError: A merged value does not fit the type that was asked for.
    """
    changes, room = [Change() for _ in plan.tuned], Room()
    with np.errstate(over="ignore", invalid="ignore"):
        for item in plan.items:
            if item.merged:
                _merge(plan, item, sink, combine, changes, allow_nonfinite, chunk, room, advance)
            else:
                _keep(plan, item, sink, allow_nonfinite, chunk, advance)
    sink.finish()
    return changes


def _keep(
    plan: Plan, item: TensorPlan, sink: Sink, allow: bool, chunk: int, advance: Advance
) -> None:
    if not item.is_float:
        step = chunk * 4
        for start in range(0, item.base.nbytes, step):
            sink.write(item, item.base.raw(start, min(start + step, item.base.nbytes)))
        advance(item.size)
        return
    wide = np.float64 if item.base.dtype == "F64" else np.float32
    for start in range(0, item.size, chunk):
        values = np.empty(min(chunk, item.size - start), wide)
        item.base.read(start, values)
        if not allow:
            _check_finite(plan.base, item, values)
        sink.write(item, _encode(item, values, not allow))
        advance(values.size)


def _merge(
    plan: Plan,
    item: TensorPlan,
    sink: Sink,
    combine: Combiner,
    changes: Sequence[Change],
    allow_nonfinite: bool,
    chunk: int,
    room: Room,
    advance: Advance,
) -> None:
    sums = [TensorChange(shape=item.base.shape) for _ in item.tuned]
    equal = [True] * len(item.tuned)
    for start, base, deltas in pieces(item, chunk, room=room):
        base_base = _dot(base, base)
        for index, delta in enumerate(deltas):
            total = sums[index]
            delta_delta = _dot(delta, delta)
            total.base_base += base_base
            total.base_delta += _dot(base, delta)
            total.delta_delta += delta_delta
            total.fills.see(base, delta)
            if not np.isfinite(base_base + delta_delta) and not allow_nonfinite:
                _check_finite(plan.base, item, base)
                _check_finite(plan.tuned[index], item, delta)
            if equal[index] and delta_delta != 0:
                equal[index] = _equal_when_rounded(item, index, start, base)
        checked = not allow_nonfinite or all(total.finite for total in sums)
        merged = base if item.alpha == 0 else combine(item, start, base, deltas)
        sink.write(item, _encode(item, merged, checked))
        advance(base.size)
    for index, change in enumerate(changes):
        change.tensors[item.canonical] = sums[index]
        if len(item.base.shape) > 1:
            change.matrices.add(item.canonical)
        if equal[index]:
            change.equal.add(item.canonical)


def _is_finite(encoded: Buffer, dtype: str) -> Buffer:
    if dtype == "BF16":
        return np.asarray((encoded & 0x7F80) != 0x7F80)
    return np.asarray(np.isfinite(encoded))


def _dot(first: Buffer, second: Buffer) -> float:
    # einsum stays on this thread; BLAS would wake others, which spin and compete with the digests
    return float(np.einsum("i,i", first, second))


def _encode(item: TensorPlan, values: Buffer, is_checked: bool) -> Buffer:
    """Return values in the type of the output; all are finite that were finite in the inputs.

    Args:
        item: The tensor.
        values: What is written.
        is_checked: Whether they must be finite; off where the inputs are not and may be so.

    Raises:
        CheckpointError: A value is beyond the range of the type, or not finite.
    """
    encoded = encode(values, item.dtype)
    if not _dot(values, values) < _LIMITS[item.dtype] ** 2:  # else none is beyond
        lost = np.isfinite(values) & ~_is_finite(encoded, item.dtype)
        if lost.any():
            largest = float(np.max(np.abs(values[lost])))
            raise CheckpointError(
                f"tensor {item.canonical} reaches {largest:.3g}, beyond the range of "
                f"{_TYPE_NAMES[item.dtype]}",
                hint="write a wider type, float32 or bfloat16, or take a smaller alpha",
            )
        if is_checked and not np.isfinite(values).all():
            raise CheckpointError(
                f"tensor {item.canonical} becomes NaN or infinite by the merge",
                hint="take a smaller alpha",
            )
    return encoded


def _check_finite(model: Checkpoint, item: TensorPlan, values: Buffer) -> None:
    bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    if bad:
        raise LineageError(
            f"{model.source}: tensor {item.canonical} holds NaN or infinite values "
            f"({bad} in one piece of {values.size})",
            hint=f"training diverged or the file is damaged; {way_past(['nonfinite'])} merges "
            "nevertheless",
        )


def _equal_when_rounded(item: TensorPlan, index: int, start: int, base: Buffer) -> bool:
    """Tell whether a piece is equal once both sides are rounded to the narrower type."""
    tensor: Tensor = item.tuned[index]
    narrow = min(item.base.dtype, tensor.dtype, key=lambda name: _NARROW[name])
    if item.base.dtype == tensor.dtype or getattr(tensor, "is_delta", False):
        return False
    tuned: np.ndarray[Any, np.dtype[Any]] = np.empty_like(base)
    tensor.read(start, tuned)
    return bool(np.array_equal(round_through(base, narrow), round_through(tuned, narrow)))
