"""A task of speech: labels, model, scorer and needs put together, and what it can be used for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from speechft.data.labels import MAX_LEFT_OUT
from speechft.errors import ConfigError, DataError
from speechft.tasks.answers import Answer, Heard
from speechft.tasks.measures import Item, Measure
from speechft.tasks.parts import (
    NO_FRAME,
    NO_LABEL,
    TOO_SHORT,
    Labels,
    Level,
    Model,
    Needs,
    Predictions,
    Scorer,
    Search,
    Split,
)

if TYPE_CHECKING:
    from lhotse.cut import Cut
    from torch import Tensor, nn

    from speechft.data.labels import Vocabulary
    from speechft.data.manifest import Corpus
    from speechft.encoders.timing import FrameTiming
    from speechft.tasks.left_out import LeftOut
    from speechft.tasks.word_search import LanguageModel

__all__ = [
    "Item",
    "Level",
    "Predictions",
    "Split",
    "Task",
    "file_name",
]


@dataclass(frozen=True)
class Task:
    """One way to use speech features: four parts, and what it cannot be used for.

    Shapes: B batch, T frames, D dim, C classes.
    """

    name: str
    """Key in `TASKS`."""
    title: str
    """What it is, in words."""
    labels: Labels
    scorer: Scorer
    model: Model | None = None
    """Of what is trained; None where nothing is."""
    search: Search | None = None
    """Of what is searched instead, where nothing is trained."""
    needs: Needs = field(default_factory=Needs)
    no_finetuning: str = ""
    """Why encoders cannot be fine-tuned on it, as the end of a sentence; empty where they can."""
    no_files: str = ""
    """Why it does not predict on single files, as the end of a sentence; empty where it does."""
    timing: FrameTiming | None = None
    """Where the frames of its encoder lie in time, see `at`; None as long as it has none."""
    language_model: LanguageModel | None = None
    """Gives a second figure, of predictions that are searched with it."""

    # what it is

    @property
    def label(self) -> str:
        """Return the kind of label that it needs, as corpora name it."""
        return self.labels.kind

    @property
    def folder(self) -> str:
        """Return its key as a part of file names: ``label:language`` is ``label-language``."""
        return file_name(self.name)

    @property
    def level(self) -> Level:
        """Return whether it sees frames, or the mean over time, so that a pooled cache serves."""
        return "frame" if self.model is None else self.model.level

    @property
    def per_frame(self) -> bool:
        """Return whether the head gives logits for every frame, as a recurrent one would."""
        return self.model is not None and self.model.per_frame

    @property
    def trained(self) -> bool:
        """Return whether a head is trained at all."""
        return self.model is not None

    @property
    def can_finetune(self) -> bool:
        """Return whether an encoder can be fine-tuned on it."""
        return not self.no_finetuning

    @property
    def predicts_files(self) -> bool:
        """Return whether its trained probes predict on single files."""
        return not self.no_files

    @property
    def takes_language_model(self) -> bool:
        """Return whether its predictions can be searched with a language model."""
        return self.model is not None and self.model.takes_language_model

    @property
    def lists(self) -> tuple[str, ...]:
        """Return the keys of ``corpus.info`` that name further files which it reads."""
        return self.scorer.lists

    @property
    def balanced(self) -> bool:
        """Return whether training draws every class equally often."""
        return self.needs.balanced

    # measures

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Return what has a row in the results; the first one selects."""
        searched = self.language_model is not None
        known = self.scorer.measures
        return tuple(m for m in known if m.reported and (searched or not m.searched))

    def measure(self, name: str) -> Measure | None:
        """Return a measure by its name, also one that is not reported by default."""
        return next((m for m in self.scorer.measures if m.name == name), None)

    @property
    def metric(self) -> str:
        """Return the name of the measure that selects."""
        return self.scorer.measures[0].name

    @property
    def higher_is_better(self) -> bool:
        """Return the direction of the measure that selects."""
        return self.scorer.measures[0].higher_is_better

    def figure(self, items: Sequence[Item]) -> float:
        """Return the measure of items that selects."""
        return self.scorer.measures[0].value(items)

    # variants

    def variant(self, protocol: str) -> Task:
        """Return the task as a protocol wants it."""
        labels = self.labels.variant(protocol)
        model = None if self.model is None else self.model.variant(protocol)
        if labels is self.labels and model is self.model:
            return self
        return replace(self, labels=labels, model=model)

    def with_language_model(self, model: LanguageModel) -> Task:
        """Return the task with a language model.

        Raises:
            ConfigError: It takes none, or the extra ``lm`` is not installed.
            DataError: The file cannot be read or is no model.
        """
        from speechft.tasks.word_search import check_model

        if not self.takes_language_model:
            raise ConfigError(f"task {self.name} takes no language model")
        check_model(model.file)
        return replace(self, language_model=model)

    def final(self, vocabulary: Vocabulary) -> Task:
        """Return the task as it decodes the chosen probe: with its language model, if any."""
        if self.language_model is None or self.model is None:
            return self
        return replace(self, model=self.model.searched(self.language_model, vocabulary))

    def at(self, timing: FrameTiming) -> Task:
        """Return the task for an encoder's frames, which labels with times and turns need."""
        labels, scorer = self.labels.at(timing), self.scorer.at(timing)
        return replace(self, labels=labels, scorer=scorer, timing=timing)

    # labels

    def vocabulary(self, cuts: Iterable[Cut]) -> Vocabulary:
        """Collect the symbols of the training split.

        Raises:
            DataError: The labels cannot be used.
        """
        return self.labels.vocabulary(cuts)

    def target(self, cut: Cut, vocabulary: Vocabulary, frames: int) -> Tensor:
        """Return a cut's target.

        Raises:
            DataError: A label is missing or was not seen in training, or the cut is too short.
        """
        target = self.labels.target(cut, vocabulary, frames)
        least = 1 if self.model is None else self.model.least_frames
        if frames < least:
            hop = 0.0 if self.timing is None else self.timing.hop_seconds
            raise DataError(
                f"cut {cut.id} has {frames} frames; the head of task {self.name} needs at least "
                f"{least}" + (f", about {hop * (least + 1):.2f} s" if hop else ""),
                hint="leave such recordings out",
            )
        return target

    def symbols(self, cut: Cut) -> list[str]:
        """Return the target of a cut as symbols, for tasks that recognise sequences of them."""
        labels: Any = self.labels
        found: list[str] = labels.symbols(cut)
        return found

    def units(self, symbols: Sequence[str]) -> list[str]:
        """Turn symbols into the units that the error rate of such a task counts."""
        labels: Any = self.labels
        found: list[str] = labels.units(symbols)
        return found

    def labelled(self, cut: Cut) -> bool:
        """Return whether a cut has this task's label."""
        return self.labels.labelled(cut)

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
        if not self.labels.labelled(cut):
            return NO_LABEL
        if reason := self.labels.problem(cut, vocabulary, frames, training=training):
            return reason
        short = self.model is not None and frames < self.model.least_frames
        return TOO_SHORT if short else None

    def outliers(self, cuts: Sequence[Cut]) -> dict[str, str]:
        """Return why some labelled cuts do not go with the rest of their training split, by id."""
        return self.labels.outliers(cuts)

    # model

    def head(self, dim: int, vocabulary: Vocabulary, hidden: int | None) -> nn.Module:
        """Build the head that an encoder is fine-tuned with; see `Model.head`."""
        return self._model.head(dim, vocabulary, hidden, ())

    def probe_head(
        self, dim: int, vocabulary: Vocabulary, *, hidden: int | None, units: Sequence[int] = ()
    ) -> nn.Module:
        """Build the head that evaluates frozen features; see `Model.head`."""
        return self._model.head(dim, vocabulary, hidden, units)

    def losses(
        self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor], vocabulary: Vocabulary
    ) -> Tensor:
        """Return the loss of every utterance, (B,)."""
        return self._model.losses(logits, lengths, targets, vocabulary)

    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Turn logits into predictions, one an utterance."""
        return self._model.predict(logits, lengths, vocabulary)

    @property
    def _model(self) -> Model:
        if self.model is None:
            raise ConfigError(f"task {self.name} trains no head: ask `trained` first")
        return self.model

    # scores

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
        return self.scorer.context(corpus, self.folds(corpus)[0], split, cuts, left_out)

    def tune(
        self, cuts: Split, predictions: Predictions, targets: Sequence[Tensor], context: Any
    ) -> Any:
        """Return settings of the decision, chosen on dev, that `items` takes."""
        return self.scorer.tune(cuts, predictions, targets, context)

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
        return self.scorer.items(cuts, predictions, targets, vocabulary, context, setting)

    @property
    def formats(self) -> tuple[str, ...]:
        """Return what its answers can be written as."""
        return self.scorer.formats

    def answers(
        self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary, setting: Any = None
    ) -> list[Answer]:
        """Return what users are told about each utterance of a batch.

        Args:
            logits: (B, T, C), or (B, C) of heads that see whole utterances.
            lengths: (B,) valid frames.
            vocabulary: Of the training split.
            setting: From `tune`; None takes the usual one.
        """
        rows = list(logits.float().cpu())
        if logits.dim() == 3:
            rows = [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]
        predictions = self.predict(logits, lengths, vocabulary)
        return [
            self.scorer.answer(Heard(row, prediction, vocabulary, setting, self.timing))
            for row, prediction in zip(rows, predictions, strict=True)
        ]

    # corpora

    def folds(self, corpus: Corpus) -> list[tuple[str, str, str]]:
        """Return the train, dev and test splits of every round: one, or one for each fold."""
        return self.needs.folds(self.name, corpus)

    def split_off_dev(
        self, train: Split, dev: Split, names: tuple[str, str, str]
    ) -> tuple[Split, Split]:
        """Return training and dev cuts, where the corpus has no dev split of its own."""
        return self.needs.split_off_dev(train, dev, names)

    def expand(self, cuts: Split) -> Split:
        """Return the training cuts as they are trained on, such as in chunks."""
        return self.needs.expand(cuts)

    def croppable(self, cut: Cut) -> bool:
        """Return whether crops stand for a cut where the protocol takes some."""
        return self.needs.croppable(cut)

    def lacks(self, corpus: Corpus, limit: float = MAX_LEFT_OUT) -> str:
        """Say what a corpus lacks for this task; empty where it lacks nothing.

        Args:
            corpus: What is asked about.
            limit: Share of a split that may do without.
        """
        return self.needs.lacks(self.name, self.label, corpus, limit)

    def supported_by(self, corpus: Corpus, limit: float = MAX_LEFT_OUT) -> bool:
        """Return whether every split that the task needs has its labels, but for a few items."""
        return not self.lacks(corpus, limit)

    def require(
        self, corpus: Corpus, supported: Sequence[str], limit: float = MAX_LEFT_OUT
    ) -> None:
        """Refuse a corpus that lacks this task's labels or splits, but for a share of items.

        Raises:
            DataError: Names what is missing and which tasks the corpus does support.
        """
        if lacking := self.lacks(corpus, limit):
            raise DataError(
                f"corpus {corpus.name} cannot be used for task {self.name}: {lacking}",
                hint=f"tasks that this corpus supports: {', '.join(supported) or 'none'}",
            )


def file_name(task: str) -> str:
    """Return a task's key as a part of file names; other characters give it a digest."""
    plain = task.replace(":", "-", 1)
    if re.fullmatch(r"[A-Za-z0-9_-]+", plain):
        return plain
    import hashlib  # of rare use; it loads OpenSSL

    digest = hashlib.sha256(task.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', plain).strip('-')}-{digest}"
