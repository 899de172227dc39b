"""Recognition by CTC with greedy decoding: what PR, ASR and SF share."""

from __future__ import annotations

import copy
import itertools
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from speechft.data.labels import UNKNOWN, Vocabulary
from speechft.errors import DataError
from speechft.tasks.base import NO_SYMBOL, TOO_LONG, Item, Level, Task
from speechft.tasks.heads import FrameHead
from speechft.tasks.losses import ctc_losses
from speechft.tasks.metrics import edits
from speechft.tasks.recurrent import RecurrentHead

if TYPE_CHECKING:
    from lhotse.cut import Cut

BLANK = "<blank>"
END = "<eos>"
_END_NUMBER = 1


class CtcTask(Task):
    """Sequence recognition; the blank is symbol 0.

    Loss: per-utterance CTC loss / target length, then the mean over the batch; utterances whose
    target cannot be aligned count as zero (s3prl 0.4 and `torch.nn.CTCLoss` with
    ``zero_infinity``).
    """

    level: ClassVar[Level] = "frame"
    higher_is_better: ClassVar[bool] = False
    s3prl_closing: ClassVar[tuple[str, ...]] = (END,)
    """What s3prl adds at the end of every target."""
    closing: tuple[str, ...] = ()
    """What is added here."""

    def variant(self, protocol: str) -> Task:
        """Return the task as a protocol wants it: ``s3prl`` closes every target."""
        if protocol != "s3prl":
            return self
        changed = copy.copy(self)
        changed.closing = self.s3prl_closing
        return changed

    @abstractmethod
    def symbols(self, cut: Cut) -> list[str]:
        """Return the target of a cut as symbols; empty where it has none."""

    @abstractmethod
    def units(self, symbols: Sequence[str]) -> list[str]:
        """Turn symbols into the units that the error rate counts."""

    def vocabulary(self, cuts: Iterable[Cut]) -> Vocabulary:
        """Collect all symbols."""
        found = {symbol for cut in cuts for symbol in self.symbols(cut)}
        if not found:
            raise DataError(f"task {self.name}: the training split holds no {self.label}")
        return self.with_marks(found)

    def with_marks(self, symbols: Iterable[str]) -> Vocabulary:
        """Return the vocabulary of symbols, with those that belong to no text first."""
        ends = (END,) if END in self.closing else ()
        return Vocabulary.from_symbols({*symbols, *self.closing}, first=(BLANK, *ends, UNKNOWN))

    def head(self, dim: int, vocabulary: Vocabulary, hidden: int | None) -> nn.Module:
        """Build a linear layer for every frame."""
        return FrameHead(dim, len(vocabulary), hidden)

    def target(self, cut: Cut, vocabulary: Vocabulary, frames: int) -> Tensor:
        """Return (U,) symbols."""
        symbols = self.symbols(cut)
        if not symbols:
            raise DataError(f"cut {cut.id} has no {self.label}, which task {self.name} needs")
        return torch.tensor(vocabulary.encode([*symbols, *self.closing], f"cut {cut.id}"))

    def problem(
        self, cut: Cut, vocabulary: Vocabulary | None, frames: int, *, training: bool = False
    ) -> str | None:
        """Say whether a cut has no symbol, or in training more than CTC can align.

        Symbols plus repeats must fit into the frames; where they do not in dev and test, the cut
        counts all the same.
        """
        if reason := super().problem(cut, vocabulary, frames, training=training):
            return reason
        symbols = self.symbols(cut)
        if not symbols:
            return NO_SYMBOL
        repeats = sum(a == b for a, b in itertools.pairwise(symbols))
        fits = len(symbols) + repeats + len(self.closing) <= frames
        return None if fits or not training else TOO_LONG

    def losses(
        self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor], vocabulary: Vocabulary
    ) -> Tensor:
        """Return CTC losses over target lengths, (B,)."""
        return ctc_losses(logits, lengths, targets)

    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Decode greedily: (symbols, share of blank frames) of each utterance."""
        best = logits.argmax(-1).cpu()
        decoded: list[Any] = []
        for row, length in zip(best, lengths.tolist(), strict=True):
            valid = row[:length]
            collapsed = torch.unique_consecutive(valid)
            symbols = collapsed[collapsed != 0].tolist()
            if END in self.closing:
                symbols = [number for number in symbols if number != _END_NUMBER]
            decoded.append((symbols, float((valid == 0).float().mean())))
        return decoded

    def describe(self, prediction: Any, vocabulary: Vocabulary, setting: Any = None) -> str:
        """Return the units that were recognised."""
        return " ".join(self.units(vocabulary.decode(prediction[0])))

    def score(self, cut: Cut, prediction: Any, target: Tensor, vocabulary: Vocabulary) -> Item:
        """Count edits between hypothesis and reference."""
        numbers, blanks, *_ = prediction
        hypothesis = self.units(vocabulary.decode(numbers))
        reference = self.units(self.symbols(cut))  # what training did not hold cannot be right
        counted = edits(reference, hypothesis)
        return Item(
            id=cut.id,
            prediction=" ".join(hypothesis),
            reference=" ".join(reference),
            amount=counted.total,
            total=len(reference),
            counts={**counted.as_dict(), "blank_ratio": blanks},
        )


def recurrent_head(
    dim: int, classes: int, hidden: int | None, units: Sequence[int]
) -> FrameHead | RecurrentHead:
    """Build SUPERB's recogniser: projection, bidirectional LSTMs with dropout 0.2, linear layer."""
    if not units:
        return FrameHead(dim, classes, hidden)
    return RecurrentHead(dim, classes, projection=hidden, hidden=units, dropout=0.2)
