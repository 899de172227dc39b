"""One pass of several encoders over a corpus: what the measures need, in files while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechft.analysis.choosing import Choice, frames_of
from speechft.analysis.intervals import Floats
from speechft.analysis.linearity import Products
from speechft.devices import Precision
from speechft.encoders.base import Encoder, EncoderOutput
from speechft.features.extract import count_frames
from speechft.features.together import encode_together

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Line:
    """Three encoders by number: both ends, and the one that lies between them."""

    first: int
    second: int
    between: int


class States:
    """What is kept of one encoder: N hidden states, in arrays that lie in files.

    Files, for the memory of a process must not grow with the corpus; the system keeps of them in
    memory what it has room for. Those of a part of a corpus may lie in memory.

    Args:
        encoder: The encoder.
        layers: Numbers of its hidden states.
        choice: What is looked at.
        folder: For the files; None for arrays in memory.
    """

    def __init__(
        self, encoder: Encoder, layers: list[int], choice: Choice, folder: Path | None
    ) -> None:
        if folder is not None:
            folder.mkdir(parents=True)
        self._folder, self._shape = folder, (len(layers), encoder.dim)
        self._timing = encoder.timing
        self._counts = count_frames(encoder, choice.cuts)
        self._choice = choice
        self._starts = np.cumsum([0, *map(len, choice.times)])
        self.frames = self._array("frames", int(self._starts[-1]))
        """(F, N, D) sampled frames, utterance by utterance."""
        self.means = self._array("means", len(choice.cuts))
        """(U, N, D) mean over time of each utterance."""
        self.segments = {k: self._array(k, len(found)) for k, found in choice.segments.items()}
        """By kind, (S, N, D) mean of each segment."""
        lengths = []
        for segment in choice.triphones:
            first, last = self._span(segment)
            lengths.append(last - first)
        ends = np.cumsum([0, *lengths])
        self.spans = [(int(a), int(b)) for a, b in pairwise(ends)]
        """First and last row of each triphone."""
        self.triphones = self._array("triphones", int(ends[-1]), np.float16)
        """(K, N, D) frames of all triphones, of length 1."""
        self._inside: dict[int, list[tuple[str, int]]] = {}
        for kind, found in choice.segments.items():
            for number, segment in enumerate(found):
                self._inside.setdefault(segment.cut, []).append((kind, number))
        for number, segment in enumerate(choice.triphones):
            self._inside.setdefault(segment.cut, []).append(("", number))

    def _array(self, name: str, rows: int, dtype: Any = np.float32) -> Array:
        shape = (rows, *self._shape)
        if not rows or self._folder is None:
            return np.empty(shape, dtype)
        return np.memmap(self._folder / name, dtype, "w+", shape=shape)

    def _span(self, segment: Any) -> tuple[int, int]:
        """Return the frames of a segment, the nearest one where none lies in it."""
        count = self._counts[segment.cut]
        first, last = frames_of(segment, self._timing, count)
        first = min(first, count - 1)
        return first, max(last, first + 1)

    def arrays(self) -> dict[str, Array]:
        """Return all arrays by name."""
        named = {"frames": self.frames, "means": self.means, "triphones": self.triphones}
        return {**named, **{f"segments/{kind}": found for kind, found in self.segments.items()}}

    def put(self, cuts: Sequence[int], part: Mapping[str, Array]) -> None:
        """Take in what was kept of some utterances, see `Choice.only` and `arrays`."""
        inside = set(cuts)
        choice = self._choice
        rows = [np.arange(self._starts[n], self._starts[n + 1]) for n in cuts]
        self.frames[np.concatenate(rows)] = part["frames"]
        self.means[cuts] = part["means"]
        for kind, segments in choice.segments.items():
            held = [n for n, segment in enumerate(segments) if segment.cut in inside]
            self.segments[kind][held] = part[f"segments/{kind}"]
        spans = [s for s, t in zip(self.spans, choice.triphones, strict=True) if t.cut in inside]
        if spans:
            self.triphones[np.concatenate([np.arange(*span) for span in spans])] = part["triphones"]

    def keep(self, cut: int, states: Tensor) -> None:
        """Keep what is needed of an utterance's (N, T, D) hidden states."""
        times, rows = self._choice.times[cut], slice(self._starts[cut], self._starts[cut + 1])
        places = np.rint((times - self._timing.centre_seconds) / self._timing.hop_seconds)
        chosen = torch.from_numpy(places.clip(0, states.shape[1] - 1).astype(np.int64))
        self.frames[rows] = _rows(states[:, chosen.to(states.device)])
        self.means[cut] = states.mean(1).cpu().numpy()
        for kind, number in self._inside.get(cut, ()):
            found = self._choice.segments[kind] if kind else self._choice.triphones
            first, last = self._span(found[number])
            part = states[:, first:last]
            if kind:
                self.segments[kind][number] = part.mean(1).cpu().numpy()
            else:
                unit = torch.nn.functional.normalize(part, dim=-1)
                self.triphones[slice(*self.spans[number])] = _rows(unit)


