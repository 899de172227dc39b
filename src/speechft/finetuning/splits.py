"""The cuts to fine-tune on and to select on, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from speechft.console import warn
from speechft.data.manifest import Corpus
from speechft.encoders.base import Encoder
from speechft.errors import DataError
from speechft.tasks import TASKS
from speechft.tasks.base import Task

if TYPE_CHECKING:
    from lhotse.cut import Cut


def labelled_splits(
    task: Task,
    corpus: Corpus,
    encoder: Encoder,
    splits: tuple[str, str] | None = None,
    *,
    need_dev: bool = True,
) -> tuple[list[Cut], list[Cut]]:
    """Return the cuts to train on and to select on; those that cannot be aligned are left out.

    Args:
        task: Says which label is needed, and what can be trained on.
        corpus: Where they come from.
        encoder: Says how many frames so many samples are.
        splits: Names of the splits, instead of those that the corpus names.
        need_dev: Whether a missing dev split is an error.

    Raises:
        DataError: A split or a label is missing, or nothing can be trained on.
    """
    probed = None if corpus.info.get("tuning_splits") else corpus.task_splits(task.name)[:2]
    names = _names(corpus, splits or probed, need_dev)
    for name in names:
        statistics = corpus.statistics[name]
        if statistics["labels"].get(task.label, 0) < statistics["utterances"]:
            raise DataError(
                f"fine-tuning on {task.name} needs label {task.label!r} for every utterance of "
                f"split {name}; corpus {corpus.name} does not have that",
                hint=f"set finetuning.task to one that it supports: {_tunable(corpus, names)}",
            )
    cuts = list(corpus.split(names[0]))
    kept = [
        cut for cut in cuts if not task.problem(cut, None, _frames(cut, encoder), training=True)
    ]
    if len(kept) < len(cuts):
        dropped = sorted({cut.id for cut in cuts} - {cut.id for cut in kept})
        warn(f"{len(dropped)} utterances are too short for their target, left out: {dropped[:5]}")
    if not kept:
        raise DataError(f"no utterance of split {names[0]} can be trained on")
    return kept, [cut for name in names[1:] for cut in corpus.split(name)]


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


def _tunable(corpus: Corpus, splits: Sequence[str]) -> str:
    """Return the names of the tasks whose labels these splits have throughout."""

    def has(split: str, label: str) -> bool:
        statistics = corpus.statistics.get(split, {"utterances": 0, "labels": {}})
        return bool(0 < statistics["utterances"] == statistics["labels"].get(label, 0))

    names = [t.name for t in TASKS.values() if all(has(split, t.label) for split in splits)]
    return ", ".join(names) or "none"


def _frames(cut: Cut, encoder: Encoder) -> int:
    samples = round(cut.duration * 16_000)
    return int(encoder.frame_lengths(torch.tensor(samples)))
