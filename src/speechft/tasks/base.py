"""What a task is: which labels it needs, its head, its loss, its predictions and their score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from speechft.data.labels import MAX_LEFT_OUT, Vocabulary, label_of
from speechft.data.manifest import Corpus
from speechft.errors import DataError
from speechft.tasks.measures import Item, Measure, figure, ratio

__all__ = ["Item", "Level", "Task", "figure"]

if TYPE_CHECKING:
    from lhotse.cut import Cut

    from speechft.tasks.left_out import LeftOut

Level = Literal["utterance", "frame"]

NO_LABEL = "no label"
NO_SYMBOL = "text without a known symbol"
UNSEEN = "class unseen in training"
TOO_SHORT = "too short for the head"
TOO_LONG = "target longer than the frames"
NO_FRAME = "shorter than one frame"
NO_AUDIO = "pair without audio"
OF_LEFT_OUT = "pair of a recording that is left out"

Split = list["Cut"]
Predictions = Sequence[Any]


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

    trained: ClassVar[bool] = True
    """Whether a head is trained at all."""
    balanced: bool = False
    """Whether training draws every class equally often."""
    lists: ClassVar[tuple[str, ...]] = ()
    """Keys of ``corpus.info`` that name further files which the task reads, such as trials."""
    grouped: bool = True
    """Whether the items of one speaker are drawn together when items are resampled."""

    @property
    def per_frame(self) -> bool:
        """Return whether the head gives logits for every frame, as a recurrent one would."""
        return self.level == "frame"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Return what is reported; the first one selects."""
        return (Measure(self.metric, self.higher_is_better, ratio),)

    def measure(self, name: str) -> Measure | None:
        """Return a measure by its name, also one that is not reported by default."""
        return next((measure for measure in self.measures if measure.name == name), None)

    def figure(self, items: Sequence[Item]) -> float:
        """Return the first measure of items."""
        return self.measures[0].value(items)

    def variant(self, protocol: str) -> Task:
        """Return the task as a protocol wants it."""
        return self

    def final(self, vocabulary: Vocabulary) -> Task:
        """Return the task as it decodes the chosen probe, such as with a language model."""
        return self

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

    def probe_head(
        self, dim: int, vocabulary: Vocabulary, *, hidden: int | None, units: Sequence[int] = ()
    ) -> nn.Module:
        """Build the head that evaluates frozen features.

        Args:
            dim: D.
            vocabulary: Of the training split.
            hidden: Size of the projection; None leaves it out.
            units: Sizes of further layers, for heads that have some.
        """
        return self.head(dim, vocabulary, hidden)

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
        """Return the loss of every utterance, (B,).

        Args:
            logits: Of `head`; where they are of frames, there may be more than the longest
                utterance has, as a batch of waveforms is padded.
            lengths: (B,) valid frames.
            targets: B of them, each as long as its utterance asks for.
            vocabulary: Of the training split.
        """

    @abstractmethod
    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Turn logits into predictions, one an utterance."""

    @abstractmethod
    def score(self, cut: Cut, prediction: Any, target: Tensor, vocabulary: Vocabulary) -> Item:
        """Compare a prediction with the target of its cut."""

    def expand(self, cuts: Split) -> Split:
        """Return the training cuts as they are trained on, such as in chunks."""
        return cuts

    def croppable(self, cut: Cut) -> bool:
        """Return whether crops stand for a cut where the protocol takes some."""
        return True

    def folds(self, corpus: Corpus) -> list[tuple[str, str, str]]:
        """Return the train, dev and test splits of every round: one, or one for each fold."""
        folds = corpus.info.get("folds", {}).get(self.name)
        return [(a, b, c) for a, b, c in folds] if folds else [corpus.task_splits(self.name)]

    def split_off_dev(
        self, train: Split, dev: Split, names: tuple[str, str, str]
    ) -> tuple[Split, Split]:
        """Return training and dev cuts, where the corpus has no dev split of its own."""
        return train, dev

    def context(
        self, corpus: Corpus, split: str, cuts: Split, left_out: LeftOut | None = None
    ) -> Any:
        """Return what scoring a split needs beside its cuts, such as trials.

        Args:
            corpus: Where they come from.
            split: Its name; empty for cuts that were held out of another.
            cuts: Those that the task can use.
            left_out: Those that it cannot, and is told what falls with them; None leaves out
                nothing.

        Raises:
            DataError: It cannot be used.
        """
        return None

    def tune(
        self, cuts: Split, predictions: Predictions, targets: Sequence[Tensor], context: Any
    ) -> Any:
        """Return settings of the decision, chosen on dev, that `items` takes."""
        return None

    def items(
        self,
        cuts: Split,
        predictions: Predictions,
        targets: Sequence[Tensor],
        vocabulary: Vocabulary,
        context: Any = None,
        setting: Any = None,
    ) -> list[Item]:
        """Score all predictions of a split.

        Args:
            cuts: Of the split.
            predictions: As many, from `predict`.
            targets: As many.
            vocabulary: Of the training split.
            context: From `context`.
            setting: From `tune`; None takes the usual one.
        """
        scored = [
            self.score(cut, prediction, target, vocabulary)
            for cut, prediction, target in zip(cuts, predictions, targets, strict=True)
        ]
        if not self.grouped:
            return scored
        return [
            replace(item, group=cut.supervisions[0].speaker or "")
            for item, cut in zip(scored, cuts, strict=True)
        ]

    def describe(self, prediction: Any, vocabulary: Vocabulary, setting: Any = None) -> str:
        """Return a prediction as text."""
        raise NotImplementedError

    def problem(
        self, cut: Cut, vocabulary: Vocabulary | None, frames: int, *, training: bool = False
    ) -> str | None:
        """Say why a cut cannot be used, in a short phrase to count by; None where it can.

        Args:
            cut: To train on, to choose on or to test on.
            vocabulary: Of the training split; None while that is not known yet.
            frames: T, as the encoder counts them.
            training: Whether it is to be trained on, which asks for more: a CTC target must fit
                into the frames.
        """
        if frames < 1:
            return NO_FRAME
        return None if self.labelled(cut) else NO_LABEL

    def labelled(self, cut: Cut) -> bool:
        """Return whether a cut has this task's label."""
        return label_of(cut, self.label) is not None

    def outliers(self, cuts: Sequence[Cut]) -> dict[str, str]:
        """Return why some labelled cuts do not go with the rest of their training split, by id."""
        return {}

    def supported_by(self, corpus: Corpus, limit: float = MAX_LEFT_OUT) -> bool:
        """Return whether every split that the task needs has its labels, but for a few items."""
        return not self.lacks(corpus, limit)

    def lacks(self, corpus: Corpus, limit: float = MAX_LEFT_OUT) -> str:
        """Say what a corpus lacks for this task; empty where it lacks nothing.

        Args:
            corpus: What is asked about.
            limit: Share of a split that may do without.
        """
        for split in dict.fromkeys(name for names in self.folds(corpus) for name in names):
            known = corpus.statistics.get(split, {"utterances": 0})
            count = known["utterances"]
            if count == 0:
                return f"its split {split} is missing or empty"
            labelled = known["labels"].get(self.label, 0)
            if labelled == 0 or count - labelled > limit * count:
                return (
                    f"every utterance needs label {self.label!r}, in its split {split} "
                    f"{labelled} of {count} have it"
                )
        return ""

    def require(
        self, corpus: Corpus, supported: Sequence[str], limit: float = MAX_LEFT_OUT
    ) -> None:
        """Refuse a corpus that lacks this task's labels or splits, but for a share of items.

        Raises:
            DataError: Names what is missing and which tasks the corpus does support.
        """
        if not (lacking := self.lacks(corpus, limit)):
            return
        raise DataError(
            f"corpus {corpus.name} cannot be used for task {self.name}: {lacking}",
            hint=f"tasks that this corpus supports: {', '.join(supported) or 'none'}",
        )
