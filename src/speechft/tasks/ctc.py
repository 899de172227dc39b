"""Recognition by CTC: phones (PR) and characters (ASR), greedy decoding."""

from __future__ import annotations

import copy
import itertools
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from speechft.data.labels import UNKNOWN, Vocabulary, label_of, phones_of
from speechft.errors import DataError
from speechft.tasks.base import Item, Level, Task
from speechft.tasks.heads import FrameHead
from speechft.tasks.losses import ctc_losses
from speechft.tasks.measures import Measure, ratio_of
from speechft.tasks.metrics import edits
from speechft.tasks.recurrent import RecurrentHead
from speechft.tasks.word_search import BOUNDARY, WordSearch, check_model

if TYPE_CHECKING:
    from lhotse.cut import Cut

BLANK = "<blank>"
END = "<eos>"
_END_NUMBER = 1
_LM_EDITS = "edits_with_lm"
_WER_LM = Measure("wer_with_lm", False, ratio_of(_LM_EDITS))
_SILENCES = frozenset({"SIL", "sil", "sp", "spn", "SPN", "<sil>", ""})


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

    def usable(self, cut: Cut, frames: int) -> bool:
        """Return whether CTC can align the target: symbols plus repeats fit into the frames."""
        symbols = self.symbols(cut)
        repeats = sum(a == b for a, b in itertools.pairwise(symbols))
        return bool(symbols) and len(symbols) + repeats + len(self.closing) <= frames

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
        numbers, blanks = prediction[:2]
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


class PhoneRecognition(CtcTask):
    """Phone recognition (SUPERB PR); silences are left out."""

    name = "pr"
    title = "phone recognition"
    label = "phones"
    metric: ClassVar[str] = "per"

    def symbols(self, cut: Cut) -> list[str]:
        """Return the phones without silence."""
        return [phone for phone, _, _ in phones_of(cut) if phone not in _SILENCES]

    def units(self, symbols: Sequence[str]) -> list[str]:
        """Return the phones."""
        return list(symbols)


@dataclass(frozen=True)
class LanguageModel:
    """A language model and how words are searched with it; see `word_search.WordSearch`."""

    file: Path
    """Word n-gram model in the ARPA format."""
    weight: float = 2.0
    word_score: float = -1.0
    beam: int = 5
    beam_threshold: float = 25.0


class CharacterRecognition(CtcTask):
    """Character recognition with word error rate (SUPERB ASR), with a language model if given one.

    Text is upper-cased; everything but letters and apostrophes of any script separates words.
    """

    s3prl_closing: ClassVar[tuple[str, ...]] = (BOUNDARY, END)
    language_model: LanguageModel | None = None
    """Gives a second word error rate, of a beam search with this model."""
    _search: WordSearch | None = None

    name = "asr"
    title = "speech recognition (characters)"
    label = "text"
    metric: ClassVar[str] = "wer"

    def probe_head(
        self, dim: int, vocabulary: Vocabulary, *, hidden: int | None, units: Sequence[int] = ()
    ) -> nn.Module:
        """Build stacked bidirectional LSTMs, or a linear layer where there are no units."""
        return recurrent_head(dim, len(vocabulary), hidden, units)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Return the word error rate of greedy decoding, and that with the language model."""
        return super().measures if self.language_model is None else (*super().measures, _WER_LM)

    def measure(self, name: str) -> Measure | None:
        """Return a measure by its name."""
        return _WER_LM if name == _WER_LM.name else super().measure(name)

    def with_language_model(self, model: LanguageModel | None) -> CharacterRecognition:
        """Return the task with a language model.

        Raises:
            ConfigError: The extra ``lm`` is not installed.
            DataError: The file cannot be read or is no model.
        """
        changed = copy.copy(self)
        changed.language_model = model
        if model is not None:
            check_model(model.file)
        return changed

    def final(self, vocabulary: Vocabulary) -> Task:
        """Return the task that searches with its language model, if it has one."""
        if self.language_model is None:
            return self
        options = {k: v for k, v in vars(self.language_model).items() if k != "file"}
        changed = copy.copy(self)
        changed._search = WordSearch(self.language_model.file, vocabulary.symbols, **options)
        return changed

    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Decode greedily and, in the final task, with the language model: a third part, words."""
        greedy = super().predict(logits, lengths, vocabulary)
        if self._search is None:
            return greedy
        return [
            (*prediction, self._search(row[:length]))
            for prediction, row, length in zip(greedy, logits, lengths.tolist(), strict=True)
        ]

    def describe(self, prediction: Any, vocabulary: Vocabulary, setting: Any = None) -> str:
        """Return the words, those of the language model if there is one."""
        if len(prediction) == 3:
            return " ".join(prediction[2])
        return super().describe(prediction, vocabulary, setting)

    def score(self, cut: Cut, prediction: Any, target: Tensor, vocabulary: Vocabulary) -> Item:
        """Count edits of words, those with the language model apart."""
        item = super().score(cut, prediction, target, vocabulary)
        if len(prediction) == 2:
            return item
        words = prediction[2]
        counts = {**item.counts, _LM_EDITS: edits(item.reference.split(), words).total}
        return replace(item, counts=counts, searched=" ".join(words))

    def symbols(self, cut: Cut) -> list[str]:
        """Return the characters, words separated by `BOUNDARY`."""
        text = (label_of(cut, "text") or "").upper()
        kept = "".join(c if c.isalnum() or c == "'" else " " for c in text)
        return list(BOUNDARY.join(kept.split()))

    def units(self, symbols: Sequence[str]) -> list[str]:
        """Return the words."""
        return "".join(symbols).replace(BOUNDARY, " ").split()


def recurrent_head(
    dim: int, classes: int, hidden: int | None, units: Sequence[int]
) -> FrameHead | RecurrentHead:
    """Build SUPERB's recogniser: projection, bidirectional LSTMs with dropout 0.2, linear layer."""
    if not units:
        return FrameHead(dim, classes, hidden)
    return RecurrentHead(dim, classes, projection=hidden, hidden=units, dropout=0.2)
