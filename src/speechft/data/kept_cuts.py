"""Cuts that do not stay in memory, but for a few: each is made when it is asked for, as it was."""

from __future__ import annotations

import base64
import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from speechft.data.waveform import count_samples
from speechft.storage.scratch import Column, Names, Rows

if TYPE_CHECKING:
    from lhotse.cut import Cut

Numbers = npt.NDArray[np.int64]

_MADE = 4096
"""Cuts of a store that stay in memory: a few kB each, 0.1 ms to make anew, 0.1 ms to write."""


class _Store:
    """Cuts as lines of JSON, and what is asked of all of them: ids, seconds, samples.

    As long as there are few they stay as they were given, and are written when there come more, or
    when another process asks for them.
    """

    def __init__(self, cuts: Iterable[Cut]) -> None:
        self._lines, self.ids = Rows(), Rows()
        self.seconds, self.samples = Column("<f8"), Column()
        self._unwritten: list[Cut] = []
        self._made: dict[int, Cut] = {}
        for cut in cuts:
            self.ids.add(cut.id.encode())
            self.seconds.add(cut.duration)
            self.samples.add(count_samples(cut))
            self._unwritten.append(cut)
            if self._lines or len(self._unwritten) > _MADE or _holds_samples(cut):
                self._write()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.ids)

    def cut(self, number: int) -> Cut:
        """Return a cut, which nobody changes."""
        if unwritten := self._unwritten:  # all, or none
            return unwritten[number]
        if (known := self._made.get(number)) is not None:
            return known
        from lhotse.serialization import deserialize_item

        found: Cut = deserialize_item(json.loads(self._lines[number]))
        for source in found.recording.sources:
            if source.type == "memory":
                source.source = base64.b64decode(source.source)
                return found
        if len(self._made) < _MADE:
            self._made[number] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process reads the same cuts by."""
        self._write()
        return {**self.__dict__, "_made": {}}

    def _write(self) -> None:
        for cut in self._unwritten:
            self._lines.add(json.dumps(cut.to_dict(), default=_as_text).encode())
        self._unwritten = []


def _holds_samples(cut: Cut) -> bool:
    return any(source.type == "memory" for source in cut.recording.sources)


class Cuts(Sequence["Cut"]):
    """Cuts, in a file without a name where there are many; a choice is a list of numbers.

    Args:
        store: Where they lie.
        numbers: Which of them, in order; None for all.
    """

    def __init__(self, store: _Store, numbers: Numbers | None = None) -> None:
        self._store = store
        self._numbers = np.arange(len(store)) if numbers is None else numbers

    @classmethod
    def of(cls, cuts: Iterable[Cut]) -> Cuts:
        """Return cuts that are kept so, themselves where they are already."""
        return cuts if isinstance(cuts, cls) else cls(_Store(cuts))

    @classmethod
    def different(cls, parts: Iterable[Iterable[Cut]]) -> Cuts:
        """Return the cuts of all parts, one of each id."""
        names = Names()

        def new() -> Iterator[Cut]:
            for cut in (cut for part in parts for cut in part):
                known = len(names)
                if names.add(cut.id) == known:
                    yield cut

        return cls.of(new())

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._numbers)

    @overload
    def __getitem__(self, number: int) -> Cut: ...
    @overload
    def __getitem__(self, number: slice) -> Cuts: ...
    def __getitem__(self, number: int | slice) -> Any:
        """Return a cut, or some."""
        if isinstance(number, slice):
            return Cuts(self._store, self._numbers[number])
        return self._store.cut(self._numbers[number].item())

    def __iter__(self) -> Iterator[Cut]:
        """Yield the cuts."""
        return (self[number] for number in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Return whether another sequence holds the same cuts in the same order."""
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def take(self, numbers: npt.ArrayLike) -> Cuts:
        """Return some of them by their places, in that order."""
        return Cuts(self._store, self._numbers[np.asarray(numbers, np.int64)])

    @property
    def ids(self) -> Iterator[str]:
        """Yield their ids, faster than the cuts."""
        return (self._store.ids[n].decode() for n in self._each())

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """Return how long each lasts."""
        found: npt.NDArray[np.float64] = self._store.seconds.values()[self._numbers]
        return found

    @property
    def samples(self) -> Numbers:
        """Return what `count_samples` says of each."""
        found: Numbers = self._store.samples.values()[self._numbers]
        return found

    def longest_first(self) -> Cuts:
        """Return them from long to short, those of one length by id."""
        order = np.argsort(-self.seconds, kind="stable")
        seconds = self.seconds[order]
        ends = np.flatnonzero(np.diff(seconds, append=np.nan) != 0) + 1
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        alike = ends - starts > 1
        for start, end in zip(starts[alike], ends[alike], strict=True):
            run = order[start:end]
            order[start:end] = run[sorted_order(self.take(run).ids, len(run))]
        return self.take(order)

    def longest(self, count: int, most: float | None = None) -> Cuts:
        """Return the first ``count`` by length and then id; none counts more than ``most``."""
        seconds = self.seconds if most is None else np.minimum(self.seconds, most)
        count = min(count, len(self))
        least = np.partition(seconds, len(self) - count)[len(self) - count]
        places = np.flatnonzero(seconds >= least)
        keys = zip((-seconds[places]).tolist(), self.take(places).ids, places.tolist(), strict=True)
        return self.take([place for *_, place in heapq.nsmallest(count, keys)])

    def _each(self) -> Iterator[int]:
        return (number.item() for number in self._numbers)


def picked(cuts: Sequence[Cut], numbers: Iterable[int]) -> Sequence[Cut]:
    """Return some cuts by their places: kept as they were kept, in a list or in a file."""
    if not isinstance(cuts, Cuts):
        return [cuts[number] for number in numbers]
    places = Column()
    for number in numbers:
        places.add(number)
    return cuts.take(places.values())


def chosen(cuts: Sequence[Cut], wanted: Callable[[Cut], bool]) -> Sequence[Cut]:
    """Return the cuts of which something is true, kept as they were kept."""
    return picked(cuts, (number for number, cut in enumerate(cuts) if wanted(cut)))


def kept_alike(new: Iterable[Cut], cuts: Sequence[Cut]) -> Sequence[Cut]:
    """Return new cuts, kept as those are that they were made of."""
    return Cuts.of(new) if isinstance(cuts, Cuts) else list(new)


def sorted_order(texts: Iterable[str], count: int) -> Numbers:
    """Return the numbers of texts in the order of their characters, which UTF-8 keeps."""
    rows, longest = Rows(), 1
    for text in texts:
        data = text.encode()
        rows.add(data)
        longest = max(longest, len(data))
    known = np.fromiter((bytes(row) for row in rows), f"S{longest}", count)
    return np.argsort(known, kind="stable")


def _as_text(value: Any) -> str:
    """Return bytes of a recording that lies in memory as text."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} cannot be kept in a file")
    return base64.b64encode(value).decode()
