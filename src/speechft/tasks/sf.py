"""Slot filling (SUPERB SF): characters with tags around slots, by CTC."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.data.labels import Vocabulary, label_of
from speechft.errors import DataError
from speechft.tasks.answers import Answer, Heard, Span
from speechft.tasks.base import Task
from speechft.tasks.ctc import (
    CtcModel,
    EditScorer,
    SymbolLabels,
    edit_rates,
    joined,
    symbol_spans,
)
from speechft.tasks.measures import Item, Measure, ratio, ratio_of
from speechft.tasks.text import slot_groups, tagged_text

if TYPE_CHECKING:
    from lhotse.cut import Cut
    from torch import Tensor

SLOT_TYPE_F1 = Measure("slot_type_f1", True, ratio, written="slot type F1", details=edit_rates)
SLOT_VALUE_CER = Measure(
    "slot_value_cer",
    False,
    ratio_of("value_edits", "value_length"),
    written="slot value CER",
    details=edit_rates,
)


class SlotLabels(SymbolLabels):
    """Words as characters, with a tag before and after every slot.

    The label ``slots`` holds one slot type for each word of the text, ``O`` for none, separated by
    spaces; ``B-`` and ``I-`` before a type are allowed.
    """

    def labelled(self, cut: Cut) -> bool:
        """Return whether a cut has both text and slots."""
        return label_of(cut, "text") is not None and super().labelled(cut)

    def problem(
        self, cut: Cut, vocabulary: Vocabulary | None, frames: int, *, training: bool
    ) -> str | None:
        """Say whether the slots of a cut do not go with its words, beside what CTC asks for."""
        words, slots = (str(label_of(cut, kind)).split() for kind in ("text", "slots"))
        if len(words) != len(slots):
            return "slots that do not match the words"
        if _without_type(slots):
            return "slot without a type"
        return super().problem(cut, vocabulary, frames, training=training)

    def vocabulary(self, cuts: Iterable[Cut]) -> Vocabulary:
        """Collect all characters, and both tags of every slot type."""
        found = {symbol for cut in cuts for symbol in self.symbols(cut)}
        types = {symbol.strip()[2:] for symbol in found if _is_tag(symbol)}
        if not types:
            raise DataError(
                "task sf: the training split holds no slot",
                hint="the label 'slots' holds one slot type a word, O for none",
            )
        tags = {tag for name in types for tag in (f"B-{name} ", f" E-{name}")}
        return self.with_marks(found | tags)

    def symbols(self, cut: Cut) -> list[str]:
        """Return the characters and tags of a cut."""
        symbols: list[str] = []
        for place, (slot, words) in enumerate(slot_groups(*_words_and_slots(cut))):
            inside = list(" ".join("AND" if word == "&" else word for word in words))
            if slot is not None:
                inside = [f"B-{slot} ", *inside, f" E-{slot}"]
            symbols += ([" "] if place else []) + inside
        return symbols

    def units(self, symbols: Sequence[str]) -> list[str]:
        """Return the words and tags."""
        return "".join(symbols).split()


class SlotScorer(EditScorer):
    """F1 of slot types, which selects, and character error rate of slot values."""

    part: ClassVar[str] = "word"
    spelled: ClassVar[bool] = True

    def describe(self, prediction: Any, vocabulary: Vocabulary, setting: Any) -> str:
        """Return the tagged text."""
        return "".join(vocabulary.decode(prediction[0]))

    def spans(self, heard: Heard) -> Iterable[Span]:
        """Return the words with their times, without tags."""
        symbols = symbol_spans(heard)
        tags = {span.text for span in symbols if _is_tag(span.text)}
        return joined(symbols, frozenset({" ", *tags}))

    def answer(self, heard: Heard) -> Answer:
        """Return the text without tags and with them, its slots, and its words with their times."""
        from speechft.tasks.metrics.slots import slots_of

        tagged = super().answer(heard)
        plain = " ".join(span.text for span in tagged.spans)
        values = {**tagged.values, "text": plain, "tagged": tagged.text}
        return replace(tagged, values={**values, "slots": slots_of(tagged.text, clean=True)})

    def score(self, cut: Cut, prediction: Any, target: Tensor, vocabulary: Vocabulary) -> Item:
        """Compare slot types and values."""
        from speechft.tasks.metrics.slots import slot_type_f1_of, slot_value_edits

        counted = super().score(cut, prediction, target, vocabulary)
        hypothesis = self.describe(prediction, vocabulary, None)
        reference = tagged_text(*_words_and_slots(cut))
        wrong, length = slot_value_edits(reference, hypothesis)
        counts = {**counted.counts, "value_edits": float(wrong), "value_length": float(length)}
        counts["units"] = counted.total
        f1 = slot_type_f1_of(reference, hypothesis)
        return replace(
            counted,
            prediction=hypothesis,
            reference=reference,
            amount=f1,
            total=1.0,
            counts=counts,
        )


SLOTS = SlotLabels("sf", "slots")
SF = Task(
    "sf",
    "slot filling",
    labels=SLOTS,
    model=CtcModel(),
    scorer=SlotScorer((SLOT_TYPE_F1, SLOT_VALUE_CER), labels=SLOTS),
)


def _is_tag(symbol: str) -> bool:
    return symbol.startswith(("B-", " E-"))


def _without_type(labels: Sequence[str]) -> str | None:
    return next((label for label in labels if label in ("B-", "I-")), None)


def _words_and_slots(cut: Cut) -> tuple[list[str], list[str]]:
    text, slots = label_of(cut, "text"), label_of(cut, "slots")
    if text is None or slots is None:
        raise DataError(f"cut {cut.id} has no {'slots' if text else 'text'}, which task sf needs")
    words, labels = text.upper().split(), slots.split()
    if len(words) != len(labels):
        raise DataError(
            f"cut {cut.id} has {len(words)} words but {len(labels)} slot labels",
            hint="give every word a slot type, O for none, separated by spaces",
        )
    if empty := _without_type(labels):
        raise DataError(f"cut {cut.id}: slot label {empty!r} has no type")
    return words, labels
