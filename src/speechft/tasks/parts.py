"""The parts that a task is put together from: labels, model, scorer, and what a corpus must have.

Each holds what one family of tasks shares and others do not; see `speechft.tasks.base.Task`. None
of them imports torch before it computes, so that the list of tasks is there at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from speechft.data.labels import MAX_LEFT_OUT, Vocabulary, label_of
from speechft.data.losses import without_split
from speechft.tasks.answers import Answer, Heard
from speechft.tasks.measures import Item, Measure

if TYPE_CHECKING:
    from lhotse.cut import Cut
    from torch import Tensor, nn

    from speechft.data.manifest import Corpus
    from speechft.encoders.timing import FrameTiming
    from speechft.tasks.left_out import LeftOut
    from speechft.tasks.word_search import LanguageModel

Level = Literal["utterance", "frame"]
Split = Sequence["Cut"]
Predictions = Sequence[Any]

NO_LABEL = "no label"
NO_SYMBOL = "text without a known symbol"
UNSEEN = "class unseen in training"
TOO_SHORT = "too short for the head"
TOO_LONG = "target longer than the frames"
NO_FRAME = "shorter than one frame"
NO_AUDIO = "pair without audio"
OF_LEFT_OUT = "pair of a recording that is left out"

_GROUPS = ("group", "speaker", "session")


def group_of(cut: Cut) -> str:
    """Return what a cut's item is drawn together with when items are resampled.

    The label ``group`` where the corpus has one of its own, else the speaker, else the session;
    empty where it has none of them. Also where speakers are the classes: what is drawn then are
    members of the closed set with all their utterances.
    """
    return next((found for kind in _GROUPS if (found := label_of(cut, kind))), "")


@dataclass(frozen=True)
class Labels(ABC):
    """What utterances are labelled with, and the numbers that a head is trained to give."""

    task: str
    """Key of the task, for errors."""
    kind: str
    """Kind of label, as corpora name it."""

    @abstractmethod
    def vocabulary(self, cuts: Iterable[Cut]) -> Vocabulary:
        """Collect the symbols of the training split.

        Raises:
            DataError: The labels cannot be used.
        """

    @abstractmethod
    def target(self, cut: Cut, vocabulary: Vocabulary, frames: int) -> Tensor:
        """Return a cut's target.

        Raises:
            DataError: A label is missing or was not seen in training.
        """

    def labelled(self, cut: Cut) -> bool:
        """Return whether a cut has the label."""
        return label_of(cut, self.kind) is not None

    def problem(
        self, cut: Cut, vocabulary: Vocabulary | None, frames: int, *, training: bool
    ) -> str | None:
        """Say why a labelled cut cannot be used; arguments as for `Task.problem`."""
        return None

    def outliers(self, cuts: Sequence[Cut]) -> dict[str, str]:
        """Return why some labelled cuts do not go with the rest of their training split, by id."""
        return {}

    def variant(self, protocol: str) -> Labels:
        """Return the labels as a protocol wants them."""
        return self

    def at(self, timing: FrameTiming) -> Labels:
        """Return the labels for frames that lie so in time."""
        return self


@dataclass(frozen=True)
class Model(ABC):
    """A head on features, its loss, and how its logits become predictions.

    Shapes: B batch, T frames, D dim, C classes.
    """

    level: ClassVar[Level]
    """Whether it sees frames, or the mean over time only, so that a pooled cache serves it."""
    per_frame: ClassVar[bool] = True
    """Whether it gives logits for every frame, so that another head by frame may stand in."""
    least_frames: ClassVar[int] = 1
    """Fewer frames are too short for the head."""
    takes_language_model: ClassVar[bool] = False
    """Whether predictions can be searched with a language model."""
    counterpart: ClassVar[str] = ""
    """The head of transformers that computes the same, by the end of its class: ``ForCTC``."""
    no_counterpart: ClassVar[str] = "transformers has no such head"
    """Why there is none, where there is none, as a sentence without its end."""

    @abstractmethod
    def head(
        self, dim: int, vocabulary: Vocabulary, hidden: int | None, units: Sequence[int]
    ) -> nn.Module:
        """Build the head: features (B, T, D) and lengths (B,) to logits.

        Args:
            dim: D.
            vocabulary: Of the training split.
            hidden: Size of the projection before the last layer; None leaves it out.
            units: Sizes of further layers, for heads that have some.
        """

    @abstractmethod
    def losses(
        self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor], vocabulary: Vocabulary
    ) -> Tensor:
        """Return the loss of every utterance, (B,).

        Args:
            logits: Of the head; where they are of frames, there may be more than the longest
                utterance has, as a batch of waveforms is padded.
            lengths: (B,) valid frames.
            targets: B of them.
            vocabulary: Of the training split.
        """

    @abstractmethod
    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Turn logits into predictions, one an utterance."""

    def variant(self, protocol: str) -> Model:
        """Return the model as a protocol wants it."""
        return self

    def searched(self, language_model: LanguageModel, vocabulary: Vocabulary) -> Model:
        """Return the model as it predicts with a language model too, where it takes one."""
        return self


