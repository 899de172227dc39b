"""Recognition by CTC: what PR, ASR and SF share in labels, model and scorer."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.data.labels import UNKNOWN, Vocabulary
from speechft.errors import DataError
from speechft.tasks.answers import Answer, Heard, Span, runs
from speechft.tasks.measures import Item
from speechft.tasks.parts import (
    NO_SYMBOL,
    TOO_LONG,
    Labels,
    Level,
    Model,
    UtteranceScorer,
)

if TYPE_CHECKING:
    from lhotse.cut import Cut
    from torch import Tensor, nn

    from speechft.tasks.word_search import LanguageModel, WordSearch

BLANK = "<blank>"
END = "<eos>"
_END_NUMBER = 1


@dataclass(frozen=True)
class SymbolLabels(Labels):
    """Sequences of symbols; the blank is symbol 0. Targets are (U,) int64."""

    s3prl_closing: ClassVar[tuple[str, ...]] = (END,)
    """What s3prl adds at the end of every target."""
    closing: tuple[str, ...] = ()
    """What is added here."""

    @abstractmethod
    def symbols(self, cut: Cut) -> list[str]:
        """Return the target of a cut as symbols; empty where it has none."""

    @abstractmethod
    def units(self, symbols: Sequence[str]) -> list[str]:
        """Turn symbols into the units that an error rate counts."""

    def variant(self, protocol: str) -> Labels:
        """Return the labels as a protocol wants them: ``s3prl`` closes every target."""
        return replace(self, closing=self.s3prl_closing) if protocol == "s3prl" else self

    def vocabulary(self, cuts: Iterable[Cut]) -> Vocabulary:
        """Collect all symbols."""
        found = {symbol for cut in cuts for symbol in self.symbols(cut)}
        if not found:
            raise DataError(f"task {self.task}: the training split holds no {self.kind}")
        return self.with_marks(found)

    def with_marks(self, symbols: Iterable[str]) -> Vocabulary:
        """Return the vocabulary of symbols, with those that belong to no text first."""
        ends = (END,) if END in self.closing else ()
        return Vocabulary.from_symbols({*symbols, *self.closing}, first=(BLANK, *ends, UNKNOWN))

    def target(self, cut: Cut, vocabulary: Vocabulary, frames: int) -> Tensor:
        """Return (U,) symbols."""
        import torch

        symbols = self.symbols(cut)
        if not symbols:
            raise DataError(f"cut {cut.id} has no {self.kind}, which task {self.task} needs")
        return torch.tensor(vocabulary.encode([*symbols, *self.closing], f"cut {cut.id}"))

    def problem(
        self, cut: Cut, vocabulary: Vocabulary | None, frames: int, *, training: bool
    ) -> str | None:
        """Say whether a cut has no symbol, or in training more than CTC can align.

        Symbols plus repeats must fit into the frames; where they do not in dev and test, the cut
        counts all the same.
        """
        symbols = self.symbols(cut)
        if not symbols:
            return NO_SYMBOL
        repeats = sum(a == b for a, b in itertools.pairwise(symbols))
        fits = len(symbols) + repeats + len(self.closing) <= frames
        return None if fits or not training else TOO_LONG


@dataclass(frozen=True)
class CtcModel(Model):
    """A head by frame with CTC, decoded greedily and, for words, with a language model.

    Loss: per-utterance CTC loss / target length, then the mean over the batch; utterances whose
    target cannot be aligned count as zero (s3prl 0.4 and `torch.nn.CTCLoss` with
    ``zero_infinity``).
    """

    level: ClassVar[Level] = "frame"
    counterpart: ClassVar[str] = "ForCTC"
    ended: bool = False
    """Whether targets end with a symbol, which decoding leaves out."""
    search: WordSearch | None = None
    """Finds words with a language model."""

    def variant(self, protocol: str) -> Model:
        """Return the model as a protocol wants it: ``s3prl`` ends every target with a symbol."""
        return replace(self, ended=True) if protocol == "s3prl" else self

    def head(
        self, dim: int, vocabulary: Vocabulary, hidden: int | None, units: Sequence[int]
    ) -> nn.Module:
        """Build SUPERB's recogniser: projection, bidirectional LSTMs of ``units``, linear layer.

        LSTMs have dropout 0.2; without units there is a linear layer for every frame.
        """
        if not units:
            from speechft.tasks.heads import FrameHead

            return FrameHead(dim, len(vocabulary), hidden)
        from speechft.tasks.recurrent import RecurrentHead

        return RecurrentHead(dim, len(vocabulary), projection=hidden, hidden=units, dropout=0.2)

    def losses(
        self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor], vocabulary: Vocabulary
    ) -> Tensor:
        """Return CTC losses over target lengths, (B,)."""
        from speechft.tasks.losses import ctc_losses

        return ctc_losses(logits, lengths, targets)

    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Decode greedily: (symbols, share of blank frames), with a search a third part, words."""
        import torch

        best = logits.argmax(-1).cpu()
        decoded: list[Any] = []
        for number, (row, length) in enumerate(zip(best, lengths.tolist(), strict=True)):
            valid = row[:length]
            collapsed = torch.unique_consecutive(valid)
            symbols = collapsed[collapsed != 0].tolist()
            if self.ended:
                symbols = [symbol for symbol in symbols if symbol != _END_NUMBER]
            words = () if self.search is None else (self.search(logits[number, :length]),)
            decoded.append((symbols, float((valid == 0).float().mean()), *words))
        return decoded


