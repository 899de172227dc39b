"""The three kinds of output: a Hugging Face folder, an s3prl file, a bare safetensors file."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from speechft.cards.card import CARD_NAME
from speechft.commands import option, takes
from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.encoders.conversion.s3prl import s3prl_checkpoint
from speechft.encoders.conversion.settings import implied_normalisation, published_settings
from speechft.encoders.conversion.tensors import ArrayTensor, Buffer
from speechft.encoders.families import find_family
from speechft.errors import CheckpointError
from speechft.merging.card import model_card
from speechft.merging.memory import as_torch
from speechft.merging.output import (
    METADATA,
    REPORT_NAME,
    SafetensorsWriter,
    is_earlier_merge,
)
from speechft.merging.plan import Plan, TensorPlan
from speechft.merging.report import MergeReport
from speechft.merging.stream import ArraySink, Sink
from speechft.naming import public_config
from speechft.runs import publish
from speechft.storage.files import CONFIG_NAME, PROCESSOR_NAME, write_json, write_text

Stream = Callable[[Sink], MergeReport]
_TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


class _Remembering:
    """A file that remembers why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write, or remember the error and raise it."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        """Hand buffered data to the system."""
        self._file.flush()


def write_folder(out: Path, plan: Plan, stream: Stream, shard_bytes: int) -> MergeReport:
    """Write an encoder folder: weights, config and processor of the base, card, and report.

    Args:
        out: The folder.
        plan: What is merged.
        stream: Runs the merge into a sink and reports.
        shard_bytes: Largest size of one weight file.

    Raises:
        CheckpointError: The base does not tell its configuration.
        RunError: The folder cannot be written.
    """
    config, processor = folder_settings(plan)
    with publish(out, earlier=lambda: is_earlier_merge(out)) as folder:
        folder.mkdir()
        writer = SafetensorsWriter(folder, plan.items, shard_bytes=shard_bytes)
        try:
            report = stream(writer)
        except BaseException:
            writer.abort()
            raise
        write_json(folder / CONFIG_NAME, config)
        if processor is not None:
            write_json(folder / PROCESSOR_NAME, processor)
        told = report.public()
        write_json(folder / REPORT_NAME, told.as_dict())
        write_text(folder / CARD_NAME, model_card(told, plan))
    return report


def folder_settings(plan: Plan) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return ``config.json`` and ``preprocessor_config.json`` of the output folder.

    Raises:
        CheckpointError: Neither the base nor a file beside it tells its configuration.
    """
    base = plan.base
    config = public_config(_published(base) if base.config is None else base.config)
    processor = base.processor
    if base.folder is None:
        normalize = config.pop("do_normalize", None)
        family = find_family(config.get("model_type"))
        if base.files and family is not None:
            implied = implied_normalisation(config) if normalize is None else normalize
            processor = family.processor({**config, "do_normalize": implied})
    kinds = {item.dtype for item in plan.items if item.is_float}
    if len(kinds) == 1:
        config.pop("torch_dtype", None)
        config["dtype"] = _TORCH_NAMES[kinds.pop()]
    return config, processor


def _published(base: Checkpoint) -> dict[str, Any]:
    """Return the configuration of a base that tells none, where its sizes are published ones."""
    try:
        return published_settings(base)
    except CheckpointError as error:
        weights = option("out", "NAME.safetensors")
        bare = f", or write bare weights, {weights}" if takes("to") else ""
        raise CheckpointError(
            f"a Hugging Face folder needs a configuration: {error.message}",
            hint="give the base as a folder with config.json, or put NAME.config.json beside its "
            f"file{bare}",
        ) from None


def write_tensors(out: Path, plan: Plan, stream: Stream) -> MergeReport:
    """Write one bare safetensors file, atomically.

    Raises:
        RunError: The file cannot be written.
    """
    with _safetensors_file(out, plan.items, METADATA) as writer:
        report = stream(writer)
    return report


def write_tensors_file(
    out: Path, items: Sequence[TensorPlan], content: Iterable[Buffer], metadata: Mapping[str, str]
) -> None:
    """Write tensors that are given as pieces in the order of ``items``, atomically.

    Raises:
        RunError: The file cannot be written.
    """
    with _safetensors_file(out, items, metadata) as writer:
        pieces = iter(content)
        for item in items:
            left = item.nbytes
            while left:
                piece = next(pieces)
                writer.write(item, piece)
                left -= piece.nbytes
        writer.finish()


def blank_item(name: str, dtype: str, shape: tuple[int, ...]) -> TensorPlan:
    """Return a tensor of a file by name, type and shape, whose bytes are written later."""
    count = math.prod(shape) * {"I8": 1, "F16": 2, "F32": 4}[dtype]
    nothing = np.broadcast_to(np.zeros(1, np.int8), (count,))
    return TensorPlan(name, name, False, "", dtype, ArrayTensor(name, dtype, shape, nothing), ())


@contextlib.contextmanager
def _safetensors_file(
    out: Path, items: Sequence[TensorPlan], metadata: Mapping[str, str]
) -> Iterator[SafetensorsWriter]:
    with publish(out) as hidden:
        writer = SafetensorsWriter(
            hidden.parent, items, shard_bytes=2**63, name=hidden.name, metadata=metadata
        )
        try:
            yield writer
        except BaseException:
            writer.abort()
            raise


def write_s3prl(out: Path, plan: Plan, stream: Stream) -> MergeReport:
    """Write an s3prl upstream checkpoint, atomically; the merged model is held in memory.

    Raises:
        CheckpointError: The base does not tell its configuration.
        RunError: The file cannot be written.
    """
    import torch

    sink = ArraySink(plan)
    report = stream(sink)
    weights = {item.name: as_torch(item, sink.data[item.name]) for item in plan.items}
    content = s3prl_checkpoint(plan.base, weights)
    with publish(out) as hidden, open(hidden, "wb") as file:
        remembering = _Remembering(file)
        try:
            torch.save(content, cast(BinaryIO, remembering))
        except RuntimeError:  # torch hides the system's refusal behind its own error
            if remembering.error is not None:
                raise remembering.error from None
            raise
    return report
