"""Speech recognition by characters (SUPERB ASR), greedily and with a language model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from speechft.data.labels import Vocabulary, label_of
from speechft.tasks.base import Item, Task
from speechft.tasks.ctc import END, CtcTask, recurrent_head
from speechft.tasks.measures import Measure, ratio_of
from speechft.tasks.metrics import edits
from speechft.tasks.word_search import BOUNDARY, LanguageModel, WordSearch, check_model

if TYPE_CHECKING:
    from lhotse.cut import Cut

_LM_EDITS = "edits_with_lm"
_WER_LM = Measure("wer_with_lm", False, ratio_of(_LM_EDITS))


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

    def with_language_model(self, model: LanguageModel) -> CharacterRecognition:
        """Return the task with a language model.

        Raises:
            ConfigError: The extra ``lm`` is not installed.
            DataError: The file cannot be read or is no model.
        """
        check_model(model.file)
        changed = copy.copy(self)
        changed.language_model = model
        return changed

    def final(self, vocabulary: Vocabulary) -> Task:
        """Return the task that searches with its language model, if it has one."""
        if self.language_model is None:
            return self
        changed = copy.copy(self)
        changed._search = WordSearch(self.language_model, vocabulary.symbols)
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
