"""The cuts to fine-tune on and to select on, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from speechft.data.kept_cuts import picked
from speechft.data.labels import MAX_LEFT_OUT, Vocabulary
from speechft.data.losses import check_losses, without_split
from speechft.data.manifest import Corpus
from speechft.encoders.base import Encoder
from speechft.errors import ConfigError, DataError
from speechft.features.extract import count_frames
from speechft.finetuning.config import PRETRAINING
from speechft.tasks import TASKS
from speechft.tasks.base import Split, Task
from speechft.tasks.left_out import LeftOut, usable_splits
from speechft.tasks.parts import NO_FRAME

_SETTING = "finetuning.max_left_out"
"""Holds the limit, where no other does."""
_READ_FOR_ADVICE = 50_000
"""Utterances that are read for every other task, so that an error names those that work."""
_WITHOUT_DEV = "set finetuning.select=last to train without a dev split"


@dataclass(frozen=True)
class TuningSplits:
    """What one task is tuned and selected on."""

    train: Split
    dev: Split
    """Empty where there is no dev split."""
    vocabulary: Vocabulary
    context: Any
    """What scoring dev needs beside its cuts, from `Task.context`."""
    left_out: LeftOut


@dataclass(frozen=True)
class SplitReader:
    """Reads the splits of a corpus for fine-tuning.

    Args:
        corpus: Where they come from.
        encoder: Says how many frames so many samples are.
        splits: Names of train and dev, instead of those that the corpus names.
        need_dev: Whether a missing dev split is an error.
        limit: Largest share of a split that may be left out.
        setting: Name of the setting that holds it.
    """

    corpus: Corpus
    encoder: Encoder
    splits: tuple[str, str] | None = None
    need_dev: bool = True
    limit: float = MAX_LEFT_OUT
    setting: str = _SETTING

    def read(
        self, task: Task, vocabulary: Callable[[Split], Vocabulary] | None = None
    ) -> TuningSplits:
        """Return the cuts to train on and to select on, without what the task cannot use.

        Args:
            task: Says which label is needed, and what can be trained on.
            vocabulary: How symbols are collected; None as the task does it.

        Raises:
            ConfigError: The task trains nothing.
            DataError: A split is missing, too much of it is unusable, or its classes are too few.
        """
        try:
            return self._read(task, vocabulary or task.vocabulary)
        except (ConfigError, DataError) as error:
            error.hint = error.hint or self._advice(task)
            raise

    def read_unlabelled(self) -> tuple[Split, Split, LeftOut]:
        """Return the cuts to train on and to select on where no labels are needed.

        Raises:
            DataError: A split is missing, or too much of it is shorter than a frame.
        """
        names = self._existing(self.splits or self.corpus.tuning_splits(), _WITHOUT_DEV)
        left_out, kept = self._left_out(PRETRAINING, names), list[Split]()
        for name in names:
            cuts = self.corpus.cuts(name)
            counts = count_frames(self.encoder, cuts)
            kept.append(picked(cuts, (n for n, count in enumerate(counts) if count)))
            for cut in picked(cuts, (n for n, count in enumerate(counts) if not count)):
                left_out.add(name, cut.id, NO_FRAME)
            left_out.require(name, len(kept[-1]))
        return kept[0], kept[1] if len(kept) > 1 else [], left_out

    def _read(self, task: Task, vocabulary: Callable[[Split], Vocabulary]) -> TuningSplits:
        if not task.can_finetune:
            raise ConfigError(f"encoders cannot be fine-tuned on {task.name}: {task.no_finetuning}")
        corpus, limit = self.corpus, self.limit
        names = self._names(task)
        cuts = [corpus.cuts(name) for name in names]
        for name, part in zip(names, cuts, strict=True):
            labelled = sum(map(task.labelled, part))
            if not labelled or len(part) - labelled > limit * len(part):
                raise DataError(
                    f"fine-tuning on {task.name} needs label {task.label!r} for every utterance "
                    f"of split {name}; in corpus {corpus.name} {labelled} of {len(part)} have it"
                )
        left_out = self._left_out(task.name, names)
        frames = partial(count_frames, self.encoder)
        kept, known = usable_splits(task, names, cuts, frames, left_out, vocabulary=vocabulary)
        dev = kept[1] if len(kept) > 1 else []
        context = task.context(corpus, names[1], dev, left_out) if dev else None
        return TuningSplits(kept[0], dev, known, context, left_out)

    def _left_out(self, task: str, names: Sequence[str]) -> LeftOut:
        return LeftOut(task, self.limit, self.setting, self.corpus, names)

    def _names(self, task: Task) -> list[str]:
        """Return the names of the task's train and dev split."""
        own = None if self.corpus.info.get("tuning_splits") else self.corpus.task_splits(task.name)
        return self._existing(self.splits or (own and own[:2]) or self.corpus.tuning_splits())

    def _existing(self, names: tuple[str, str], advice: str | None = None) -> list[str]:
        """Return the names of the train split and, unless it may be missing and is, of dev."""
        known, found = self.corpus.statistics, []
        for place, name in enumerate(names):
            if known.get(name, {"utterances": 0})["utterances"]:
                found.append(name)
            elif place == 0 or self.need_dev:
                purpose, why = "select" if place else "fine-tune", without_split(self.corpus, name)
                raise DataError(
                    f"corpus {self.corpus.name} has no split {name!r} to {purpose} with: {why}",
                    hint=advice if place else None,
                )
        check_losses(self.corpus, found, self.limit, self.setting)
        return found

    def _advice(self, task: Task) -> str | None:
        """Return what would work instead, tried; None where nothing does."""
        relaxed = replace(self, need_dev=False)
        if self.need_dev and relaxed._suits(task):
            return _WITHOUT_DEV
        if others := self._suited():
            return f"set finetuning.task to one that it supports: {', '.join(others)}"
        if others := relaxed._suited():
            listed = ", ".join(others)
            return f"set finetuning.select=last and finetuning.task to one of these: {listed}"
        return None

    def _suited(self) -> list[str]:
        """Return the tasks that could be tuned on."""
        tasks = (task.at(self.encoder.timing) for task in TASKS.values())
        return [task.name for task in tasks if self._suits(task)]

    def _suits(self, task: Task) -> bool:
        """Return whether a task could be tuned on; a large corpus is judged by its statistics."""
        try:
            known = [self.corpus.statistics[name] for name in self._names(task)]
            if not all(s["labels"].get(task.label) for s in known) or not task.can_finetune:
                return False
            if sum(s["utterances"] for s in known) <= _READ_FOR_ADVICE:
                self._read(task, task.vocabulary)
        except (ConfigError, DataError):
            return False
        return True
