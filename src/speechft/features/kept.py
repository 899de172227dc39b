"""Tensors that are kept for the time of some work, in files without a name (`storage/scratch`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechft.storage.scratch import Column, Names, Rows

_NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64}


class TensorRows(Sequence[Tensor]):
    """Tensors, added at the end and read by their number.

    Args:
        ragged: The dimension in which most of them differ; their shapes but for that are few.
    """

    def __init__(self, ragged: int = 0) -> None:
        self._rows, self._ragged = Rows(), ragged
        self._kinds: list[tuple[torch.dtype, tuple[int, ...]]] = []
        self._kind_of = Column("<i2")

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._rows)

    def add(self, tensor: Tensor) -> int:
        """Add a tensor; return its number."""
        shape = list(tensor.shape)
        shape[self._ragged] = -1
        kind = tensor.dtype, tuple(shape)
        if kind not in self._kinds:
            self._kinds.append(kind)
        self._kind_of.add(self._kinds.index(kind))
        flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        return self._rows.add(flat.numpy().data)

    @overload
    def __getitem__(self, number: int) -> Tensor: ...
    @overload
    def __getitem__(self, number: slice) -> list[Tensor]: ...
    def __getitem__(self, number: int | slice) -> Any:
        """Return a tensor, which is a copy."""
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        data, (kind, shape) = self._rows[number], self._kinds[self._kind_of[number]]
        if not data:
            return torch.empty([max(0, n) for n in shape], dtype=kind)
        return torch.frombuffer(data, dtype=kind).view(shape)

    def matrix(self) -> npt.NDArray[Any] | None:
        """Return all of them, flat, as one mapped matrix; None if kind or shape differ."""
        if len(self._kinds) != 1 or (kind := _NUMPY.get(self._kinds[0][0])) is None:
            return None
        return self._rows.matrix(kind)


class Picked(Sequence[Tensor]):
    """Some tensors of rows, in an order of their own; no more are added to the rows."""

    def __init__(self, rows: TensorRows, numbers: Iterable[int]) -> None:
        self._rows, self._numbers = rows, Column()
        for number in numbers:
            self._numbers.add(number)
        self._matrix = rows.matrix()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._numbers)

    @overload
    def __getitem__(self, number: int) -> Tensor: ...
    @overload
    def __getitem__(self, number: slice) -> list[Tensor]: ...
    def __getitem__(self, number: int | slice) -> Any:
        """Return a tensor."""
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._rows[self._numbers[number]]

    def stack(self, chosen: Sequence[int]) -> Tensor:
        """Return some of them, at least one and of one shape, as one tensor, which is a copy."""
        if self._matrix is None:
            return torch.stack([self[number] for number in chosen])
        flat = self._matrix[self._numbers.values()[chosen]]
        return torch.from_numpy(flat).view(len(chosen), *self[chosen[0]].shape)


class TensorsByName(MutableMapping[str, Tensor]):
    """Tensors by name; what is put under a name again takes more room.

    Args:
        ragged: See `TensorRows`.
    """

    def __init__(self, ragged: int = 0) -> None:
        self._names, self._places, self._rows = Names(), Column(), TensorRows(ragged)
        self._changed: dict[int, int] = {}

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        """Yield the names in the order in which they came."""
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        """Return whether there is a tensor of a name."""
        return name in self._names

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor."""
        self.name_row(name, self._rows.add(tensor))

    def add_row(self, tensor: Tensor) -> int:
        """Keep a tensor that has no name yet; return its number."""
        return self._rows.add(tensor)

    def name_row(self, name: str, row: int) -> None:
        """Give a name to a tensor, which may have several."""
        known = len(self._names)
        number = self._names.add(name)
        if number == known:
            self._places.add(row)
        else:
            self._changed[number] = row

    def __getitem__(self, name: str) -> Tensor:
        """Return a copy of a tensor."""
        return self._rows[self._place(name)]

    def __delitem__(self, name: str) -> None:
        """Refuse: nothing is taken out."""
        raise TypeError(f"{name} cannot be taken out")

    def picked(self, names: Iterable[str]) -> Picked:
        """Return the tensors of some names, which are looked up once."""
        return Picked(self._rows, map(self._place, names))

    def _place(self, name: str) -> int:
        number = self._names.number(name)
        if number is None:
            raise KeyError(name)
        return int(self._changed.get(number, self._places[number]))


class Timed(Mapping[str, tuple[Tensor, int]]):
    """(T, C) features and the number of samples that they are of, by name."""

    def __init__(self) -> None:
        self._features, self._samples = TensorsByName(), TensorsByName()

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._features)

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._features)

    def __contains__(self, name: object) -> bool:
        """Return whether there are features of a name."""
        return name in self._features

    def __getitem__(self, name: str) -> tuple[Tensor, int]:
        """Return a copy of the features, and the samples."""
        return self._features[name], int(self._samples[name])

    def add(self, name: str, features: Tensor, samples: int) -> None:
        """Keep features."""
        self._features[name] = features
        self._samples[name] = torch.tensor([samples])