class LinearCtcModel(CtcModel):
    """The same with a linear layer only, also in probes (SUPERB PR)."""

    def head(
        self, dim: int, vocabulary: Vocabulary, hidden: int | None, units: Sequence[int]
    ) -> nn.Module:
        """Build a linear layer for every frame."""
        return super().head(dim, vocabulary, hidden, ())


class WordCtcModel(CtcModel):
    """The same with a search for words where a language model is given (SUPERB ASR)."""

    takes_language_model: ClassVar[bool] = True

    def searched(self, language_model: LanguageModel, vocabulary: Vocabulary) -> Model:
        """Return the model that finds words with a language model too."""
        from speechft.tasks.word_search import WordSearch

        return replace(self, search=WordSearch(language_model, vocabulary.symbols))


@dataclass(frozen=True, kw_only=True)
class EditScorer(UtteranceScorer):
    """Counts edits between the units of hypothesis and reference."""

    labels: SymbolLabels
    formats: ClassVar[tuple[str, ...]] = ("jsonl", "csv", "vtt")
    part: ClassVar[str] = "phone"
    """What answers call a part of the text that has a time."""
    spelled: ClassVar[bool] = False
    """Whether symbols are letters, written without blanks between them."""

    def describe(self, prediction: Any, vocabulary: Vocabulary, setting: Any) -> str:
        """Return the units that were recognised."""
        return " ".join(self.labels.units(vocabulary.decode(prediction[0])))

    def answer(self, heard: Heard) -> Answer:
        """Return what was recognised, and its parts with their times."""
        text = self.describe(heard.prediction, heard.vocabulary, heard.setting)
        spans = tuple(self.spans(heard))
        parts = [span.named(self.part) for span in spans]
        return Answer(text, {"text": text, f"{self.part}s": parts}, spans)

    def spans(self, heard: Heard) -> Iterable[Span]:
        """Return the parts of the text with their times: here every symbol."""
        return symbol_spans(heard)

    def score(self, cut: Cut, prediction: Any, target: Tensor, vocabulary: Vocabulary) -> Item:
        """Count edits between hypothesis and reference."""
        from speechft.tasks.metrics import edits

        numbers, blanks, *_ = prediction
        hypothesis = self.labels.units(vocabulary.decode(numbers))
        reference = self.labels.units(self.labels.symbols(cut))  # unseen ones cannot be right
        counted = edits(reference, hypothesis)
        return Item(
            id=cut.id,
            prediction=" ".join(hypothesis),
            reference=" ".join(reference),
            amount=counted.total,
            total=len(reference),
            counts={**counted.as_dict(), "blank_ratio": blanks},
        )


def symbol_spans(heard: Heard) -> list[Span]:
    """Return the symbols of the greedy path with their times; blanks and ends are left out.

    CTC puts symbols where it is sure of them: times are good to a few frames, and are no alignment.
    """
    known = heard.vocabulary.symbols
    return [
        heard.span(first, last, known[number])
        for number, first, last in runs(heard.logits.argmax(-1).tolist())
        if number != 0 and known[number] != END
    ]


def joined(symbols: Iterable[Span], boundaries: frozenset[str]) -> Iterator[Span]:
    """Yield what stands between boundaries, from its first symbol's start to its last's end."""
    for is_boundary, part in itertools.groupby(symbols, key=lambda span: span.text in boundaries):
        if not is_boundary:
            listed = list(part)
            text = "".join(span.text for span in listed)
            yield Span(listed[0].start, listed[-1].end, text)


def edit_rates(items: Sequence[Item]) -> dict[str, float]:
    """Return insertions, deletions and substitutions in percent, and the mean blank ratio."""
    if not items:
        return {}
    total = sum(item.counts.get("units", item.total) for item in items)
    rates = {
        name: round(100 * sum(item.counts[name] for item in items) / total, 2)
        for name in ("substitutions", "insertions", "deletions")
    }
    blanks = math.fsum(item.counts["blank_ratio"] for item in items) / len(items)
    return {**rates, "blank_ratio": round(blanks, 4)}
