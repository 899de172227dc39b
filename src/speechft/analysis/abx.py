"""Phone ABX on triphones, within and across speakers: is X, an A, nearer to A than to B?"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
import numpy.typing as npt

from speechft.analysis.intervals import Estimate, Floats

Mode = Literal["within", "across"]
MODES: tuple[Mode, ...] = ("within", "across")
MOST_TOKENS = 10
"""Triphones of a phone, context and speaker; a seeded draw where there are more."""
MOST_X_SPEAKERS = 5
"""Speakers that X is taken from, across speakers, for an A, a B and a context."""
MOST_PAIRS = 10_000
"""Pairs of triphones that are aligned in all; cells are drawn, seeded, until they need so many."""
_BLOCK = 1 << 22
"""Numbers in an array of aligned pairs, over layers."""


@dataclass(frozen=True)
class Token:
    """A triphone: a phone with the one before and the one behind it."""

    phone: str
    context: tuple[str, str]
    speaker: str


@dataclass(frozen=True)
class Cell:
    """Triphones that share a context: A and B of one speaker, X of the same or of another."""

    phones: tuple[str, str]
    """Of A and X, and of B."""
    context: tuple[str, str]
    speakers: tuple[str, str]
    """Of A and B, and of X."""
    a: tuple[int, ...]
    b: tuple[int, ...]
    x: tuple[int, ...]
    """Numbers of the tokens."""

    @property
    def pairs(self) -> int:
        """Return the pairs that have to be aligned."""
        return len(self.x) * (len(self.a) + len(self.b))


def choose_cells(tokens: Sequence[Token], mode: Mode, seed: int = 0) -> list[Cell]:
    """Return the cells of a corpus, with caps that are drawn by a seed.

    Args:
        tokens: Every triphone.
        mode: ``within`` or ``across`` speakers.
        seed: Of what is left out.
    """
    rng = np.random.default_rng(seed)
    groups: dict[tuple[str, str], dict[str, dict[str, tuple[int, ...]]]] = {}
    found: dict[tuple[tuple[str, str], str, str], list[int]] = defaultdict(list)
    for number, token in enumerate(tokens):
        found[token.context, token.speaker, token.phone].append(number)
    for (context, speaker, phone), numbers in sorted(found.items()):
        kept = rng.permutation(numbers)[:MOST_TOKENS]
        by_speaker = groups.setdefault(context, {})
        by_speaker.setdefault(speaker, {})[phone] = tuple(int(n) for n in sorted(kept))
    return _drawn(_within(groups) if mode == "within" else _across(groups, rng), seed)


def _drawn(cells: Iterable[Cell], seed: int) -> list[Cell]:
    """Return cells in random order until they need `MOST_PAIRS`, then as they came.

    There are millions in an hour of speech: each has a random place, and those behind the cap are
    forgotten at once.
    """
    rng = np.random.default_rng([seed, 1])
    heap: list[tuple[float, int, Cell]] = []  # the last place first
    total = 0
    for number, cell in enumerate(cells):
        heapq.heappush(heap, (-rng.random(), number, cell))
        total += cell.pairs
        while len(heap) > 1 and total - heap[0][2].pairs > MOST_PAIRS:
            total -= heapq.heappop(heap)[2].pairs
    chosen: dict[int, Cell] = {}
    pairs = 0
    for _, number, cell in sorted(heap, key=lambda item: (-item[0], item[1])):
        pairs += cell.pairs
        if pairs > MOST_PAIRS and chosen:
            break
        chosen[number] = cell
    return [cell for _, cell in sorted(chosen.items(), key=lambda item: item[0])]


def _within(groups: dict[tuple[str, str], dict[str, dict[str, tuple[int, ...]]]]) -> Iterator[Cell]:
    for context, by_speaker in groups.items():
        for speaker, phones in by_speaker.items():
            for one, other in permutations(phones, 2):
                if len(phones[one]) > 1:
                    same = phones[one]
                    yield Cell((one, other), context, (speaker,) * 2, same, phones[other], same)


def _across(
    groups: dict[tuple[str, str], dict[str, dict[str, tuple[int, ...]]]], rng: np.random.Generator
) -> Iterator[Cell]:
    for context, by_speaker in groups.items():
        for speaker, phones in by_speaker.items():
            for one, other in permutations(phones, 2):
                others = [s for s, p in by_speaker.items() if s != speaker and one in p]
                for third in sorted(rng.permutation(others)[:MOST_X_SPEAKERS].tolist()):
                    x = by_speaker[third][one]
                    yield Cell(
                        (one, other), context, (speaker, third), phones[one], phones[other], x
                    )


def abx_error(
    frames: npt.NDArray[np.floating], spans: Sequence[tuple[int, int]], cells: Sequence[Cell]
) -> list[Estimate]:
    r"""Return the ABX error of each layer in percent; 0 is perfect, 50 is chance.

    In a cell the error is the share of triples (a, b, x) with :math:`d(x, b) < d(x, a)`, ties
    counting one half; within speakers a and x are two tokens of one set. Cells are averaged over
    contexts (and speakers of X), then over speakers, then over pairs of phones. The distance is
    that of `distances`. Without a speaker: without the cells that it is part of.

    Source: Schatz et al., Interspeech 2013; ZeroSpeech 2021 (Nguyen et al. 2020, arXiv 2011.11588),
    as in fastabx (Poli et al. 2025, arXiv 2505.02692), against which it is checked.

    Args:
        frames: (K, N, D) hidden states of the tokens' frames, N layers.
        spans: First frame and the one behind the last of each token.
        cells: See `choose_cells`.
    """
    if not cells:
        return [Estimate(None)] * frames.shape[1]
    wanted: dict[tuple[int, int], int] = {}
    for cell in cells:
        for one in cell.x:
            for other in (*cell.a, *cell.b):
                wanted.setdefault((min(one, other), max(one, other)), len(wanted))
    aligned = distances(frames, spans, list(wanted))
    errors = np.stack([_cell_error(cell, aligned, wanted) for cell in cells])
    speakers = sorted({speaker for cell in cells for speaker in cell.speakers})
    whole = _collapse(cells, errors)
    without = {}
    for speaker in speakers:
        kept = [number for number, cell in enumerate(cells) if speaker not in cell.speakers]
        if kept:
            without[speaker] = _collapse([cells[n] for n in kept], errors[kept])
    triples = sum(len(c.a) * len(c.b) * len(c.x) for c in cells)
    return [
        Estimate(
            float(value),
            {s: float(v[layer]) for s, v in without.items()},
            triples,
        )
        for layer, value in enumerate(whole)
    ]


def _cell_error(cell: Cell, aligned: Floats, wanted: dict[tuple[int, int], int]) -> Floats:
    def between(others: Iterable[int]) -> Floats:
        listed = list(others)
        places = [[wanted[min(x, o), max(x, o)] for o in listed] for x in cell.x]
        return aligned[:, places]

    near, far = between(cell.a)[:, :, :, None], between(cell.b)[:, :, None, :]
    wrong = (near > far) + 0.5 * (near == far)
    triples = np.array([[x != a for a in cell.a] for x in cell.x])
    error: Floats = 100 * wrong[:, triples].mean((1, 2))
    return error


def _collapse(cells: Sequence[Cell], errors: Floats) -> Floats:
    """Return the (N,) mean of (cells, N) errors over contexts, then speakers, then pairs."""
    values = list(errors)
    keys: list[tuple[object, ...]] = [(c.phones, c.speakers[0]) for c in cells]
    for shorter in (1, 0):
        groups: dict[tuple[object, ...], list[Floats]] = defaultdict(list)
        for key, value in zip(keys, values, strict=True):
            groups[key].append(value)
        keys = [key[:shorter] for key in groups]
        values = [np.mean(group, axis=0) for group in groups.values()]
    mean: Floats = np.mean(values, axis=0)
    return mean


def distances(
    frames: npt.NDArray[np.floating],
    spans: Sequence[tuple[int, int]],
    pairs: Sequence[tuple[int, int]],
) -> Floats:
    r"""Return the (N, pairs) distance of tokens: angles of aligned frames, averaged over the path.

    :math:`\arccos(\cos(u, v)) / \pi` of every two frames; the cheapest monotone path through them
    (dynamic time warping, steps diagonal before left before up where they cost the same), its cost
    divided by its length.

    Args:
        frames: (K, N, D) hidden states of the tokens' frames.
        spans: First frame and the one behind the last of each token.
        pairs: Numbers of two tokens each.
    """
    lengths = np.array([end - start for start, end in spans])
    result = np.empty((frames.shape[1], len(pairs)))
    for block in _blocks(lengths, pairs, frames.shape[1]):
        chosen = [pairs[number] for number in block]
        unit = {n: _unit(frames[slice(*spans[n])]) for n in {n for pair in chosen for n in pair}}
        rows, columns = lengths[np.array(chosen)].T
        shape = (int(rows.max()), int(columns.max()), frames.shape[1], len(block))
        costs = np.full(shape, np.inf, np.float32)
        for place, (one, other) in enumerate(chosen):
            cosines = unit[one] @ unit[other].transpose(0, 2, 1)
            angles = np.arccos(cosines.clip(-1, 1)) / np.pi
            costs[: angles.shape[1], : angles.shape[2], :, place] = angles.transpose(1, 2, 0)
        result[:, block] = _warp(costs, rows, columns)
    return result


def _blocks(
    lengths: npt.NDArray[np.int64], pairs: Sequence[tuple[int, int]], layers: int
) -> Iterator[list[int]]:
    """Yield numbers of pairs that are aligned at once, as many as `_BLOCK` holds."""
    block: list[int] = []
    longest = 0
    for number, pair in enumerate(pairs):
        with_it = max(longest, *lengths[list(pair)])
        if block and with_it**2 * layers * (len(block) + 1) > _BLOCK:
            yield block
            block, with_it = [], max(lengths[list(pair)])
        block.append(number)
        longest = with_it
    if block:
        yield block


def _unit(frames: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Return (T, N, D) frames as (N, T, D) of length 1; zero stays zero."""
    values = np.ascontiguousarray(frames.transpose(1, 0, 2), np.float32)
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    unit: npt.NDArray[np.float32] = np.divide(
        values, norms, out=np.zeros_like(values), where=norms > 0
    )
    return unit


