"""Phone classification of every frame, from time-aligned phones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.data.labels import UNKNOWN, Vocabulary, phones_of
from speechft.errors import DataError
from speechft.tasks.answers import Answer, Heard, known_timing, runs
from speechft.tasks.base import Task
from speechft.tasks.measures import Item, Measure, ratio
from speechft.tasks.parts import Labels, Level, Model, UtteranceScorer

if TYPE_CHECKING:
    from lhotse.cut import Cut
    from torch import Tensor, nn

    from speechft.encoders.timing import FrameTiming

FRAME_ACCURACY = Measure("frame_accuracy", True, ratio)
_NOTHING = -100


@dataclass(frozen=True)
class AlignmentLabels(Labels):
    """The phone at the middle of each frame; targets are (T,) int64, -100 where none is."""

    timing: FrameTiming | None = None
    """Where frames lie in time."""

    def at(self, timing: FrameTiming) -> AlignmentLabels:
        """Return the labels for frames that lie so in time."""
        return replace(self, timing=timing)

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
        self, cut: Cut, vocabulary: Vocabulary | None, frames: int, *, training: bool
    ) -> str | None:
        """Say whether a cut's alignment cannot be read, or is about none of its frames."""
        times = [(start, end) for _, start, end in phones_of(cut)]
        if not all(math.isfinite(start) and start <= end < math.inf for start, end in times):
            return "alignment that cannot be read"
        spans = [
            (self._frame_from(start), min(self._frame_from(end), frames)) for start, end in times
        ]
        return None if any(first < last for first, last in spans) else "alignment without a frame"

    def target(self, cut: Cut, vocabulary: Vocabulary, frames: int) -> Tensor:
        """Return (T,) phones, -100 where there is none."""
        import torch

        phones = phones_of(cut)
        numbers = vocabulary.encode((phone for phone, _, _ in phones), f"cut {cut.id}")
        target = torch.full((frames,), _NOTHING)
        for number, (_, start, end) in zip(numbers, phones, strict=True):
            target[self._frame_from(start) : self._frame_from(end)] = number
        return target

    def _frame_from(self, seconds: float) -> int:
        """Return the first frame whose middle is not before a time, to a microsecond or so."""
        timing = known_timing(self.timing)
        frames = (seconds - timing.centre_seconds) / timing.hop_seconds
        return max(0, math.ceil(round(frames, 4)))


class FrameModel(Model):
    """A linear layer and cross entropy for every frame."""

    level: ClassVar[Level] = "frame"
    counterpart: ClassVar[str] = "ForAudioFrameClassification"

    def head(
        self, dim: int, vocabulary: Vocabulary, hidden: int | None, units: Sequence[int]
    ) -> nn.Module:
        """Build a linear layer for every frame."""
        from speechft.tasks.heads import FrameHead

        return FrameHead(dim, len(vocabulary), hidden)

    def losses(
        self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor], vocabulary: Vocabulary
    ) -> Tensor:
        """Return mean cross entropies over labelled frames, (B,)."""
        import torch.nn.functional as F

        from speechft.tasks.losses import padded_to

        padded = padded_to(targets, logits.shape[1], _NOTHING)
        losses = F.cross_entropy(logits.float().transpose(1, 2), padded, reduction="none")
        return losses.sum(1) / (padded != _NOTHING).sum(1).clamp(min=1)

    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Return the most likely phone of every frame."""
        best = logits.argmax(-1).cpu()
        return [row[:length] for row, length in zip(best, lengths.tolist(), strict=True)]


class FrameScorer(UtteranceScorer):
    """Counts right frames among those labelled."""

    formats: ClassVar[tuple[str, ...]] = ("jsonl", "csv", "vtt")

    def describe(self, prediction: Any, vocabulary: Vocabulary, setting: Any) -> str:
        """Return the phone of every frame."""
        return " ".join(vocabulary.decode(prediction.tolist()))

    def answer(self, heard: Heard) -> Answer:
        """Return the phones, each for the frames in a row that are of it."""
        known = heard.vocabulary.symbols
        found = runs(heard.prediction.tolist())
        spans = tuple(heard.span(first, last, known[number]) for number, first, last in found)
        text = self.describe(heard.prediction, heard.vocabulary, None)
        return Answer(text, {"phones": [span.named("phone") for span in spans]}, spans)

    def score(self, cut: Cut, prediction: Any, target: Tensor, vocabulary: Vocabulary) -> Item:
        """Count the frames that are right among those labelled."""
        labelled = target != _NOTHING
        known = target != vocabulary.symbols.index(UNKNOWN)
        hits = float((prediction == target)[labelled & known].sum())
        texts = [
            " ".join(vocabulary.decode(row[labelled].tolist())) for row in (prediction, target)
        ]
        return Item(cut.id, texts[0], texts[1], hits, float(labelled.sum()))


PC = Task(
    "pc",
    "phone classification of frames",
    labels=AlignmentLabels("pc", "alignment"),
    model=FrameModel(),
    scorer=FrameScorer((FRAME_ACCURACY,)),
)