def _rows(states: Tensor) -> Array:
    """Return (N, T, D) as a (T, N, D) array."""
    return states.transpose(0, 1).cpu().numpy()


@dataclass
class Reading:
    """What one pass over a corpus gave."""

    states: list[States]
    """Of each encoder that was asked for."""
    cosines: dict[tuple[int, int], Floats] = field(default_factory=dict)
    """By pair of encoders, (U, N) mean cosine of all frames of an utterance."""
    products: dict[Line, Floats] = field(default_factory=dict)
    """By line, (U, N, 6) inner products in the order of `Products`."""

    def on_line(self, line: Line, layer: int) -> Products:
        """Return the inner products of a line at one layer."""
        return Products(*self.products[line][:, layer].T)


def read_states(
    encoders: Sequence[Encoder],
    layers: Sequence[list[int]],
    choice: Choice,
    folder: Path | None,
    *,
    kept: int,
    pairs: Sequence[tuple[int, int]] = (),
    lines: Sequence[Line] = (),
    device: torch.device,
    precision: Precision = "auto",
) -> Reading:
    """Run encoders side by side over the utterances of a choice, once.

    Args:
        encoders: In evaluation mode; the first ones are kept.
        layers: For each, the numbers of the hidden states that are read, as many for all.
        choice: What is looked at.
        folder: For files, at the size of HuBERT-Base and for each encoder that is kept 0.36 MB an
            utterance, 0.5 GB at most for segments, and about 1 GB for the triphones of ABX; None
            for arrays in memory.
        kept: How many of the encoders are kept; the others serve for lines.
        pairs: Encoders of one shape whose frames are compared.
        lines: Encoders of one shape that lie on a line.
        device: Where to compute.
        precision: See `speechft.devices`.

    Raises:
        DataError: A recording cannot be read.
    """
    shape = len(choice.cuts), len(layers[0])
    reading = Reading(
        [
            States(encoder, chosen, choice, None if folder is None else folder / str(number))
            for number, (encoder, chosen) in enumerate(zip(encoders, layers, strict=True))
            if number < kept
        ],
        {pair: np.full(shape, np.nan) for pair in pairs},
        {line: np.full((*shape, 6), np.nan) for line in lines},
    )
    numbers = {cut.id: number for number, cut in enumerate(choice.cuts)}
    passed = encode_together(
        encoders, choice.cuts, device=device, precision=precision, description="analysis"
    )
    for group, outputs in passed:
        for place, cut in enumerate(group):
            number = numbers[cut.id]
            states = [_of(o, place, c) for o, c in zip(outputs, layers, strict=True)]
            for keeper, found in zip(reading.states, states, strict=False):
                keeper.keep(number, found)
            dots = _Dots(states)
            for pair, cosines in reading.cosines.items():
                cosines[number] = dots.cosine(*pair)
            for line, products in reading.products.items():
                products[number] = np.stack(list(dots.of_line(line)), -1)
    return reading


def _of(output: EncoderOutput, place: int, layers: list[int]) -> Tensor:
    """Return the (N, T, D) chosen hidden states of one utterance of a batch."""
    count = int(output.lengths[place])
    return torch.stack([output.layers[layer][place, :count] for layer in layers])


class _Dots:
    """Inner products of an utterance's frames between encoders, each computed once."""

    def __init__(self, states: Sequence[Tensor]) -> None:
        self._states = states
        self._known: dict[tuple[int, int], Tensor] = {}

    def _frames(self, one: int, other: int) -> Tensor:
        """Return the (N, T) inner products of every frame."""
        key = min(one, other), max(one, other)
        if key not in self._known:
            product = torch.einsum("ntd,ntd->nt", self._states[key[0]], self._states[key[1]])
            self._known[key] = product.double()
        return self._known[key]

    def cosine(self, one: int, other: int) -> Floats:
        """Return the (N,) mean cosine of frames; NaN where no frame has one."""
        norms = (self._frames(one, one) * self._frames(other, other)).sqrt()
        cosines = torch.where(norms > 0, self._frames(one, other) / norms, torch.nan)
        mean: Floats = cosines.nanmean(1).cpu().numpy()
        return mean

    def of_line(self, line: Line) -> Iterator[Floats]:
        """Yield the (N,) inner products in the order of `Products`."""
        a, b, u = line.first, line.second, line.between
        for one, other in ((u, u), (u, a), (u, b), (a, a), (a, b), (b, b)):
            yield self._frames(one, other).sum(1).cpu().numpy()