def _warp(
    costs: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> Floats:
    """Return the (N, P) cost of the cheapest path over its length, for P pairs at once.

    Args:
        costs: (T, T', N, P), infinite beyond the ends.
        rows: (P,) frames of the first token of each pair.
        columns: (P,) frames of the second.
    """
    height, width, layers, pairs = costs.shape
    result = np.empty((layers, pairs))
    total = np.zeros((width, layers, pairs), np.float32)
    steps = np.zeros((width, layers, pairs), np.int32)
    for i in range(height):
        before, before_steps = total.copy(), steps.copy()
        for j in range(width):
            if i == 0 and j == 0:
                best, length = np.zeros_like(total[0]), np.zeros_like(steps[0])
            elif i == 0:
                best, length = total[j - 1], steps[j - 1]
            elif j == 0:
                best, length = before[0], before_steps[0]
            else:
                best, length = before[j - 1], before_steps[j - 1]
                for other, counted in ((total[j - 1], steps[j - 1]), (before[j], before_steps[j])):
                    nearer = other < best
                    best, length = np.where(nearer, other, best), np.where(nearer, counted, length)
            total[j], steps[j] = best + costs[i, j], length + 1
            ended = np.flatnonzero((rows == i + 1) & (columns == j + 1))
            if len(ended):
                result[:, ended] = total[j][:, ended] / steps[j][:, ended]
    return result
