"""What a task is: which labels it needs, its head, its loss, its predictions and their score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from speechft.data.labels import Vocabulary
from speechft.data.manifest import Corpus
from speechft.errors import DataError

if TYPE_CHECKING:
    from lhotse.cut import Cut

Level = Literal["utterance", "frame"]


@dataclass(frozen=True)
class Item:
    """How one utterance was solved: the metric is the ratio of sums over items."""

    id: str
    prediction: str
    reference: str
    amount: float
    """Errors where lower is better, hits where higher is."""
    total: float
    """What ``amount`` is divided by: reference length, or 1."""
    counts: Mapping[str, float] = field(default_factory=dict)
    """Further counts, such as insertions."""


class Task(ABC):
    """One way to use speech features.

    Shapes: B batch, T frames, D dim, C classes. A task with ``level`` ``utterance`` sees the mean
    over time, so that a pooled cache serves it exactly.
    """

    name: str
    """Key in `TASKS`."""
    title: str
    """What it is, in words."""
    label: str
    """Kind of label that it needs, as corpora name it."""
    level: ClassVar[Level]
    metric: ClassVar[str]
    """Name of the metric that selects and is reported."""
    higher_is_better: ClassVar[bool]

    @abstractmethod
    def vocabulary(self, cuts: Iterable[Cut]) -> Vocabulary:
        """Collect the symbols of the training split.

        Raises:
            DataError: The labels cannot be used.
        """

    @abstractmethod
    def head(self, dim: int, vocabulary: Vocabulary, hidden: int | None) -> nn.Module:
        """Build the head: features (B, T, D) and lengths (B,) to logits.

        Args:
            dim: D.
            vocabulary: Of the training split.
            hidden: Size of the projection before the last layer; None leaves it out.
        """

    @abstractmethod
    def target(self, cut: Cut, vocabulary: Vocabulary, frames: int) -> Tensor:
        """Return a cut's target, (n,) int64.

        Raises:
            DataError: A label is missing or was not seen in training.
        """

    @abstractmethod
    def losses(
        self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor], vocabulary: Vocabulary
    ) -> Tensor:
        """Return the loss of every utterance, (B,)."""

    @abstractmethod
    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Turn logits into predictions, one an utterance."""

    @abstractmethod
    def score(self, cut: Cut, prediction: Any, target: Tensor, vocabulary: Vocabulary) -> Item:
        """Compare a prediction with the target of its cut."""

    def usable(self, cut: Cut, frames: int) -> bool:
        """Return whether a cut can be trained on (a CTC target must fit into the frames)."""
        return True

    def supported_by(self, corpus: Corpus) -> bool:
        """Return whether every split that the task needs has its labels."""
        names = corpus.task_splits(self.name)
        return all(
            split in corpus.statistics
            and 0
            < corpus.statistics[split]["utterances"]
            == corpus.statistics[split]["labels"].get(self.label, 0)
            for split in names
        )

    def require(self, corpus: Corpus, supported: Sequence[str]) -> None:
        """Refuse a corpus that lacks this task's labels or splits.

        Raises:
            DataError: Names what is missing and which tasks the corpus does support.
        """
        if self.supported_by(corpus):
            return
        splits = ", ".join(corpus.task_splits(self.name))
        raise DataError(
            f"task {self.name} needs label {self.label!r} for every utterance of the splits "
            f"{splits}; corpus {corpus.name} does not have that",
            hint=f"tasks that this corpus supports: {', '.join(supported) or 'none'}",
        )


def figure(items: Sequence[Item]) -> float:
    """Return the metric over items, in percent."""
    total = sum(item.total for item in items)
    return 100.0 * sum(item.amount for item in items) / total if total else float("nan")
