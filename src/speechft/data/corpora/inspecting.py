"""Every recording of a corpus inspected, in parts that processes share; findings lie in files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

from speechft.claims import Claim
from speechft.console import Bar
from speechft.data.corpora.base import Draft, Drafts
from speechft.data.inspection import Found, Header, inspect
from speechft.disk import reading
from speechft.documents import parse_json, read_lines
from speechft.files import write_text
from speechft.scratch import Names
from speechft.sharing import Unit

_CHUNK = 32
"""Recordings that a thread takes at a time, at most."""
_PART = 32, 512
"""Recordings that a process takes at a time, at least and at most."""
_PARTS = 64
"""Parts at least, as far as there are recordings."""


class Inspection:
    """What is found in the recordings of a corpus; a part is a file of a line a recording.

    Args:
        splits: The utterances of each split, in order.
        place: For the files, of this inspection alone.
        samples: See `inspect`.
        jobs: Recordings inspected at a time; 0: four more than there are processors.
    """

    def __init__(self, splits: Sequence[Drafts], place: Path, *, samples: bool, jobs: int) -> None:
        self._splits, self._place, self._samples = splits, place, samples
        self._jobs = jobs or 4 + (os.cpu_count() or 1)
        count = len(self)
        size = min(_PART[1], max(_PART[0], -(-count // _PARTS)))
        self._parts = [range(n, min(n + size, count)) for n in range(0, count, size)]
        self._known: dict[Any, Found] = {}
        different = Names(f"{d.path}\n{d.start}" for drafts in splits for d in drafts)
        self._repeated = count > len(different)

    def __len__(self) -> int:
        """Return the number of utterances."""
        return sum(map(len, self._splits))

    def units(self, bar: Bar, done: Callable[[], bool]) -> Iterator[Unit]:
        """Yield the parts as units of work.

        Args:
            bar: Moves with the recordings that this process inspects.
            done: Tells whether what they are for is there already.
        """
        for number, part in enumerate(self._parts):
            file = self._file(number)
            yield Unit(
                f"{self._place.name}/{number:05d}",
                partial(_is_there, file, done),
                partial(self._inspect, file, part, bar),
            )

    def found(self) -> Iterator[Found]:
        """Yield what was found, in order; every part must be there."""
        for number in range(len(self._parts)):
            with reading(self._file(number)) as file:
                for line in read_lines(file.read()):
                    header, offset, samples, told = parse_json(line, plain=False)
                    known = None if header is None else Header(*header)
                    problems = tuple((kind, problem) for kind, problem in told)
                    yield Found(known, offset, samples, problems)

    def _file(self, number: int) -> Path:
        return self._place / f"{number:05d}.jsonl"

    def _drafts(self, part: range) -> Iterator[Draft]:
        """Yield the utterances of a part by their numbers, counted through all splits."""
        first = 0
        for drafts in self._splits:
            yield from drafts[max(part.start - first, 0) : max(part.stop - first, 0)]
            first += len(drafts)

    def _inspect(self, file: Path, part: range, bar: Bar, _claim: Claim | None) -> None:
        lines = []
        for found in _parallel(self._look, list(self._drafts(part)), self._jobs):
            lines.append(json.dumps(astuple(found)) + "\n")
            bar.advance()
        write_text(file, "".join(lines))

    def _look(self, draft: Draft) -> Found:
        key = (draft.path, draft.start, draft.end, draft.channel)
        if key in self._known:
            return self._known[key]
        found = inspect(
            draft.path, draft.start, draft.end, channel=draft.channel, samples=self._samples
        )
        if self._repeated:
            self._known[key] = found
        return found


def _is_there(file: Path, done: Callable[[], bool]) -> bool:
    return file.exists() or done()


def _parallel(
    function: Callable[[Draft], Found], drafts: Sequence[Draft], jobs: int
) -> Iterator[Found]:
    """Map in threads, in order: decoding releases Python's lock."""
    size = min(_CHUNK, -(-len(drafts) // jobs))
    chunks = [drafts[n : n + size] for n in range(0, len(drafts), size)]
    with ThreadPoolExecutor(jobs) as pool:
        for found in pool.map(lambda chunk: [function(draft) for draft in chunk], chunks):
            yield from found
