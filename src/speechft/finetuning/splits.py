"""The cuts to fine-tune on and to select on, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from speechft.data.labels import MAX_LEFT_OUT, Vocabulary
from speechft.data.manifest import Corpus
from speechft.encoders.base import Encoder
from speechft.errors import ConfigError, DataError
from speechft.features.extract import count_frames
from speechft.tasks import TASKS
from speechft.tasks.base import Split, Task
from speechft.tasks.left_out import LeftOut, usable_splits

if TYPE_CHECKING:
    from lhotse.cut import Cut

_SETTING = "finetuning.max_left_out"


@dataclass(frozen=True)
class TuningSplits:
    """What one task is tuned and selected on."""

    train: list[Cut]
    dev: list[Cut]
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
    """

    corpus: Corpus
    encoder: Encoder
    splits: tuple[str, str] | None = None
    need_dev: bool = True
    limit: float = MAX_LEFT_OUT

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
            if error.hint is None and (others := self._suited()):
                error.hint = f"set finetuning.task to one that it supports: {', '.join(others)}"
            raise

    def _read(self, task: Task, vocabulary: Callable[[Split], Vocabulary]) -> TuningSplits:
        if not task.can_finetune:
            raise ConfigError(f"encoders cannot be fine-tuned on {task.name}: {task.no_finetuning}")
        corpus, limit = self.corpus, self.limit
        names = self._names(task)
        cuts = [list(corpus.split(name)) for name in names]
        for name, part in zip(names, cuts, strict=True):
            labelled = sum(map(task.labelled, part))
            if not labelled or len(part) - labelled > limit * len(part):
                raise DataError(
                    f"fine-tuning on {task.name} needs label {task.label!r} for every utterance "
                    f"of split {name}; in corpus {corpus.name} {labelled} of {len(part)} have it"
                )
        left_out = LeftOut(task.name, limit, _SETTING)
        frames = partial(count_frames, self.encoder)
        kept, known = usable_splits(task, names, cuts, frames, left_out, vocabulary=vocabulary)
        dev = kept[1] if len(kept) > 1 else []
        context = task.context(corpus, names[1], dev, left_out) if dev else None
        return TuningSplits(kept[0], dev, known, context, left_out)

    def _names(self, task: Task) -> list[str]:
        """Return the names of the task's train and dev split."""
        own = None if self.corpus.info.get("tuning_splits") else self.corpus.task_splits(task.name)
        return _names(self.corpus, self.splits or (own and own[:2]), self.need_dev)

    def _suited(self) -> list[str]:
        """Return the tasks that could be tuned on."""
        return [task.name for task in TASKS.values() if self._suits(task)]

    def _suits(self, task: Task) -> bool:
        try:
            self._read(task, task.vocabulary)
        except (ConfigError, DataError):
            return False
        return True


def unlabelled_splits(
    corpus: Corpus, splits: tuple[str, str] | None = None, *, need_dev: bool = True
) -> tuple[list[Cut], list[Cut]]:
    """Return the cuts to train on and to select on where no labels are needed."""
    names = _names(corpus, splits, need_dev)
    return list(corpus.split(names[0])), [c for name in names[1:] for c in corpus.split(name)]


def _names(corpus: Corpus, splits: tuple[str, str] | None, need_dev: bool) -> list[str]:
    """Return the names of the train split and, unless it may be missing and is, the dev split."""
    names = list(splits or corpus.tuning_splits())
    for name in list(names):
        if corpus.statistics.get(name, {"utterances": 0})["utterances"]:
            continue
        dev = name == names[-1]
        if dev and not need_dev:
            names.remove(name)
            continue
        raise DataError(
            f"corpus {corpus.name} has no split {name!r} to {'select' if dev else 'fine-tune'} "
            f"with; it has: {', '.join(corpus.statistics)}",
            hint="set finetuning.select=last to train without a dev split" if dev else None,
        )
    return names
