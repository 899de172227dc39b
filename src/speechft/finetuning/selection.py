"""Dev figures of a fine-tuning with its own heads: which step to take, and whether CTC is awake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from speechft.console import warn
from speechft.features.extract import group_by_length
from speechft.finetuning.examples import CachedFeatures, whole_batch
from speechft.finetuning.objective import TaskObjective, WeightedTask
from speechft.finetuning.state import is_sharded
from speechft.tasks.base import Item

if TYPE_CHECKING:
    from lhotse.cut import Cut

_BLANK_CHECK = 16


class DevEvaluator:
    """Evaluates a task objective on cuts; several processes share the work.

    Args:
        objective: Encoder and heads.
        cuts: By task.
        downsampled: Outputs of the frozen downsampler, by task, where they are kept.
        accelerator: Says where and in which precision to compute.
        batch_seconds: Audio in a batch.
        contexts: What scoring takes beside the cuts, by task, such as trials.
    """

    def __init__(
        self,
        objective: TaskObjective,
        cuts: Mapping[str, Sequence[Cut]],
        downsampled: Mapping[str, CachedFeatures | None],
        accelerator: Any,
        batch_seconds: float,
        contexts: Mapping[str, Any] | None = None,
    ) -> None:
        self.objective, self.cuts, self.downsampled = objective, cuts, downsampled
        self.accelerator, self.batch_seconds = accelerator, batch_seconds
        self.contexts = contexts or {}

    def evaluate(self) -> dict[str, float]:
        """Return the metric of each task; ``score`` is their mean, the higher the better."""
        figures: dict[str, float] = {"score": 0.0}
        for name, part in self.objective.parts.items():
            value = part.task.figure(self.items(name))
            sign = 1.0 if part.task.higher_is_better else -1.0
            figures["score"] += sign * value / len(self.cuts)
            metric = part.task.metric
            figures[metric if len(self.cuts) == 1 else f"{name} {metric}"] = value
        return figures

    def items(self, name: str) -> list[Item]:
        """Return what each utterance of a task counts, or each trial, sorted by id."""
        part, cuts = self.objective.parts[name], self.cuts[name]
        solved = self._predictions(name)
        predictions = [solved[cut.id][0] for cut in cuts]
        targets = [part.task.target(cut, part.vocabulary, solved[cut.id][1]) for cut in cuts]
        items = part.task.items(
            cuts, predictions, targets, part.vocabulary, self.contexts.get(name)
        )
        return sorted(items, key=lambda item: item.id)

    def _predictions(self, name: str) -> dict[str, tuple[Any, int]]:
        """Return the prediction and the frames of every cut, by its id."""
        self.objective.eval()
        share = self.accelerator.num_processes > 1 and not is_sharded(self.objective)
        groups = list(group_by_length(self.cuts[name], self.batch_seconds))
        if share:
            groups = groups[self.accelerator.process_index :: self.accelerator.num_processes]
        found: list[tuple[str, Any, int]] = []
        with torch.no_grad():
            for group in groups:
                found += self._predicted(group, self.objective.parts[name])
        if share:
            from accelerate.utils import gather_object

            found = gather_object(found)
        return {name: (prediction, frames) for name, prediction, frames in found}

    def _predicted(self, group: list[Cut], part: WeightedTask) -> list[tuple[str, Any, int]]:
        objective, task, vocabulary = self.objective, part.task, part.vocabulary
        batch = whole_batch(group, self.downsampled[task.name]).to(self.accelerator.device)
        batch = replace(batch, task=task.name)
        with self.accelerator.autocast():
            logits = objective(batch)
        lengths = objective.encoder.frame_lengths(batch.lengths)
        predictions = task.predict(logits.float(), lengths, vocabulary)
        frames = lengths.tolist()
        return [(c.id, p, n) for c, p, n in zip(group, predictions, frames, strict=True)]


def warn_if_all_blank(dev: DevEvaluator) -> None:
    """Warn where CTC gives nothing but blanks when the encoder is about to learn.

    The gradients that reach the encoder then come from a head that has learned nothing yet, which
    is what the head-only updates are meant to prevent.
    """
    for name in dev.cuts:
        few = {task: cuts[:_BLANK_CHECK] if task == name else [] for task, cuts in dev.cuts.items()}
        sample = DevEvaluator(
            dev.objective, few, dev.downsampled, dev.accelerator, dev.batch_seconds
        )
        blanks = [item.counts.get("blank_ratio") for item in sample.items(name)]
        if blanks and all(share == 1.0 for share in blanks):
            warn(
                f"task {name}: CTC still gives nothing but blanks at the unfreeze step; the head "
                "needs more updates alone (finetuning.head_only) or a higher learning rate"
            )
