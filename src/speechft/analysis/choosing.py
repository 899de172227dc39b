"""What of a corpus is looked at: utterances, frames, segments and triphones, all by a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from speechft.analysis.abx import MODES, Cell, Mode, Token, choose_cells
from speechft.data.labels import aligned, label_of, phones_of
from speechft.encoders.timing import FrameTiming
from speechft.storage.files import json_digest
from speechft.tasks.pr import SILENCES

if TYPE_CHECKING:
    from lhotse.cut import Cut

FRAMES = 8
"""Frames of an utterance at most, for measures that need them side by side."""
APART = 0.2
"""Seconds between them at least: neighbouring frames are alike, and no further items."""
MOST_SEGMENTS = 6000
"""Phones, and words, that are pooled; a seeded draw where there are more."""
KINDS = {"phone": "phones", "word": "words"}
"""Alignments that are read, and the question that they answer."""


@dataclass(frozen=True)
class Segment:
    """A part of an utterance with a label."""

    cut: int
    """Number of the utterance."""
    label: str
    start: float
    """Seconds."""
    end: float


@dataclass(frozen=True)
class Choice:
    """What is looked at in a list of utterances."""

    cuts: tuple[Cut, ...]
    times: tuple[npt.NDArray[np.float64], ...]
    """Of each utterance, the middles of the sampled frames in seconds."""
    segments: dict[str, list[Segment]]
    """By kind of alignment, those with labels that occur."""
    triphones: list[Segment]
    """Those that a cell of ABX needs."""
    cells: dict[Mode, list[Cell]]
    """Their numbers are those of ``triphones``."""

    @property
    def utterances(self) -> npt.NDArray[np.int64]:
        """Return the number of the utterance of each sampled frame."""
        return np.repeat(np.arange(len(self.cuts)), [len(times) for times in self.times])

    def only(self, cuts: Sequence[int]) -> Choice:
        """Return what is looked at in some of the utterances, without any cells.

        Args:
            cuts: Their numbers, in order.
        """
        place = {number: n for n, number in enumerate(cuts)}

        def within(segments: list[Segment]) -> list[Segment]:
            return [replace(s, cut=place[s.cut]) for s in segments if s.cut in place]

        return Choice(
            tuple(self.cuts[n] for n in cuts),
            tuple(self.times[n] for n in cuts),
            {kind: within(found) for kind, found in self.segments.items()},
            within(self.triphones),
            {},
        )


def choose(
    cuts: Sequence[Cut],
    timing: FrameTiming,
    counts: Sequence[int],
    *,
    seed: int,
    segments: bool,
    triphones: bool,
) -> Choice:
    """Choose what is looked at.

    Args:
        cuts: The utterances.
        timing: Where the frames of the base lie.
        counts: Frames that the base makes of each utterance.
        seed: Of what is left out.
        segments: Whether phones and words are pooled.
        triphones: Whether ABX is measured.
    """
    times = tuple(
        _middles(sample_frames(count, timing, seed, cut.id), timing)
        for cut, count in zip(cuts, counts, strict=True)
    )
    pooled = {k: _segments(cuts, k, seed) for k in KINDS} if segments else {}
    spoken, tokens = _triphones(cuts, timing) if triphones else ([], [])
    cells = {mode: choose_cells(tokens, mode, seed) for mode in MODES}
    used = sorted({n for found in cells.values() for c in found for n in (*c.a, *c.b, *c.x)})
    place = {number: position for position, number in enumerate(used)}

    def moved(cell: Cell) -> Cell:
        parts = (tuple(place[n] for n in part) for part in (cell.a, cell.b, cell.x))
        return Cell(cell.phones, cell.context, cell.speakers, *parts)

    return Choice(
        tuple(cuts),
        times,
        {kind: found for kind, found in pooled.items() if found},
        [spoken[n] for n in used],
        {mode: [moved(cell) for cell in found] for mode, found in cells.items()},
    )


def sample_frames(count: int, timing: FrameTiming, seed: int, name: str) -> npt.NDArray[np.int64]:
    """Return the numbers of at most `FRAMES` frames, `APART` seconds apart or more, in order.

    Every choice of so many frames is as likely as any other.

    Args:
        count: Frames of the utterance.
        timing: How far they are apart.
        seed: Of the draw.
        name: The id of the utterance: what is drawn does not depend on the others.
    """
    gap = max(1, math.ceil(APART / timing.hop_seconds - 1e-9))
    number = min(FRAMES, 1 + (count - 1) // gap)
    rng = np.random.default_rng(int(json_digest([seed, name])[:16], 16))
    free = count - (number - 1) * (gap - 1)
    drawn = np.sort(rng.choice(free, number, replace=False))
    return drawn.astype(np.int64) + (gap - 1) * np.arange(number)


def speakers_of(cuts: Sequence[Cut]) -> list[str] | None:
    """Return the speaker of each utterance; None where one has none, or all have the same."""
    found = [label_of(cut, "speaker") for cut in cuts]
    known = [name for name in found if name is not None]
    return known if len(known) == len(found) and len(set(known)) > 1 else None


def labels_of(cuts: Sequence[Cut]) -> dict[str, list[str | None]]:
    """Return the labels of whole utterances by kind: those whose values occur more than once.

    The speaker comes first; a kind has at least two values, and twice as many utterances as values.
    """
    kinds = [
        "speaker",
        *sorted({k for c in cuts for s in c.supervisions[:1] for k in s.custom or {}}),
    ]
    found = {kind: [label_of(cut, kind) for cut in cuts] for kind in kinds}
    return {
        kind: values
        for kind, values in found.items()
        if (many := len({v for v in values if v is not None})) >= 2
        and 2 * many <= sum(v is not None for v in values)
    }


def is_timed(cut: Cut, kind: str) -> bool:
    """Return whether some phone or word of an utterance has a place in it, see `KINDS`."""
    return any(end > start for _, start, end in aligned(cut, kind))


def frames_of(segment: Segment, timing: FrameTiming, count: int) -> tuple[int, int]:
    """Return the frames whose middles lie in a segment: the first, and the one behind the last.

    Args:
        segment: The segment.
        timing: Where the frames lie.
        count: How many the utterance has.
    """
    first, last = (
        math.ceil((t - timing.centre_seconds) / timing.hop_seconds - 1e-6)
        for t in (segment.start, segment.end)
    )
    return min(max(first, 0), count), min(max(last, 0), count)


def _middles(frames: npt.NDArray[np.int64], timing: FrameTiming) -> npt.NDArray[np.float64]:
    middles: npt.NDArray[np.float64] = timing.centre_seconds + timing.hop_seconds * frames.astype(
        np.float64
    )
    return middles


def _segments(cuts: Sequence[Cut], kind: str, seed: int) -> list[Segment]:
    every = [
        Segment(number, symbol, start, end)
        for number, cut in enumerate(cuts)
        for symbol, start, end in aligned(cut, kind)
        if symbol not in SILENCES and end > start
    ]
    if len(every) <= MOST_SEGMENTS:
        return every
    drawn = np.random.default_rng(seed).choice(len(every), MOST_SEGMENTS, replace=False)
    return [every[n] for n in np.sort(drawn)]


def _triphones(cuts: Sequence[Cut], timing: FrameTiming) -> tuple[list[Segment], list[Token]]:
    segments, tokens = [], []
    for number, cut in enumerate(cuts):
        speaker = label_of(cut, "speaker")
        phones = phones_of(cut)
        for before, now, after in zip(phones, phones[1:], phones[2:], strict=False):
            if speaker is None or {before[0], now[0], after[0]} & SILENCES:
                continue
            if after[2] - before[1] >= 2 * timing.hop_seconds:
                segments.append(Segment(number, now[0], before[1], after[2]))
                tokens.append(Token(now[0], (before[0], after[0]), speaker))
    return segments, tokens
