"""Delta files: the task vector of one tuned model, with the digest of the base it belongs to.

A safetensors file with Hugging Face names. ``float32`` is exact: merging with it gives the same
bits as merging with the tuned model. ``float16`` and ``int8`` store each row divided by its largest
magnitude, with the divisor in ``<name>::scale``; the error is measured and kept in the file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speechft.commands import command
from speechft.encoders.conversion.delta_tensors import DELTA_KEY, SCALE_SUFFIX
from speechft.encoders.conversion.tensors import Buffer, encode
from speechft.encoders.opening import open_encoder
from speechft.errors import CheckpointError, ConfigError, LineageError, unknown_choice
from speechft.merging import lineage
from speechft.merging.checks import FORCED, read_allowed, refuse
from speechft.merging.digests import InputDigests, combined_digest
from speechft.merging.low_rank import LowRankReport, write_low_rank
from speechft.merging.output import check_replaceable
from speechft.merging.plan import Plan, TensorPlan, build_plan
from speechft.merging.report import some
from speechft.merging.sources import check_not_input, open_models
from speechft.merging.stream import NoSink, pieces, run
from speechft.merging.writers import blank_item, write_tensors_file
from speechft.naming import public, public_config
from speechft.storage.outputs import overwriting
from speechft.storage.uploads import moved_up

if TYPE_CHECKING:
    import torch

DTYPES = {"float32": "F32", "float16": "F16", "int8": "I8"}
_LARGEST = {"F16": 1.0, "I8": 127.0}


@dataclass(frozen=True)
class DeltaReport:
    """What was written."""

    out: Path
    tensors: int
    nbytes: int
    dtype: str
    relative_error: float
    """Norm of the rounding error over the norm of the task vector; 0 for float32."""
    largest_error: float
    """Largest rounding error of an entry."""
    base_digest: str | None
    tuned_digest: str | None
    set_aside: tuple[str, ...]
    forced: tuple[str, ...] = ()
    """Objections that were overridden."""

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        return asdict(self) | {"out": str(self.out)}

    def lines(self) -> list[str]:
        """Return the report for people, one fact a line."""
        lines = [
            f"wrote {self.out}: {self.tensors} tensors, {self.nbytes / 1e6:.1f} MB, {self.dtype}, "
            f"relative error {self.relative_error:.2g}"
        ]
        if self.set_aside:
            lines.append(f"  set aside (heads of the tuned model): {some(self.set_aside, 40)}")
        return lines + [f"  forced: {objection}" for objection in self.forced]


@moved_up("out")
def make_delta(
    base: Any,
    tuned: Any,
    out: str | Path,
    *,
    dtype: str = "float32",
    rank: int | None = None,
    allow: str | Sequence[str] = (),
    force: bool = False,
    overwrite: bool = False,
) -> DeltaReport | LowRankReport:
    """Write the task vector tuned minus base, or the LoRA of a rank that is nearest to it.

    Args:
        base: The base: folder, file, state dict or module.
        tuned: A model tuned from it.
        out: File to write, ``.safetensors``; with a rank, the folder of a PEFT adapter.
        dtype: ``float32``, ``float16`` or ``int8``.
        rank: Of a LoRA on every linear layer, see `speechft.merging.low_rank`; None keeps all.
        allow: Names of checks that may fail, of `speechft.merging.checks.CHECKS`, such as
            ``"zeros,scale"``; NaN and infinities are refused all the same.
        force: Short for ``allow="family,base,equal,lineage"``.
        overwrite: Replace a file that no command of ours wrote.

    Raises:
        LineageError: The models do not belong together.
        CheckpointError: An input cannot be read.
        ConfigError: ``dtype`` or a check is unknown.
        RunError: The file cannot be written.
    """
    place = Path(os.path.expanduser(out))
    if dtype not in DTYPES:
        raise unknown_choice("delta dtype", dtype, DTYPES)
    allowed = (*read_allowed(allow), *(FORCED if force else ()))
    if rank is None and place.suffix != ".safetensors":
        raise ConfigError(f"{out} does not end in .safetensors, as a delta file's name must")
    if rank is not None and (place.suffix == ".safetensors" or dtype != "float32"):
        raise ConfigError(
            f"with --rank a folder is written, in float32, not {out} in {dtype}",
            hint="name a folder, and leave out --dtype",
        )
    opened, (model,) = open_models(base, [tuned])
    if model.format == "delta":
        raise CheckpointError(
            f"{model.source} is a delta file already",
            hint="give the tuned model itself to write its delta in another type",
        )
    check_not_input(place, (opened, model))
    with overwriting(overwrite):
        check_replaceable(place, is_folder=rank is not None)
    plan = build_plan(opened, [model], "tensors")
    digests = InputDigests([*opened.files, *model.files])
    try:
        change, objections = _check(plan, allowed)
        known = digests.result()
    finally:
        digests.cancel()
    told_digests = (
        combined_digest(opened.folder, opened.files, known) if opened.files else None,
        combined_digest(model.folder, model.files, known) if model.files else None,
    )
    if rank is not None:
        with overwriting(overwrite):
            return write_low_rank(
                place, plan, change, rank, digests=told_digests, forced=objections
            )
    stored = DTYPES[dtype]
    scales = {item.canonical: _scales(item, stored) for item in plan.merged if stored != "F32"}
    errors, config = _errors(plan, stored, scales), opened.settings()
    details: dict[str, Any] = {
        "base": opened.source,
        "base_digest": told_digests[0],
        "tuned": model.source,
        "tuned_digest": told_digests[1],
        "dtype": dtype,
        "relative_error": errors[0],
        "largest_error": errors[1],
        "family": opened.family,
        "config": None if config is None else public_config(config),
        "forced": objections,
        "set_aside": plan.set_aside[0],
    }
    items = _items(plan, stored, scales)
    told = public(details, (opened.source, model.source))
    metadata = {"format": "pt", DELTA_KEY: json.dumps(told)}
    with overwriting(overwrite):
        write_tensors_file(place, items, _content(plan, stored, scales), metadata)
    return DeltaReport(
        place,
        len(plan.merged),
        sum(item.nbytes for item in items),
        dtype,
        errors[0],
        errors[1],
        details["base_digest"],
        details["tuned_digest"],
        plan.set_aside[0],
        tuple(objections),
    )


def load_delta(path: str | Path) -> dict[str, torch.Tensor]:
    """Return a delta file's task vector as float32 torch tensors by Hugging Face name.

    Raises:
        CheckpointError: The file is not a delta file.
    """
    import torch

    checkpoint = open_encoder(path)
    if checkpoint.format != "delta":
        raise CheckpointError(
            f"{path} is not a delta file",
            hint=f"make one with: {command('delta', 'BASE', 'TUNED', out='FILE')}",
        )
    state = {}
    for name, tensor in checkpoint.tensors.items():
        values = np.empty(math.prod(tensor.shape), np.float32)
        tensor.read(0, values)
        state[name] = torch.from_numpy(values.reshape(tensor.shape))
    return state


def _check(plan: Plan, allowed: Sequence[str]) -> tuple[lineage.Change, list[str]]:
    objections = refuse(lineage.check_models(plan.base, plan.tuned), allowed)
    try:
        change = run(plan, NoSink(), allow_nonfinite=False)[0]
    except LineageError as error:
        raise LineageError(error.message, hint="training diverged or a file is damaged") from None
    objections += refuse(lineage.check_weights(plan.base, plan.tuned[0], change), allowed)
    return change, objections


def _finite(item: TensorPlan, values: Buffer) -> Buffer:
    """Return float32 values that are written, unless one is beyond the type."""
    if not np.isfinite(values).all():
        raise CheckpointError(
            f"the task vector of {item.canonical} is beyond the range of float32",
            hint="its base or tuned model is damaged",
        )
    return values


def _rows(item: TensorPlan) -> int:
    return item.base.shape[0] if len(item.base.shape) > 1 else 1


def _scales(item: TensorPlan, stored: str) -> Buffer:
    """Return the divisor of every row: its largest magnitude over what the type can hold."""
    rows = _rows(item)
    width = max(item.size // max(rows, 1), 1)
    largest = np.zeros(rows, np.float32)
    for start, _, deltas in pieces(item):
        index = np.arange(start, start + deltas[0].size) // width
        np.maximum.at(largest, index, np.abs(deltas[0]).astype(np.float32))
    largest[largest == 0] = 1
    return (largest / np.float32(_LARGEST[stored])).astype(np.float32)


def _quantise(delta: Buffer, item: TensorPlan, start: int, stored: str, scale: Buffer) -> Buffer:
    width = max(item.size // _rows(item), 1)
    scaled = delta / scale[np.arange(start, start + delta.size) // width]
    if stored == "F16":
        return encode(scaled.astype(np.float32), "F16")
    return np.rint(scaled).astype(np.int8)


def _errors(plan: Plan, stored: str, scales: Mapping[str, Buffer]) -> tuple[float, float]:
    if stored == "F32":
        return 0.0, 0.0
    error = whole = largest = 0.0
    for item in plan.merged:
        scale = scales[item.canonical]
        width = max(item.size // _rows(item), 1)
        for start, _, deltas in pieces(item):
            row = scale[np.arange(start, start + deltas[0].size) // width]
            back = _quantise(deltas[0], item, start, stored, scale).astype(np.float32) * row
            difference = back - deltas[0]
            error += float(np.dot(difference, difference))
            whole += float(np.dot(deltas[0], deltas[0]))
            largest = max(largest, float(np.max(np.abs(difference), initial=0.0)))
    return math.sqrt(error / whole) if whole else 0.0, largest


def _items(plan: Plan, stored: str, scales: Mapping[str, Buffer]) -> list[TensorPlan]:
    """Return what the file holds, wide types first: scales, then task vectors."""
    items = [
        blank_item(name + SCALE_SUFFIX, "F32", (scale.size,)) for name, scale in scales.items()
    ]
    return items + [blank_item(i.canonical, stored, i.base.shape) for i in plan.merged]


def _content(plan: Plan, stored: str, scales: Mapping[str, Buffer]) -> Iterator[Buffer]:
    """Yield the bytes of the file's tensors in the order of `_items`."""
    for item in plan.merged:
        if item.canonical in scales:
            yield _finite(item, scales[item.canonical])
    for item in plan.merged:
        for start, _, deltas in pieces(item):
            if stored == "F32":
                yield _finite(item, np.array(deltas[0], np.float32))
            else:
                yield _quantise(deltas[0], item, start, stored, scales[item.canonical])
