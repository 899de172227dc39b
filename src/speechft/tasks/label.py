"""Utterance classification by one label: KS, SID, ER, style, and any column of a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.data.labels import MAX_LEFT_OUT, Vocabulary, label_of
from speechft.errors import ConfigError, DataError
from speechft.tasks.answers import Answer, Heard, probabilities
from speechft.tasks.base import Task
from speechft.tasks.measures import Item, Measure, macro_f1, ratio, unweighted_recall
from speechft.tasks.parts import UNSEEN, Labels, Level, Model, Needs, UtteranceScorer

if TYPE_CHECKING:
    from lhotse.cut import Cut
    from torch import Tensor, nn

    from speechft.data.manifest import Corpus

ACCURACY = Measure("accuracy", True, ratio)
UAR = Measure("uar", True, unweighted_recall, written="UAR")
"""Unweighted average recall: the mean over the classes of the references."""
MACRO_F1 = Measure("macro_f1", True, macro_f1, written="macro F1")
"""The mean over the classes of the references of their F1."""


def class_figures(items: Sequence[Item]) -> dict[str, float]:
    """Return the figures that weigh classes alike, for tasks whose rows are of accuracy only."""
    return {m.name: round(m.value(items), 4) for m in (UAR, MACRO_F1)} if items else {}


ACCURACY_ONLY = (
    replace(ACCURACY, details=class_figures),
    replace(UAR, reported=False),
    replace(MACRO_F1, reported=False),
)
"""SUPERB's figure has the only row, and the details of that row have the others."""
COLUMN = "label:"
"""Begins the key of a task that is made for a column of labels."""


def classification(
    name: str,
    title: str,
    *,
    label: str,
    balanced: bool = False,
    noise: str | None = None,
    measures: tuple[Measure, ...] = ACCURACY_ONLY,
) -> Task:
    """Return a task of one label an utterance: cross entropy and accuracy (SUPERB SID, ER, KS).

    Args:
        name: Key in `TASKS`.
        title: What it is, in words.
        label: Kind of label.
        balanced: Draw every class equally often in training.
        noise: The class of recordings that have no beginning and end; protocols crop only them.
        measures: What is measured; the first one selects.
    """
    return Task(
        name,
        title,
        labels=ClassLabels(name, label),
        model=ClassModel(),
        scorer=ClassScorer(measures),
        needs=ClassNeeds(kind=label, noise=noise, balanced=balanced),
    )


def column_task(name: str) -> Task:
    """Return the task of a column of labels, by its key such as ``label:language``.

    Raises:
        ConfigError: It names no column.
    """
    column = name.removeprefix(COLUMN)
    if not column.strip():
        raise ConfigError(
            f"task {name!r} names no column of labels",
            hint=f"write {COLUMN}COLUMN, such as {COLUMN}language",
        )
    return classification(
        name,
        f"classification by the column {column!r}",
        label=column,
        measures=(ACCURACY, UAR, MACRO_F1),
    )


class ClassLabels(Labels):
    """One label an utterance; targets are (1,) int64."""

    def vocabulary(self, cuts: Iterable[Cut]) -> Vocabulary:
        """Collect the labels.

        Raises:
            DataError: There are fewer than two.
        """
        found = {label for cut in cuts if (label := label_of(cut, self.kind)) is not None}
        if len(found) < 2:
            raise DataError(
                f"task {self.task} needs at least two values of {self.kind!r} in the training "
                f"split, found {len(found)}"
            )
        return Vocabulary.from_symbols(found)

    def problem(
        self, cut: Cut, vocabulary: Vocabulary | None, frames: int, *, training: bool
    ) -> str | None:
        """Say whether training does not hold the label."""
        if vocabulary is None or label_of(cut, self.kind) in vocabulary:
            return None
        return UNSEEN

    def target(self, cut: Cut, vocabulary: Vocabulary, frames: int) -> Tensor:
        """Return (1,) class."""
        import torch

        label = label_of(cut, self.kind)
        if label is None:
            raise DataError(f"cut {cut.id} has no {self.kind}, which task {self.task} needs")
        return torch.tensor(vocabulary.encode([label], f"cut {cut.id}"))


class ClassModel(Model):
    """Mean over time, linear layer, cross entropy, the most likely class."""

    level: ClassVar[Level] = "utterance"
    per_frame: ClassVar[bool] = False
    counterpart: ClassVar[str] = "ForSequenceClassification"

    def head(
        self, dim: int, vocabulary: Vocabulary, hidden: int | None, units: Sequence[int]
    ) -> nn.Module:
        """Build mean pooling and a linear layer."""
        from speechft.tasks.heads import UtteranceHead

        return UtteranceHead(dim, len(vocabulary), hidden)

    def losses(
        self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor], vocabulary: Vocabulary
    ) -> Tensor:
        """Return cross entropies, (B,)."""
        import torch
        import torch.nn.functional as F

        return F.cross_entropy(logits.float(), torch.cat(list(targets)), reduction="none")

    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Return the most likely class of each utterance."""
        return logits.argmax(-1).tolist()


class ClassScorer(UtteranceScorer):
    """A hit or a miss."""

    def score(self, cut: Cut, prediction: Any, target: Tensor, vocabulary: Vocabulary) -> Item:
        """Count a hit or a miss."""
        symbols = vocabulary.symbols
        hit = float(prediction == int(target[0]))
        return Item(cut.id, symbols[prediction], symbols[int(target[0])], hit, 1.0)

    def describe(self, prediction: Any, vocabulary: Vocabulary, setting: Any) -> str:
        """Return the class."""
        return vocabulary.decode([prediction])[0]

    def answer(self, heard: Heard) -> Answer:
        """Return the class and its probability."""
        label = self.describe(heard.prediction, heard.vocabulary, None)
        probability = probabilities(heard.logits)[heard.prediction]
        return Answer(label, {"label": label, "probability": probability})


@dataclass(frozen=True, kw_only=True)
class ClassNeeds(Needs):
    """Every class of dev and test has to occur in training."""

    kind: str
    noise: str | None = None
    """The class of recordings that crops may stand for; None allows them of all."""

    def croppable(self, cut: Cut) -> bool:
        """Return whether a cut is noise, in a task that knows some; a word is taken whole."""
        return self.noise is None or label_of(cut, self.kind) == self.noise

    def lacks(self, task: str, kind: str, corpus: Corpus, limit: float = MAX_LEFT_OUT) -> str:
        """Say what a corpus lacks: labels, or one of dev or test in training."""
        if reason := super().lacks(task, kind, corpus, limit):
            return reason
        for train, *others in self.folds(task, corpus):
            for split in others:
                new = corpus.values(split, kind) - corpus.values(train, kind)
                if new and self._too_many(corpus, split, new, limit):
                    return (
                        f"{kind} {min(new)!r} of its split {split} does not occur in "
                        f"{train}{f', nor do {len(new) - 1} more' if len(new) > 1 else ''}"
                    )
        return ""

    def _too_many(self, corpus: Corpus, split: str, values: frozenset[str], limit: float) -> bool:
        """Return whether labels that training does not hold are more than may be left out."""
        cuts = corpus.cuts(split)
        count = sum(label_of(cut, self.kind) in values for cut in cuts)
        return count == len(cuts) or count > limit * len(cuts)
