"""Utterance classification by one label: SID, style, and whatever a corpus labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechft.data.labels import MAX_LEFT_OUT, Vocabulary, label_of
from speechft.errors import DataError
from speechft.tasks.base import UNSEEN, Item, Level, Task
from speechft.tasks.heads import UtteranceHead

if TYPE_CHECKING:
    from lhotse.cut import Cut

    from speechft.data.manifest import Corpus


class LabelClassification(Task):
    """One label an utterance, cross entropy, accuracy (SUPERB SID, ER, KS).

    Args:
        name: Key in `TASKS`.
        title: What it is, in words.
        label: Kind of label.
        balanced: Draw every class equally often in training.
        noise: The class of recordings that have no beginning and end; protocols crop only them.
    """

    level: ClassVar[Level] = "utterance"
    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    balanced: bool
    grouped: bool
    noise: str | None

    def __init__(
        self,
        name: str,
        title: str,
        *,
        label: str,
        balanced: bool = False,
        noise: str | None = None,
    ) -> None:
        self.name, self.title, self.label, self.balanced = name, title, label, balanced
        self.noise = noise
        self.grouped = label != "speaker"

    def vocabulary(self, cuts: Iterable[Cut]) -> Vocabulary:
        """Collect the labels.

        Raises:
            DataError: There are fewer than two.
        """
        found = {label for cut in cuts if (label := label_of(cut, self.label)) is not None}
        if len(found) < 2:
            raise DataError(
                f"task {self.name} needs at least two values of {self.label!r} in the training "
                f"split, found {len(found)}"
            )
        return Vocabulary.from_symbols(found)

    def problem(
        self, cut: Cut, vocabulary: Vocabulary | None, frames: int, *, training: bool = False
    ) -> str | None:
        """Say whether a cut has no label, or one that training does not hold."""
        if reason := super().problem(cut, vocabulary, frames, training=training):
            return reason
        if vocabulary is None or label_of(cut, self.label) in vocabulary:
            return None
        return UNSEEN

    def croppable(self, cut: Cut) -> bool:
        """Return whether a cut is noise, in a task that knows some; a word is taken whole."""
        return self.noise is None or label_of(cut, self.label) == self.noise

    def lacks(self, corpus: Corpus, limit: float = MAX_LEFT_OUT) -> str:
        """Say what a corpus lacks: labels, or one of dev or test in training."""
        if reason := super().lacks(corpus, limit):
            return reason
        for train, *others in self.folds(corpus):
            for split in others:
                new = corpus.values(split, self.label) - corpus.values(train, self.label)
                if new and self._too_many(corpus, split, new, limit):
                    return (
                        f"{self.label} {min(new)!r} of its split {split} does not occur in "
                        f"{train}{f', nor do {len(new) - 1} more' if len(new) > 1 else ''}"
                    )
        return ""

    def _too_many(self, corpus: Corpus, split: str, values: frozenset[str], limit: float) -> bool:
        """Return whether labels that training does not hold are more than may be left out."""
        labels = [label_of(cut, self.label) for cut in corpus.split(split)]
        count = sum(label in values for label in labels)
        return count == len(labels) or count > limit * len(labels)

    def head(self, dim: int, vocabulary: Vocabulary, hidden: int | None) -> nn.Module:
        """Build mean pooling and a linear layer."""
        return UtteranceHead(dim, len(vocabulary), hidden)

    def target(self, cut: Cut, vocabulary: Vocabulary, frames: int) -> Tensor:
        """Return (1,) class."""
        label = label_of(cut, self.label)
        if label is None:
            raise DataError(f"cut {cut.id} has no {self.label}, which task {self.name} needs")
        return torch.tensor(vocabulary.encode([label], f"cut {cut.id}"))

    def losses(
        self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor], vocabulary: Vocabulary
    ) -> Tensor:
        """Return cross entropies, (B,)."""
        return F.cross_entropy(logits.float(), torch.cat(list(targets)), reduction="none")

    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Return the most likely class of each utterance."""
        return logits.argmax(-1).tolist()

    def describe(self, prediction: Any, vocabulary: Vocabulary, setting: Any = None) -> str:
        """Return the class."""
        return vocabulary.decode([prediction])[0]

    def score(self, cut: Cut, prediction: Any, target: Tensor, vocabulary: Vocabulary) -> Item:
        """Count a hit or a miss."""
        symbols = vocabulary.symbols
        hit = float(prediction == int(target[0]))
        return Item(cut.id, symbols[prediction], symbols[int(target[0])], hit, 1.0)
