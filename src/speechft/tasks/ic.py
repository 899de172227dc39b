"""Intent classification (SUPERB IC): several slots, right only when all of them are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.data.labels import Vocabulary, label_of
from speechft.errors import DataError
from speechft.tasks.answers import Answer, Heard, probabilities
from speechft.tasks.base import Task
from speechft.tasks.label import ACCURACY
from speechft.tasks.measures import Item
from speechft.tasks.parts import UNSEEN, Labels, Level, Model, UtteranceScorer

if TYPE_CHECKING:
    from lhotse.cut import Cut
    from torch import Tensor, nn

_ODD = "another number of slots"


class IntentLabels(Labels):
    """Slots written as ``action/object/location``; symbols are ``slot number:value``.

    Targets are (slots,) int64.
    """

    def vocabulary(self, cuts: Iterable[Cut]) -> Vocabulary:
        """Collect the values of every slot.

        Raises:
            DataError: There is no intent, or utterances differ in their number of slots.
        """
        slots = [self._slots(cut) for cut in cuts]
        if not slots or len({len(values) for values in slots}) != 1:
            raise DataError(
                "task ic: every utterance needs an intent with the same number of slots"
            )
        return Vocabulary.from_symbols(symbol for values in slots for symbol in values)

    def problem(
        self, cut: Cut, vocabulary: Vocabulary | None, frames: int, *, training: bool
    ) -> str | None:
        """Say whether the slots of a cut cannot be read, or are not those of training."""
        if "" in str(label_of(cut, self.kind)).split("/"):
            return "slot without a value"
        if vocabulary is None:
            return None
        slots = self._slots(cut)
        if len(slots) != len(slot_ranges(vocabulary)):
            return _ODD
        return None if all(slot in vocabulary for slot in slots) else UNSEEN

    def outliers(self, cuts: Sequence[Cut]) -> dict[str, str]:
        """Return the cuts with another number of slots than most have."""
        counts = Counter(len(self._slots(cut)) for cut in cuts)
        [(usual, _)] = counts.most_common(1) or [(0, 0)]
        if len(counts) < 2:
            return {}
        return {cut.id: _ODD for cut in cuts if len(self._slots(cut)) != usual}

    def target(self, cut: Cut, vocabulary: Vocabulary, frames: int) -> Tensor:
        """Return (slots,) symbols of the vocabulary."""
        import torch

        slots, expected = self._slots(cut), len(slot_ranges(vocabulary))
        if len(slots) != expected:
            raise DataError(
                f"cut {cut.id} has {len(slots)} intent slots, the training split has {expected}"
            )
        return torch.tensor(vocabulary.encode(slots, f"cut {cut.id}"))

    def _slots(self, cut: Cut) -> list[str]:
        intent = label_of(cut, self.kind)
        if intent is None:
            raise DataError(f"cut {cut.id} has no intent, which task ic needs")
        values = intent.split("/")
        if "" in values:
            raise DataError(
                f"cut {cut.id}: intent {intent!r} has a slot without a value",
                hint="write 'none' where a command leaves a slot open",
            )
        return [f"{number}:{value}" for number, value in enumerate(values)]


class IntentModel(Model):
    """One linear layer gives the classes of all slots side by side; losses are summed."""

    level: ClassVar[Level] = "utterance"
    per_frame: ClassVar[bool] = False
    no_counterpart: ClassVar[str] = (
        "an intent has several slots, and ForSequenceClassification gives one class"
    )

    def head(
        self, dim: int, vocabulary: Vocabulary, hidden: int | None, units: Sequence[int]
    ) -> nn.Module:
        """Build mean pooling and a linear layer."""
        from speechft.tasks.heads import UtteranceHead

        return UtteranceHead(dim, len(vocabulary), hidden)

    def losses(
        self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor], vocabulary: Vocabulary
    ) -> Tensor:
        """Return summed cross entropies, (B,)."""
        import torch

        from speechft.tasks.losses import slot_losses

        ranges = slot_ranges(vocabulary)
        firsts = torch.tensor([first for first, _ in ranges], device=logits.device)
        sizes = [last - first for first, last in ranges]
        ordered = torch.cat([logits[:, first:last] for first, last in ranges], dim=1)
        return slot_losses(ordered, torch.stack(list(targets)) - firsts, sizes)

    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Return the most likely value of every slot, as symbols of the vocabulary."""
        import torch

        columns = [
            logits[:, first:last].argmax(-1) + first for first, last in slot_ranges(vocabulary)
        ]
        return torch.stack(columns, dim=1).tolist()


class IntentScorer(UtteranceScorer):
    """A hit when all slots are right."""

    def describe(self, prediction: Any, vocabulary: Vocabulary, setting: Any) -> str:
        """Return the values of the slots, as the label writes them."""
        return "/".join(symbol.partition(":")[2] for symbol in vocabulary.decode(prediction))

    def answer(self, heard: Heard) -> Answer:
        """Return the values of the slots with their probabilities, and that of all of them."""
        intent = self.describe(heard.prediction, heard.vocabulary, None)
        ranges = slot_ranges(heard.vocabulary)
        chances = [
            probabilities(heard.logits[first:last])[number - first]
            for number, (first, last) in zip(heard.prediction, ranges, strict=True)
        ]
        slots = [
            {"value": value, "probability": chance}
            for value, chance in zip(intent.split("/"), chances, strict=True)
        ]
        whole = round(math.prod(chances), 6)
        return Answer(intent, {"intent": intent, "probability": whole, "slots": slots})

    def score(self, cut: Cut, prediction: Any, target: Tensor, vocabulary: Vocabulary) -> Item:
        """Count a hit when all slots are right."""
        numbers = target.tolist()
        texts = [self.describe(slots, vocabulary, None) for slots in (prediction, numbers)]
        return Item(cut.id, texts[0], texts[1], float(prediction == numbers), 1.0)


def slot_ranges(vocabulary: Vocabulary) -> list[tuple[int, int]]:
    """Return where the classes of each slot begin and end in the vocabulary."""
    numbers = [int(symbol.partition(":")[0]) for symbol in vocabulary.symbols]
    return [
        (numbers.index(slot), len(numbers) - numbers[::-1].index(slot))
        for slot in range(max(numbers) + 1)
    ]


IC = Task(
    "ic",
    "intent classification",
    labels=IntentLabels("ic", "intent"),
    model=IntentModel(),
    scorer=IntentScorer((ACCURACY,)),
)