class Search(ABC):
    """What is done with the features of one layer where nothing is trained."""

    @abstractmethod
    def scores(
        self,
        queries: Mapping[str, Any],
        documents: Mapping[str, Any],
        pairs: Mapping[str, Iterable[str]],
    ) -> dict[str, dict[str, float]]:
        """Return the score of every pair by query and document, the higher the more alike.

        Args:
            queries: (Q, D) features by id.
            documents: (T, D) features by id.
            pairs: Documents to search, by query.

        Raises:
            DataError: A pair names a document without audio.
        """


@dataclass(frozen=True)
class Scorer(ABC):
    """How predictions become scored items, and the measures over these."""

    lists: ClassVar[tuple[str, ...]] = ()
    """Keys of ``corpus.info`` that name further files which it reads, such as trials."""
    formats: ClassVar[tuple[str, ...]] = ("jsonl", "csv")
    """What answers can be written as; ``rttm`` and ``vtt`` need spans of time."""
    measures: tuple[Measure, ...]
    """All that can be reported; the first one selects."""

    @abstractmethod
    def items(
        self,
        cuts: Split,
        predictions: Predictions,
        targets: Sequence[Tensor],
        vocabulary: Vocabulary,
        context: Any,
        setting: Any,
    ) -> list[Item]:
        """Score all predictions of a split; arguments as for `Task.items`."""

    @abstractmethod
    def describe(self, prediction: Any, vocabulary: Vocabulary, setting: Any) -> str:
        """Return a prediction as text."""

    def answer(self, heard: Heard) -> Answer:
        """Return what users are told about an utterance: its text, values, and spans of time."""
        text = self.describe(heard.prediction, heard.vocabulary, heard.setting)
        return Answer(text, {"text": text})

    def at(self, timing: FrameTiming) -> Scorer:
        """Return the scorer for frames that lie so in time."""
        return self

    def context(
        self,
        corpus: Corpus,
        names: tuple[str, str, str],
        split: str,
        cuts: Split,
        left_out: LeftOut | None,
    ) -> Any:
        """Return what scoring a split needs beside its cuts, such as trials.

        Args:
            corpus: Where the cuts come from.
            names: Of its train, dev and test split for the task.
            split: Name of the split of the cuts; empty for cuts that were held out of another.
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


@dataclass(frozen=True)
class UtteranceScorer(Scorer):
    """Scores each utterance on its own."""

    @abstractmethod
    def score(self, cut: Cut, prediction: Any, target: Tensor, vocabulary: Vocabulary) -> Item:
        """Compare a prediction with the target of its cut."""

    def items(
        self,
        cuts: Split,
        predictions: Predictions,
        targets: Sequence[Tensor],
        vocabulary: Vocabulary,
        context: Any,
        setting: Any,
    ) -> list[Item]:
        """Return one item a cut."""
        scored = [
            self.score(cut, prediction, target, vocabulary)
            for cut, prediction, target in zip(cuts, predictions, targets, strict=True)
        ]
        return [replace(item, group=group_of(cut)) for item, cut in zip(scored, cuts, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a task needs of a corpus, and how it uses its splits.

    The plain one needs the label on every utterance of every split.
    """

    balanced: bool = False
    """Whether training draws every class equally often."""

    def folds(self, task: str, corpus: Corpus) -> list[tuple[str, str, str]]:
        """Return the train, dev and test splits of every round: one, or one for each fold."""
        folds = corpus.info.get("folds", {}).get(task)
        return [(a, b, c) for a, b, c in folds] if folds else [corpus.task_splits(task)]

    def lacks(self, task: str, kind: str, corpus: Corpus, limit: float = MAX_LEFT_OUT) -> str:
        """Say what a corpus lacks; empty where it lacks nothing.

        Args:
            task: Key of the task.
            kind: Of its label.
            corpus: What is asked about.
            limit: Share of a split that may do without.
        """
        for split in dict.fromkeys(name for names in self.folds(task, corpus) for name in names):
            known = corpus.statistics.get(split, {"utterances": 0})
            count = known["utterances"]
            if count == 0:
                return without_split(corpus, split)
            labelled = known["labels"].get(kind, 0)
            if labelled == 0 or count - labelled > limit * count:
                has = "" if labelled else f"; its labels: {', '.join(known['labels']) or 'none'}"
                return (
                    f"every utterance needs label {kind!r}, in its split {split} "
                    f"{labelled} of {count} have it{has}"
                )
        return ""

    def split_off_dev(
        self, train: Split, dev: Split, names: tuple[str, str, str]
    ) -> tuple[Split, Split]:
        """Return training and dev cuts, where the corpus has no dev split of its own."""
        return train, dev

    def expand(self, cuts: Split) -> Split:
        """Return the training cuts as they are trained on, such as in chunks."""
        return cuts

    def croppable(self, cut: Cut) -> bool:
        """Return whether crops stand for a cut where the protocol takes some."""
        return True
