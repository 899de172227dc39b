"""One base and its tuned models merged again and again: read once, nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.encoders.conversion.tensors import Buffer
from speechft.encoders.load import digest_if_written
from speechft.encoders.opening import open_encoder
from speechft.merging.checks import unique
from speechft.merging.config import MergeSettings
from speechft.merging.execution import check_delta, check_weights, prepare_opened
from speechft.merging.lineage import Change
from speechft.merging.memory import as_torch
from speechft.merging.output import WeightDigests
from speechft.merging.plan import TensorPlan
from speechft.merging.sources import open_models
from speechft.merging.stream import ArraySink, run
from speechft.merging.writers import folder_settings
from speechft.storage.files import json_digest


@dataclass(frozen=True)
class Merged:
    """What a merge into a folder would have written."""

    checkpoint: Checkpoint
    """As that folder would open."""
    weights: tuple[str, ...]
    """SHA-256 of its files of weights."""
    changes: tuple[Change, ...]
    """How each tuned model differs from the base."""


class Merger:
    """Merges the same models with other settings; the models are in memory, as they are stored.

    What comes out is what `speechft.merging.execution.write_merge` writes into a folder, rounded to
    the type that is written, to the bit: both go through the same plan, method and stream.

    Args:
        base: The base, as `merge` takes it.
        tuned: The models tuned from it.

    Raises:
        LineageError: The models do not belong together, or one of them is the base.
        CheckpointError: One cannot be read.
    """

    def __init__(self, base: Any, tuned: Sequence[Any]) -> None:
        opened, models = open_models(base, tuned)
        self._base, self._models = _held(opened), [_held(model) for model in models]
        self._checked = False
        self._last: tuple[MergeSettings, Merged] | None = None
        self._digests: dict[str, str] = {}
        self.names = [opened.names.get(name, name) for name in opened.tensors]
        """Hugging Face names of the tensors of the base."""
        self.forced: tuple[str, ...] = ()
        """What spoke against merges so far and was let pass, see `MergeSettings.allow`."""

    def merge(self, settings: MergeSettings) -> Merged:
        """Merge, or return the last merge again where its settings were these.

        Args:
            settings: Coefficients and method.

        Raises:
            LineageError: See the class.
            ConfigError: A setting does not fit the models.
        """
        if self._last is None or self._last[0] != settings:
            self._last = None  # its weights go before others come
            self._last = settings, self._merge(settings)
        return self._last[1]

    def digest(self, settings: MergeSettings) -> str:
        """Return the digest of the folder that `merge` would write, merging once to know it.

        Raises:
            SpeechftError: As `merge`.
        """
        key = json_digest(settings.changed())
        if key not in self._digests:
            merged = self.merge(settings)
            told = merged.checkpoint.config or {}, merged.checkpoint.processor
            self._digests[key] = digest_if_written(merged.weights, *told)
        return self._digests[key]

    def _merge(self, settings: MergeSettings) -> Merged:
        config = settings.of(self._base.source, [model.source for model in self._models])
        ready = prepare_opened(config, self._base, self._models, "hf")
        written = folder_settings(ready.plan)
        sink = _Both(ready.plan.items, ArraySink(ready.plan))
        allow_nonfinite = "nonfinite" in config.allowed
        changes = run(ready.plan, sink, ready.combine, allow_nonfinite=allow_nonfinite)
        objections = check_weights(ready, changes)
        if not self._checked:
            objections += check_delta(ready)
            self._checked = True
        state = {i.name: as_torch(i, sink.arrays.data[i.name]) for i in ready.plan.items}
        found, (settings_written, processor) = open_encoder(state, "merged"), written
        checkpoint = replace(
            found,
            source=f"the merge of {self._base.source}",
            format="hf",
            family=str(settings_written.get("model_type") or found.family),
            config=settings_written,
            processor=processor,
        )
        self.forced = tuple(unique([*self.forced, *objections]))
        return Merged(checkpoint, tuple(sink.digests.result()), tuple(changes))


class _Both:
    """Collects a merge in memory, and digests what a file of it would hold."""

    def __init__(self, items: Sequence[TensorPlan], arrays: ArraySink) -> None:
        self.arrays, self.digests = arrays, WeightDigests(items)

    def write(self, item: TensorPlan, data: Buffer) -> None:
        """Take ``data`` for both."""
        self.arrays.write(item, data)
        self.digests.write(item, data)

    def finish(self) -> None:
        """Do nothing."""


def _held(model: Checkpoint) -> Checkpoint:
    """Return a checkpoint with its tensors in memory, in the stored types."""
    held: dict[str, Any] = dict(model.tensors)
    tensors = {n: t.held() if hasattr(t, "held") else t for n, t in held.items()}
    return replace(model, tensors=tensors)
