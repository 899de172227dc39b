"""Speaker diarisation (SUPERB SD): who speaks when, by a one-way LSTM and the best permutation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.data.labels import Vocabulary, label_of
from speechft.errors import DataError
from speechft.storage.documents import parse_json
from speechft.tasks.answers import Answer, Heard, Span, known_timing
from speechft.tasks.base import Task
from speechft.tasks.measures import Item, Measure, ratio
from speechft.tasks.parts import (
    Labels,
    Level,
    Model,
    Needs,
    Predictions,
    Scorer,
    Split,
)

if TYPE_CHECKING:
    from lhotse.cut import Cut
    from torch import Tensor, nn

    from speechft.encoders.timing import FrameTiming
    from speechft.tasks.metrics.diarization import Turn

_CHUNK_SECONDS = 40.0
_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
_MEDIANS = (1, 11)
_USUAL = (0.5, 1)
_MOST_SPEAKERS = 4
Setting = tuple[float, int]
"""(threshold, frames of the median filter)."""


def error_parts(items: Sequence[Item]) -> dict[str, float]:
    """Return missed, false and confused speaker time in percent of that of the reference."""
    if not items:
        return {}
    total = sum(item.total for item in items)
    return {
        name: round(100 * sum(item.counts[name] for item in items) / total, 2)
        for name in ("missed", "false_alarm", "confusion")
    }


DER = Measure("der", False, ratio, written="DER", details=error_parts)


@dataclass(frozen=True)
class TurnLabels(Labels):
    """A JSON list of [speaker, start, end] in seconds; targets are (T, K) 0/1 of K speakers."""

    timing: FrameTiming | None = None
    """Where frames lie in time."""

    def at(self, timing: FrameTiming) -> TurnLabels:
        """Return the labels for frames that lie so in time."""
        return replace(self, timing=timing)

    def vocabulary(self, cuts: Iterable[Cut]) -> Vocabulary:
        """Return as many numbered speakers as a recording has at most."""
        count = max((len({turn[0] for turn in turns_of_cut(cut)}) for cut in cuts), default=0)
        if count < 2:
            raise DataError(f"task sd needs recordings of two speakers, found {count} at most")
        if count > _MOST_SPEAKERS:
            raise DataError(
                f"task sd takes up to {_MOST_SPEAKERS} speakers a recording, found {count}"
            )
        return Vocabulary(tuple(f"speaker-{number}" for number in range(count)))

    def problem(
        self, cut: Cut, vocabulary: Vocabulary | None, frames: int, *, training: bool
    ) -> str | None:
        """Say whether the turns of a cut cannot be read, or are those of too many speakers."""
        try:
            speakers = {turn[0] for turn in turns_of_cut(cut)}
        except DataError:
            return "turns that cannot be read"
        if len(speakers) > _MOST_SPEAKERS:
            return f"more than {_MOST_SPEAKERS} speakers"
        if vocabulary is not None and len(speakers) > len(vocabulary):
            return "more speakers than in training"
        return None

    def target(self, cut: Cut, vocabulary: Vocabulary, frames: int) -> Tensor:
        """Return (T, K) 0/1 labels."""
        import torch

        from speechft.tasks.turns import turn_labels

        turns = turns_of_cut(cut)
        names = sorted({turn[0] for turn in turns})
        if len(names) > len(vocabulary):
            raise DataError(
                f"cut {cut.id} has {len(names)} speakers, the training split {len(vocabulary)}"
            )
        hop = known_timing(self.timing).hop_size
        labels = torch.zeros(frames, len(vocabulary))
        labels[:, : len(names)] = torch.from_numpy(turn_labels(turns, 0, frames, frame_shift=hop))
        return labels


class TurnModel(Model):
    """A one-way LSTM, the loss of the best permutation, probabilities of speakers by frame."""

    level: ClassVar[Level] = "frame"
    no_counterpart: ClassVar[str] = (
        "diarisation here is an LSTM over all frames, and ForAudioFrameClassification a linear "
        "layer on each"
    )

    def head(
        self, dim: int, vocabulary: Vocabulary, hidden: int | None, units: Sequence[int]
    ) -> nn.Module:
        """Build a one-way LSTM; its size is in ``units``, else ``hidden`` (SUPERB: 512)."""
        from speechft.tasks.recurrent import DiarizationHead

        return DiarizationHead(dim, len(vocabulary), units[0] if units else hidden or 512)

    def losses(
        self, logits: Tensor, lengths: Tensor, targets: Sequence[Tensor], vocabulary: Vocabulary
    ) -> Tensor:
        """Return losses whose mean is the batch's best permutations over its valid frames, (B,).

        Logits may have more frames than the longest target, where waveforms are padded.
        """
        from speechft.tasks.losses import padded_to
        from speechft.tasks.turns import pit_losses

        labels = padded_to(targets, logits.shape[1], 0.0)
        best = pit_losses(logits, labels, lengths).min(1).values
        return best * len(best) / lengths.sum()

    def predict(self, logits: Tensor, lengths: Tensor, vocabulary: Vocabulary) -> list[Any]:
        """Return (T, K) probabilities of each recording."""
        probabilities = logits.float().sigmoid().cpu()
        return [row[:n].numpy() for row, n in zip(probabilities, lengths.tolist(), strict=True)]


@dataclass(frozen=True)
class TurnScorer(Scorer):
    """Diarisation error rate without a collar, overlapped speech included.

    Threshold and median filter are chosen on dev from SUPERB's ten combinations (s3prl chooses
    them on test).
    """

    formats: ClassVar[tuple[str, ...]] = ("jsonl", "csv", "rttm")
    timing: FrameTiming | None = None
    """Where frames lie in time."""

    def at(self, timing: FrameTiming) -> TurnScorer:
        """Return the scorer for frames that lie so in time."""
        return replace(self, timing=timing)

    def tune(
        self, cuts: Split, predictions: Predictions, targets: Sequence[Tensor], context: Any
    ) -> Setting:
        """Return the threshold and median filter with the lowest error on dev."""
        from speechft.tasks.metrics.diarization import diarization_errors

        settings = [(threshold, median) for threshold in _THRESHOLDS for median in _MEDIANS]

        def wrong(setting: Setting) -> float:
            return sum(
                diarization_errors(turns_of_cut(cut), self._decided(p, setting)).total
                for cut, p in zip(cuts, predictions, strict=True)
            )

        return min(settings, key=wrong)

    def items(
        self,
        cuts: Split,
        predictions: Predictions,
        targets: Sequence[Tensor],
        vocabulary: Vocabulary,
        context: Any,
        setting: Any,
    ) -> list[Item]:
        """Return one item a recording: seconds of wrong and of all speaker time."""
        from speechft.tasks.metrics.diarization import diarization_errors

        items = []
        for cut, prediction in zip(cuts, predictions, strict=True):
            turns, found = turns_of_cut(cut), self._decided(prediction, setting or _USUAL)
            errors = diarization_errors(turns, found)
            texts = [
                json.dumps([[name, round(a, 3), round(b, 3)] for name, a, b in sorted(part)])
                for part in (found, turns)
            ]
            counts = {
                "missed": errors.missed,
                "false_alarm": errors.false_alarm,
                "confusion": errors.confusion,
            }
            items.append(Item(cut.id, texts[0], texts[1], errors.total, errors.speech, counts))
        return items

    def describe(self, prediction: Any, vocabulary: Vocabulary, setting: Any) -> str:
        """Return the turns as JSON."""
        turns = self._decided(prediction, setting or _USUAL)
        return json.dumps([[n, round(a, 2), round(b, 2)] for n, a, b in turns])

    def answer(self, heard: Heard) -> Answer:
        """Return the turns of the speakers."""
        turns = self._decided(heard.prediction, heard.setting or _USUAL)
        found = (Span(round(a, 3), round(b, 3), name.removeprefix("_")) for name, a, b in turns)
        spans = tuple(sorted(found, key=lambda span: (span.start, span.text)))
        text = self.describe(heard.prediction, heard.vocabulary, heard.setting)
        return Answer(text, {"turns": [span.named("speaker") for span in spans]}, spans)

    def _decided(self, probabilities: Any, setting: Setting) -> list[Turn]:
        from speechft.tasks.turns import turns_of

        hop = known_timing(self.timing).hop_size
        return turns_of(probabilities, threshold=setting[0], median=setting[1], frame_shift=hop)


class ChunkNeeds(Needs):
    """Training recordings are cut into chunks of 40 s."""

    def expand(self, cuts: Split) -> Split:
        """Cut training recordings into chunks; a rest shorter than a second is left out."""
        from speechft.data.kept_cuts import kept_alike

        return kept_alike(_chunks(cuts), cuts)


def _chunks(cuts: Split) -> Iterator[Cut]:
    for cut in cuts:
        if cut.duration <= _CHUNK_SECONDS:
            yield cut
            continue
        start = 0.0
        while cut.duration - start >= 1.0:
            length = min(_CHUNK_SECONDS, cut.duration - start)
            part = cut.truncate(offset=start, duration=length)
            yield part.with_id(f"{cut.id}@{start:g}")
            start += _CHUNK_SECONDS


SD = Task(
    "sd",
    "speaker diarisation",
    labels=TurnLabels("sd", "turns"),
    model=TurnModel(),
    scorer=TurnScorer((DER,)),
    needs=ChunkNeeds(),
)


def turns_of_cut(cut: Cut) -> list[Turn]:
    """Return the turns of a cut, relative to its start and clipped to it.

    Raises:
        DataError: It has none, or they cannot be read.
    """
    text = label_of(cut, "turns")
    if text is None:
        raise DataError(f"cut {cut.id} has no turns, which task sd needs")
    offset = -cut.supervisions[0].start
    turns: list[Turn] = []
    try:
        for name, start, end in parse_json(text):
            first, last = max(0.0, start - offset), min(cut.duration, end - offset)
            if end <= start:
                raise ValueError
            if first < last:
                turns.append((str(name), float(first), float(last)))
    except (TypeError, ValueError):
        raise DataError(
            f"cut {cut.id}: turns are not a JSON list of [speaker, start, end]: {text[:60]!r}"
        ) from None
    return turns
