"""What a task tells users about an utterance: plain values, and spans of time where it has some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from speechft.data.labels import Vocabulary
    from speechft.encoders.timing import FrameTiming


def known_timing(timing: FrameTiming | None) -> FrameTiming:
    """Return where frames lie in time, which has to be known by now; see `Task.at`."""
    assert timing is not None, "a task whose labels have times is used before Task.at"
    return timing


@dataclass(frozen=True)
class Span:
    """Something that is heard for a while."""

    start: float
    """In seconds from the beginning of the utterance."""
    end: float
    text: str
    """A word, a phone, the number of a speaker."""

    def named(self, name: str) -> dict[str, Any]:
        """Return it as plain JSON types, its text under a name."""
        return {name: self.text, "start": self.start, "end": self.end}


@dataclass(frozen=True)
class Answer:
    """What is told about an utterance."""

    text: str
    """In one line, as `Scorer.describe` has it."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON types by name: ``text``, ``label``, ``probability``, ``embedding``, ``turns``."""
    spans: tuple[Span, ...] = ()
    """In the order of their times."""


@dataclass(frozen=True)
class Heard:
    """What a head gave for an utterance, and what it takes to put it in words.

    Shapes: T frames, C classes.
    """

    logits: Tensor
    """(T, C) of its valid frames, or (C,)."""
    prediction: Any
    """From `Model.predict`."""
    vocabulary: Vocabulary
    setting: Any = None
    """Of the decision, chosen on dev; None takes the usual one."""
    timing: FrameTiming | None = None
    """Where frames lie in time."""

    def span(self, first: int, last: int, text: str) -> Span:
        """Return the time from a frame to the one before ``last``, whole hops from the first's."""
        hop = known_timing(self.timing).hop_seconds
        return Span(round(first * hop, 3), round(last * hop, 3), text)


def runs(numbers: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (number, first, last + 1) of every run of equal numbers."""
    first = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[first]:
            yield numbers[first], first, place
            first = place


def probabilities(logits: Tensor) -> list[float]:
    """Return the probabilities of (C,) logits, to six decimals."""
    return [round(value, 6) for value in logits.float().softmax(-1).tolist()]
