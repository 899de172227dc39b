"""Speech recognition by characters (SUPERB ASR), greedily and with a language model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.data.labels import Vocabulary, label_of
from speechft.data.text import units_of, words
from speechft.tasks.answers import Heard, Span
from speechft.tasks.base import Task
from speechft.tasks.ctc import (
    END,
    EditScorer,
    SymbolLabels,
    WordCtcModel,
    edit_rates,
    joined,
    symbol_spans,
)
from speechft.tasks.measures import Item, Measure, ratio, ratio_of
from speechft.tasks.word_search import BOUNDARY

if TYPE_CHECKING:
    from lhotse.cut import Cut
    from torch import Tensor

_LM_EDITS = "edits_with_lm"
WER = Measure("wer", False, ratio, written="WER", details=edit_rates)
WER_LM = Measure(
    "wer_with_lm",
    False,
    ratio_of(_LM_EDITS),
    written="WER with LM",
    details=edit_rates,
    searched=True,
)


class CharacterLabels(SymbolLabels):
    """Characters of the text in upper case, as `speechft.data.text` reads it.

    Everything but letters with their marks, digits and apostrophes of any script separates words.
    """

    s3prl_closing: ClassVar[tuple[str, ...]] = (BOUNDARY, END)

    def symbols(self, cut: Cut) -> list[str]:
        """Return the characters, words separated by `BOUNDARY`."""
        return list(BOUNDARY.join(words(label_of(cut, "text") or "")))

    def units(self, symbols: Sequence[str]) -> list[str]:
        """Return the words; characters where a script has no spaces between words."""
        found = "".join(symbols).replace(BOUNDARY, " ").split()
        return [unit for word in found for unit in units_of(word)]


class WordScorer(EditScorer):
    """Counts edits of words, those with the language model apart."""

    part: ClassVar[str] = "word"
    spelled: ClassVar[bool] = True

    def spans(self, heard: Heard) -> Iterable[Span]:
        """Return the words with their times; those of a language model have none."""
        if len(heard.prediction) == 3:
            return []
        return joined(symbol_spans(heard), frozenset({BOUNDARY}))

    def describe(self, prediction: Any, vocabulary: Vocabulary, setting: Any) -> str:
        """Return the words, those of the language model if there is one."""
        if len(prediction) == 3:
            return " ".join(prediction[2])
        return " ".join("".join(vocabulary.decode(prediction[0])).replace(BOUNDARY, " ").split())

    def score(self, cut: Cut, prediction: Any, target: Tensor, vocabulary: Vocabulary) -> Item:
        """Count edits of words, those with the language model apart."""
        from speechft.tasks.metrics import edits

        item = super().score(cut, prediction, target, vocabulary)
        if len(prediction) == 2:
            return item
        found = [unit for word in prediction[2] for unit in units_of(word)]
        counts = {**item.counts, _LM_EDITS: edits(item.reference.split(), found).total}
        return replace(item, counts=counts, searched=" ".join(found))


CHARACTERS = CharacterLabels("asr", "text")
ASR = Task(
    "asr",
    "speech recognition (characters)",
    labels=CHARACTERS,
    model=WordCtcModel(),
    scorer=WordScorer((WER, WER_LM), labels=CHARACTERS),
)
