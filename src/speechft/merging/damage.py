"""Is a tensor filled with one value? Found while it streams by, without a look at every element."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from speechft.encoders.conversion.tensors import Buffer

BLOCK = 1024
"""Elements of a block: a run of that many equal ones is no chance."""

_PLACES = [0, BLOCK // 3, BLOCK // 2, BLOCK - 1]
_ROUNDING = 1e-6


@dataclass
class Fill:
    """What of one tensor of one model is filled with one value."""

    whole: bool = True
    """Whether all of it is, so far."""
    value: float = math.nan
    """The first element."""
    zeros: int = 0
    """Blocks of zeros here and of various values in the other model."""
    others: int = 0
    """Blocks of another single value here and of various values in the other model."""


@dataclass
class Fills:
    """The same of base and tuned model."""

    base: Fill = field(default_factory=Fill)
    tuned: Fill = field(default_factory=Fill)
    shared: int = 0
    """Blocks of one value in both, as in a model that was pruned before it was tuned."""

    def see(self, base: Buffer, delta: Buffer) -> None:
        """Take in one piece: elements of the base, and tuned minus base.

        A few elements of every block are compared, and the others only where these are equal.
        """
        for fill, move in ((self.base, None), (self.tuned, delta)):
            if math.isnan(fill.value):
                fill.value = float(base[0] if move is None else base[0] + move[0])
            fill.whole = fill.whole and _is_filled(base, move, fill.value)
        size = base.size - base.size % BLOCK
        rows, moves = base[:size].reshape(-1, BLOCK), delta[:size].reshape(-1, BLOCK)
        picked = rows.T[_PLACES]
        allowed = 3 * _ROUNDING * np.abs(picked).max(axis=0, initial=0)
        mine = _filled_rows(rows, None, picked, allowed)
        theirs = _filled_rows(rows, moves, picked + moves.T[_PLACES], allowed)
        if not mine and not theirs:
            return
        self.shared += len(mine & theirs)
        zeros = sum(not rows[row].any() for row in mine - theirs)
        self.base.zeros, self.base.others = self._add(self.base, zeros, len(mine - theirs))
        zeros = sum(not (rows[row] + moves[row]).any() for row in theirs - mine)
        self.tuned.zeros, self.tuned.others = self._add(self.tuned, zeros, len(theirs - mine))

    @staticmethod
    def _add(fill: Fill, zeros: int, found: int) -> tuple[int, int]:
        return fill.zeros + zeros, fill.others + found - zeros


def _is_filled(base: Buffer, move: Buffer | None, value: float) -> bool:
    places = [0, base.size // 3, base.size // 2, base.size - 1]
    picked = None if move is None else move[places]
    return _are_near(base[places], picked, value) and _are_near(base, move, value)


def _are_near(base: Buffer, move: Buffer | None, value: float) -> bool:
    """Tell whether elements are one value, but for the rounding of the sum."""
    allowed = _ROUNDING * abs(value)
    if move is None:
        return bool(np.all(np.abs(base - value) <= allowed))
    return bool(np.all(np.abs(base + move - value) <= allowed + _ROUNDING * np.abs(base)))


def _filled_rows(rows: Buffer, moves: Buffer | None, picked: Buffer, allowed: Buffer) -> set[int]:
    """Return which rows are of one value.

    Args:
        rows: Elements of the base, (blocks, `BLOCK`).
        moves: What the tuned model adds to them.
        picked: Of their sum those at `_PLACES`, (places, blocks).
        allowed: By how much these may differ, (blocks,).
    """
    spread = np.abs(picked - picked[0]).max(axis=0, initial=0)
    result = set()
    for row in np.flatnonzero(spread <= allowed).tolist():
        move = None if moves is None else moves[row]
        if _is_filled(rows[row], move, float(picked[0, row])):
            result.add(row)
    return result
