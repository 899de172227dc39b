"""Labels of cuts: symbols and their numbers, with errors that name what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from speechft.data.text import written
from speechft.errors import DataError

if TYPE_CHECKING:
    from lhotse.cut import Cut


UNKNOWN = "<unk>"
"""Symbol of sequence tasks for what the training split does not hold; it always counts as wrong."""

MAX_LEFT_OUT = 0.05
"""Largest share of a split that is left out for its labels or audio, where no other is set."""


@dataclass(frozen=True)
class Vocabulary:
    """Symbols in a fixed order; the number of a symbol is its place."""

    symbols: tuple[str, ...]

    @classmethod
    def from_symbols(cls, symbols: Iterable[str], first: Sequence[str] = ()) -> Vocabulary:
        """Build a vocabulary of sorted symbols, after those that come first."""
        return cls((*first, *sorted(set(symbols) - set(first))))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        """Return the number of symbols."""
        return len(self.symbols)

    def __contains__(self, symbol: object) -> bool:
        """Return whether the training split holds a symbol."""
        return symbol in self._index

    def encode(self, symbols: Iterable[str], where: str) -> list[int]:
        """Turn symbols into numbers; unseen ones become `UNKNOWN` where the vocabulary has it.

        Args:
            symbols: What to encode.
            where: Which cut they belong to, for the error.

        Raises:
            DataError: A symbol was not seen in training, and the vocabulary has no `UNKNOWN`.
        """
        index = self._index
        if UNKNOWN in index:
            return [index.get(symbol, index[UNKNOWN]) for symbol in symbols]
        try:
            return [index[symbol] for symbol in symbols]
        except KeyError as error:
            raise DataError(
                f"{where}: label {error.args[0]!r} does not occur in the training split",
                hint="make sure that every split uses the same set of labels",
            ) from None

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Turn numbers into symbols."""
        return [self.symbols[number] for number in numbers]


def label_of(cut: Cut, kind: str) -> str | None:
    """Return one label of a cut: ``text``, ``speaker``, or a kind among its custom fields."""
    if not cut.supervisions:
        return None
    supervision = cut.supervisions[0]
    if kind in ("text", "speaker"):
        value = getattr(supervision, kind)
    else:
        value = (supervision.custom or {}).get(kind)
    return written(value) or None


def phones_of(cut: Cut) -> list[tuple[str, float, float]]:
    """Return (phone, start, end) of a cut in seconds; empty where it has none."""
    return aligned(cut, "phone")


def aligned(cut: Cut, kind: str) -> list[tuple[str, float, float]]:
    """Return (symbol, start, end) of one of a cut's alignments in seconds: ``phone``, ``word``."""
    alignment = (cut.supervisions[0].alignment if cut.supervisions else None) or {}
    return [
        (item.symbol, item.start, item.start + item.duration) for item in alignment.get(kind, [])
    ]
