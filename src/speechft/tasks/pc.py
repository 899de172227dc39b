"""Phone classification of every frame, from time-aligned phones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechft.data.labels import UNKNOWN, Vocabulary, phones_of
from speechft.errors import DataError
from speechft.tasks.base import Item, Level, Task
from speechft.tasks.heads import FrameHead

if TYPE_CHECKING:
    from lhotse.cut import Cut

_HOP, _CENTRE = 0.02, 0.0125
"""Seconds between frames, and from the start of a frame to its middle."""
_NOTHING = -100


class PhoneClassification(Task):
    """The phone at the middle of each 25 ms frame; frames outside the alignment do not count."""

    name = "pc"
    title = "phone classification of frames"
    label = "alignment"
    level: ClassVar[Level] = "frame"
    metric: ClassVar[str] = "frame_accuracy"
    higher_is_better: ClassVar[bool] = True

    def vocabulary(self, cuts: Iterable[Cut]) -> Vocabulary:
        """Collect all phones, silence included."""
        found = {phone for cut in cuts for phone, _, _ in phones_of(cut)}
        if len(found) < 2:
            raise DataError("task pc: the training split holds no aligned phones")
        return Vocabulary.from_symbols(found, first=(UNKNOWN,))

    def labelled(self, cut: Cut) -> bool:
        """Return whether a cut has phones whose times are known."""
        return any(end > 0 or math.isnan(end) for _, _, end in phones_of(cut))

    def problem(
        self, cut: Cut, vocabulary: Vocabulary | None, frames: int, *, training: bool = False
    ) -> str | None:
        """Say whether a cut's alignment cannot be read, or is about none of its frames."""
        if reason := super().problem(cut, vocabulary, frames, training=training):
            return reason
        times = [(start, end) for _, start, end in phones_of(cut)]
        if not all(math.isfinite(start) and start <= end < math.inf for start, end in times):
            return "alignment that cannot be read"
        spans = [(_frame_from(start), min(_frame_from(end), frames)) for start, end in times]
        return None if any(first < last for first, last in spans) else "alignment without a frame"

    def head(self, dim: int, vocabulary: Vocabulary, hidden: int | None) -> nn.Module:
        """Build a linear layer for every frame."""
        return FrameHead(dim, len(vocabulary), hidden)

    def target(self, cut: Cut, vocabulary: Vocabulary, frames: int) -> Tensor:
        """Return (T,) phones, -100 where there is none."""
        phones = phones_of(cut)
        numbers = vocabulary.encode((phone for phone, _, _ in phones), f"cut {cut.id}")
        target = torch.full((frames,), _NOTHING)
        for number, (_, start, end) in zip(numbers, phones, strict=True):
            target[_frame_from(start) : _frame_from(end)] = number
        return target

    def losses(
        self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor], vocabulary: Vocabulary
    ) -> Tensor:
        """Return mean cross entropies over labelled frames, (B,)."""
        padded = nn.utils.rnn.pad_sequence(list(targets), batch_first=True, padding_value=_NOTHING)
        padded = F.pad(padded, (0, logits.shape[1] - padded.shape[1]), value=_NOTHING)
        losses = F.cross_entropy(logits.float().transpose(1, 2), padded, reduction="none")
        return losses.sum(1) / (padded != _NOTHING).sum(1).clamp(min=1)

    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Return the most likely phone of every frame."""
        best = logits.argmax(-1).cpu()
        return [row[:length] for row, length in zip(best, lengths.tolist(), strict=True)]

    def describe(self, prediction: Any, vocabulary: Vocabulary, setting: Any = None) -> str:
        """Return the phone of every frame."""
        return " ".join(vocabulary.decode(prediction.tolist()))

    def score(self, cut: Cut, prediction: Any, target: Tensor, vocabulary: Vocabulary) -> Item:
        """Count the frames that are right among those labelled."""
        labelled = target != _NOTHING
        known = target != vocabulary.symbols.index(UNKNOWN)
        hits = float((prediction == target)[labelled & known].sum())
        texts = [
            " ".join(vocabulary.decode(row[labelled].tolist())) for row in (prediction, target)
        ]
        return Item(cut.id, texts[0], texts[1], hits, float(labelled.sum()))


def _frame_from(seconds: float) -> int:
    """Return the first frame whose middle is not before a time, exact to a microsecond or so."""
    return max(0, math.ceil(round((seconds - _CENTRE) / _HOP, 4)))
