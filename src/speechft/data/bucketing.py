"""The batches of an epoch as lhotse's bucketing sampler makes them, from durations alone.

The same draws in the same order as `lhotse.dataset.sampling.BucketingSampler` with
`SimpleCutSampler` (lhotse 1.33, Apache 2.0), which holds every cut and several objects more for
each in memory. A test compares both.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechft.storage.scratch import Column

Numbers = npt.NDArray[np.int64]
Seconds = npt.NDArray[np.float64]


class Batches(Sequence[list[int]]):
    """The numbers of the items of each batch, in a file without a name."""

    def __init__(self, batches: Iterator[Numbers]) -> None:
        self._items, self._ends = Column("<i4"), Column()
        self._ends.add(0)
        for batch in batches:
            self._items.extend(batch)
            self._ends.add(len(self._items))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> list[int]:  # type: ignore[override]
        """Return a batch."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        found: list[int] = self._items.values()[
            self._ends[number] : self._ends[number + 1]
        ].tolist()
        return found


def bucketed_batches(
    seconds: Seconds, *, max_seconds: float, max_items: int, buckets: int, seed: int
) -> Iterator[Numbers]:
    """Yield the batches of an epoch.

    Args:
        seconds: How long each item is.
        max_seconds: Limit of a batch, padding included; a longer item is a batch of its own.
        max_items: Limit of a batch.
        buckets: Groups of items of similar length; with one, items are not sorted.
        seed: Of all draws.
    """
    parts = [np.arange(len(seconds))] if buckets == 1 else _equal_parts(seconds, buckets)
    own = seed if buckets == 1 else 0  # lhotse hands the seed to no bucket
    sources = [_Source(seconds, part, max_seconds, max_items, own) for part in parts]
    rng, left = random.Random(seed), list(sources)
    while left:
        source = left[0] if len(left) == 1 else _drawn(left, rng)
        batch = source.batch()
        if batch is None:
            left.remove(source)
        else:
            yield batch


def _drawn(left: list[_Source], rng: random.Random) -> _Source:
    """Draw two buckets, and one of them by what is left of it."""
    one, two = rng.choice(left), rng.choice(left)
    total = max(0, one.left) + max(0, two.left)
    if total == 0:
        return one
    return two if rng.random() > max(0, one.left) / total else one


@dataclass(eq=False)
class _Source:
    """One bucket, shuffled."""

    seconds: Seconds
    items: Numbers
    max_seconds: float
    max_items: int
    seed: int

    def __post_init__(self) -> None:
        self.left: float = sum(self.seconds[self.items].tolist())
        """Seconds that are left; sums and differences in the order of lhotse's."""
        shuffled = self.items.tolist()
        random.Random(self.seed).shuffle(shuffled)
        self.items = np.array(shuffled, np.int32)
        self._next = 0

    def batch(self) -> Numbers | None:
        """Return the next batch; None where nothing is left."""
        first, longest = self._next, 0.0
        for count, number in enumerate(self.items[first:], 1):
            length = self.seconds[number].item()
            self.left -= length
            longest = max(longest, length)
            full = count > self.max_items or count * longest > self.max_seconds
            if full and count > 1:
                self.left += length  # it is put back
                self._next = first + count - 1
                return self.items[first : self._next]
        self._next = len(self.items)
        return self.items[first:] if first < len(self.items) else None


def _equal_parts(seconds: Seconds, count: int) -> list[Numbers]:
    """Return the items in buckets of similar length and as many seconds each.

    The shortest and the longest item by turns go to the first and to the last bucket that is not
    full, so that what flows over lands in the middle.
    """
    order = np.argsort(seconds, kind="stable")
    ordered = seconds[order]
    share = float(np.sum(ordered)) / count
    sums, buckets = [0.0] * count, np.empty(len(order), np.int32)
    left, right, middle = 0, count - 1, -1
    for turn in range(len(order)):
        if middle < 0 and left == right:
            middle = left
        place = len(order) - 1 - turn // 2 if turn % 2 else turn // 2
        length = ordered[place].item()
        if turn % 2:
            if sums[right] + length > share:
                right = max(right - 1, 0) if right != middle else min(middle + 1, count - 1)
            bucket = right
        else:
            if sums[left] + length > share:
                left = min(left + 1, count - 1) if left != middle else max(middle - 1, 0)
            bucket = left
        sums[bucket] += length
        buckets[place] = bucket
    return [order[buckets == bucket] for bucket in range(count)]
