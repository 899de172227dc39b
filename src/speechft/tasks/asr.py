"""Speech recognition by characters (SUPERB ASR), greedily and with a language model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.data.labels import Vocabulary, label_of
from speechft.tasks.base import Task
from speechft.tasks.ctc import END, EditScorer, SymbolLabels, WordCtcModel, edit_rates
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
    """Characters of the text in upper case.

    Everything but letters, digits and apostrophes of any script separates words.
    """

    s3prl_closing: ClassVar[tuple[str, ...]] = (BOUNDARY, END)

    def symbols(self, cut: Cut) -> list[str]:
        """Return the characters, words separated by `BOUNDARY`."""
        text = (label_of(cut, "text") or "").upper()
        kept = "".join(c if c.isalnum() or c == "'" else " " for c in text)
        return list(BOUNDARY.join(kept.split()))

    def units(self, symbols: Sequence[str]) -> list[str]:
        """Return the words; in scripts without spaces every character is one."""
        return words_of("".join(symbols).replace(BOUNDARY, " "))


_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, kana and Han: scripts that put no spaces between words."""


def words_of(text: str) -> list[str]:
    """Return what the word error rate counts: words, and in unspaced scripts single characters.

    The error rate of a Mandarin text is thus its character error rate, as the field gives it, and
    that of mixed text counts English words and Mandarin characters (mixed error rate).
    """
    return _UNSPACED.sub(lambda match: f" {match[0]} ", text).split()


class WordScorer(EditScorer):
    """Counts edits of words, those with the language model apart."""

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
        words = words_of(" ".join(prediction[2]))
        counts = {**item.counts, _LM_EDITS: edits(item.reference.split(), words).total}
        return replace(item, counts=counts, searched=" ".join(words))


CHARACTERS = CharacterLabels("asr", "text")
ASR = Task(
    "asr",
    "speech recognition (characters)",
    labels=CHARACTERS,
    model=WordCtcModel(),
    scorer=WordScorer((WER, WER_LM), labels=CHARACTERS),
)
