"""The pass of an analysis in parts that processes share: what each keeps, and put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechft.analysis.choosing import Choice
from speechft.analysis.reading import Line, Reading, States, read_states
from speechft.devices import Precision
from speechft.encoders.base import Encoder
from speechft.features.together import grouped_together
from speechft.parallel.claims import Claim
from speechft.parallel.sharing import Unit
from speechft.storage.disk import reading
from speechft.storage.files import atomic_write
from speechft.storage.headers import is_whole

_PARTS = 64
"""Parts at most; each holds whole batches, so that nothing depends on how many there are."""


@dataclass(frozen=True)
class Pass:
    """One pass of several encoders over a choice; arguments as for `read_states`."""

    encoders: Sequence[Encoder]
    layers: Sequence[list[int]]
    choice: Choice
    place: Path
    """Folder of the parts."""
    kept: int
    pairs: Sequence[tuple[int, int]]
    lines: Sequence[Line]
    device: torch.device
    precision: Precision

    def units(self) -> Iterator[Unit]:
        """Yield the parts as units of work."""
        for number, cuts in enumerate(self._parts()):
            file = self._file(number)
            yield Unit(
                f"{self.place.name}/pass-{number:03d}",
                partial(is_whole, file),
                partial(self._run, file, cuts),
            )

    def read(self, folder: Path) -> Reading:
        """Return what all parts hold; they must be there.

        Args:
            folder: For arrays of the whole.
        """
        from safetensors.numpy import load

        shape = len(self.choice.cuts), len(self.layers[0])
        whole = Reading(
            [
                States(self.encoders[n], self.layers[n], self.choice, folder / str(n))
                for n in range(self.kept)
            ],
            {pair: np.full(shape, np.nan) for pair in self.pairs},
            {line: np.full((*shape, 6), np.nan) for line in self.lines},
        )
        for number, cuts in enumerate(self._parts()):
            with reading(self._file(number)) as file:
                found = load(file.read())
            for n, states in enumerate(whole.states):
                own = {
                    name.partition("/")[2]: a
                    for name, a in found.items()
                    if name.startswith(f"{n}/")
                }
                states.put(cuts, own)
            for n, pair in enumerate(self.pairs):
                whole.cosines[pair][cuts] = found[f"cosines/{n}"]
            for n, line in enumerate(self.lines):
                whole.products[line][cuts] = found[f"products/{n}"]
        return whole

    def _file(self, number: int) -> Path:
        return self.place / f"pass-{number:03d}.safetensors"

    def _parts(self) -> list[list[int]]:
        """Return the numbers of the utterances of each part, in order."""
        numbers = {cut.id: number for number, cut in enumerate(self.choice.cuts)}
        groups = grouped_together(self.encoders, self.choice.cuts, device=self.device)
        size = -(-len(groups) // _PARTS)
        parts = (groups[n : n + size] for n in range(0, len(groups), size))
        return [sorted(numbers[cut.id] for group in part for cut in group) for part in parts]

    def _run(self, file: Path, cuts: Sequence[int], _claim: Claim | None) -> None:
        from safetensors.numpy import save

        found = read_states(
            self.encoders,
            self.layers,
            self.choice.only(cuts),
            None,
            kept=self.kept,
            pairs=self.pairs,
            lines=self.lines,
            device=self.device,
            precision=self.precision,
        )
        arrays: dict[str, Any] = {
            f"{n}/{name}": array
            for n, states in enumerate(found.states)
            for name, array in states.arrays().items()
        }
        arrays |= {f"cosines/{n}": found.cosines[pair] for n, pair in enumerate(self.pairs)}
        arrays |= {f"products/{n}": found.products[line] for n, line in enumerate(self.lines)}
        with atomic_write(file) as out:
            out.write(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
