"""Items of a table or corpus that do not stay in memory: each is made anew when it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from speechft.storage.scratch import Rows

T = TypeVar("T")


class KeptItems(Sequence[T], Generic[T]):
    """Items in a file without a name.

    Args:
        plain: From an item to plain JSON types.
        item: Back from these.
        items: The first ones.
    """

    def __init__(
        self,
        plain: Callable[[T], Any],
        item: Callable[[Any], T],
        items: Iterable[T] = (),
    ) -> None:
        self._plain, self._item = plain, item
        self._rows = Rows()
        self.extend(items)

    def append(self, item: T) -> None:
        """Add an item at the end."""
        self._rows.add(json.dumps(self._plain(item), separators=(",", ":")).encode())

    def extend(self, items: Iterable[T]) -> None:
        """Add items at the end."""
        for item in items:
            self.append(item)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._rows)

    @overload
    def __getitem__(self, number: int) -> T: ...
    @overload
    def __getitem__(self, number: slice) -> list[T]: ...
    def __getitem__(self, number: int | slice) -> Any:
        """Return an item, equal to what it was."""
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        return self._item(json.loads(self._rows[number % len(self)]))

    def __eq__(self, other: object) -> bool:
        """Return whether another sequence holds the same items."""
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def as_values(item: Any) -> list[Any]:
    """Return the values of a dataclass in the order of its fields."""
    return [getattr(item, field.name) for field in fields(item)]


def kept_rows() -> KeptItems[dict[str, str]]:
    """Return rows of a table, none yet."""
    return KeptItems(dict, dict)


def kept_paths() -> KeptItems[Path]:
    """Return paths, none yet."""
    return KeptItems(str, Path)
