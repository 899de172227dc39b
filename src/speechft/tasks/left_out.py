"""Items that a task cannot use: found before anything is trained, counted, named in a file.

Evaluation and fine-tuning go over their splits with `usable_splits`; what it leaves out is in a
`LeftOut`. One bad item never ends the work; too many of them do.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechft.console import warn
from speechft.data.kept_cuts import chosen, picked
from speechft.data.labels import Vocabulary
from speechft.data.losses import losses_of, lost_beside
from speechft.errors import DataError
from speechft.storage.files import atomic_write

if TYPE_CHECKING:
    from lhotse.cut import Cut

    from speechft.data.manifest import Corpus
    from speechft.tasks.base import Split, Task

PREPARED = "when the corpus was prepared: "
"""Stands before the kinds of what a corpus lost, where they are counted with what a task lost."""
_NAMED, _SHOWN = 10, 3
"""Items that an error names, and a warning."""

FrameCounter = Callable[[Sequence["Cut"]], Sequence[int]]
"""From cuts to the frames that an encoder makes of each."""
Divide = Callable[["Split", "Split"], tuple["Split", "Split"]]
"""From labelled train and dev cuts to those that are trained and chosen on."""


class LeftOut:
    """What was left out of the splits of a task, and why.

    Args:
        task: Key of the task.
        limit: Largest share of a split that may be left out; 1 never refuses.
        setting: Name of the setting that holds the limit.
        corpus: What it lost when it was prepared counts too; None where that is not known.
        splits: Those of it that are read.
    """

    def __init__(
        self,
        task: str,
        limit: float,
        setting: str,
        corpus: Corpus | None = None,
        splits: Iterable[str] = (),
    ) -> None:
        self.task, self.limit, self.setting, self.corpus = task, limit, setting, corpus
        self.splits = tuple(splits)
        self._items: dict[tuple[str, str], str] = {}
        self._pairs: dict[tuple[str, str], str] = {}
        self._passed: dict[str, frozenset[str]] = {}

    def add(self, split: str, name: str, reason: str) -> None:
        """Leave a recording out of a split."""
        self._items.setdefault((split, name), reason)

    def add_pairs(self, split: str, names: Iterable[str], reason: str) -> None:
        """Leave trials out, or pairs of query and document, called ``one|other``."""
        for name in names:
            self._pairs.setdefault((split, name), reason)

    def of(self, split: str) -> dict[str, str]:
        """Return the reasons by the ids of the recordings that are left out of a split."""
        return {name: reason for (where, name), reason in self._items.items() if where == split}

    def pass_over(self, split: str, names: Iterable[str]) -> None:
        """Note recordings that were not asked for: pairs of them go too, and nothing counts."""
        self._passed[split] = self.passed(split) | frozenset(names)

    def passed(self, split: str) -> frozenset[str]:
        """Return the ids of the recordings of a split that were not asked for."""
        return self._passed.get(split, frozenset())

    def counts(self) -> dict[str, int]:
        """Return how many items were left out by reason; one of several folds counts once.

        Those that the corpus lost before have `PREPARED` before their kind.
        """
        lost = {} if self.corpus is None else losses_of(self.corpus, self.splits)
        return {**self._own(), **{f"{PREPARED}{kind}": lost[kind] for kind in sorted(lost)}}

    def _own(self) -> dict[str, int]:
        """Return how many items the task could not use by reason."""
        found = {(name, why) for (_, name), why in [*self._items.items(), *self._pairs.items()]}
        return dict(sorted(Counter(reason for _, reason in found).items()))

    def allows(self, count: float, total: float) -> bool:
        """Return whether so many of all items of a split may be left out."""
        return count <= self.limit * total

    def require(self, split: str, kept: int) -> None:
        """Refuse a split of which too much was left out, or everything.

        Args:
            split: Its name.
            kept: How many items are left.

        Raises:
            DataError: Names some of what was left out.
        """
        left = self.of(split)
        total = kept + len(left)
        lost = 0.0 if self.corpus is None else lost_beside(self.corpus, split, total)
        if not left or (kept and self.allows(len(left) + lost, total + lost)):
            return
        names = [f"{name} ({reason})" for name, reason in sorted(left.items())]
        more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
        listed = ", ".join(names[:_NAMED] + more)
        if not kept:
            why = f"{self.task} cannot use any of the {total} items of split {split}"
            advice = "give it a split that the task can use"
        else:
            lost_too = f" beside the {lost:.3g} that preparation left out" if lost else ""
            why = (
                f"{self.task} cannot use {len(left)} of the {total} items of split {split}"
                f"{lost_too}, more than the {100 * self.limit:g} % that may be left out"
            )
            advice = f"mend these items or take them out, or raise {self.setting} (1 never refuses)"
        raise DataError(f"task {why}: {listed}", hint=advice)

    def report(self) -> None:
        """Warn of what was left out, in one line a reason."""
        names: dict[str, list[str]] = {}
        for (_, name), reason in sorted({**self._items, **self._pairs}.items()):
            names.setdefault(reason, []).append(name)
        for reason, count in self._own().items():
            shown = ", ".join(dict.fromkeys(names[reason][:_SHOWN]))
            more = ", ..." if count > _SHOWN else ""
            warn(f"task {self.task}: {count} left out, {reason}: {shown}{more}")

    def write(self, file: Path) -> None:
        """Write a JSON line ``{id, split, reason}`` for every item; nothing if there is none."""
        entries = sorted([*self._items.items(), *self._pairs.items()])
        if not entries:
            return
        with atomic_write(file) as out:
            for (split, name), reason in entries:
                line = {"id": name, "split": split, "reason": reason}
                out.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


def usable_splits(
    task: Task,
    names: Sequence[str],
    splits: Sequence[Split],
    frames: FrameCounter,
    left_out: LeftOut,
    *,
    vocabulary: Callable[[Split], Vocabulary] | None = None,
    divide: Divide | None = None,
) -> tuple[list[Split], Vocabulary]:
    """Return the splits without what the task cannot use, in their order, and the vocabulary.

    Labels are looked at first, then the vocabulary is collected from what is left of training, and
    everything is held against it; what it makes unusable in training may take symbols with it, so
    that this is done until nothing changes.

    Args:
        task: What they are for.
        names: Of the splits, training first.
        splits: Their cuts; may be empty.
        frames: Of the encoder.
        left_out: Is told what is left out.
        vocabulary: How symbols are collected; None as the task does it.
        divide: Makes training and dev cuts of those that are labelled, such as chunks.

    Raises:
        DataError: Too much of a split is unusable, or training gives no vocabulary.
    """
    kept = [
        _kept(task, name, cuts, None, frames, left_out, training=place == 0)
        for place, (name, cuts) in enumerate(zip(names, splits, strict=True))
    ]
    for name, reason in task.outliers(kept[0]).items():
        left_out.add(names[0], name, reason)
    odd = left_out.of(names[0])
    if odd:
        kept[0] = chosen(kept[0], lambda cut: cut.id not in odd)
    given = [place for place, cuts in enumerate(splits) if cuts]
    for place in given:
        left_out.require(names[place], len(kept[place]))
    if divide is not None:
        kept[0], kept[1] = divide(kept[0], kept[1])
    collect, count = vocabulary or task.vocabulary, -1
    while count != len(kept[0]):
        count = len(kept[0])
        known = _collected(collect, kept[0], names[0], left_out)
        kept[0] = _kept(task, names[0], kept[0], known, frames, left_out, training=True)
    for place, name in enumerate(names[1:], 1):
        kept[place] = _kept(task, name, kept[place], known, frames, left_out)
    for place in given:
        left_out.require(names[place], len(kept[place]))
    return kept, known


def _kept(
    task: Task,
    name: str,
    cuts: Split,
    vocabulary: Vocabulary | None,
    frames: FrameCounter,
    left_out: LeftOut,
    *,
    training: bool = False,
) -> Split:
    def usable() -> Iterator[int]:
        for number, (cut, count) in enumerate(zip(cuts, frames(cuts), strict=True)):
            reason = task.problem(cut, vocabulary, count, training=training)
            if reason is None:
                yield number
            else:
                left_out.add(name, cut.id, reason)

    return picked(cuts, usable())


def _collected(
    collect: Callable[[Split], Vocabulary], cuts: Split, name: str, left_out: LeftOut
) -> Vocabulary:
    """Return the vocabulary; where there is none, say what was left out before."""
    try:
        return collect(cuts)
    except DataError as error:
        reasons = Counter(left_out.of(name).values())
        if not reasons:
            raise
        listed = ", ".join(f"{count} ({reason})" for reason, count in sorted(reasons.items()))
        raise DataError(f"{error.message}; left out: {listed}", hint=error.hint) from None
