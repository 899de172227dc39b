"""Every recording of a corpus inspected, in parts that processes share; findings lie in files."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from functools import partial
from pathlib import Path

from speechft.console import Bar
from speechft.data.corpora.base import Draft, Drafts
from speechft.data.inspection import Found, Header, inspect
from speechft.parallel.claims import Claim
from speechft.parallel.sharing import Unit
from speechft.storage.disk import reading
from speechft.storage.documents import parse_json, read_lines
from speechft.storage.files import write_text
from speechft.storage.headers import is_whole
from speechft.storage.scratch import Names, Rows

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
        different = Names(_key(draft) for drafts in splits for draft in drafts)
        self._known = Known() if count > len(different) else None

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
                yield from map(_found, read_lines(file.read()))

    def _file(self, number: int) -> Path:
        return self._place / f"{number:05d}.jsonl"

    def _drafts(self, part: range) -> Iterator[Draft]:
        """Yield the utterances of a part by their numbers, counted through all splits."""
        first = 0
        for drafts in self._splits:
            yield from drafts[max(part.start - first, 0) : max(part.stop - first, 0)]
            first += len(drafts)

    def _inspect(self, file: Path, part: range, bar: Bar, _claim: Claim | None) -> None:
        lines, drafts = [], list(self._drafts(part))
        for draft, found in zip(drafts, _parallel(self._look, drafts, self._jobs), strict=True):
            line = json.dumps(astuple(found))
            lines.append(line + "\n")
            if self._known is not None:
                self._known.add(draft, line)
            bar.advance()
        write_text(file, "".join(lines))

    def _look(self, draft: Draft) -> Found:
        known = None if self._known is None else self._known.get(draft)
        return known or inspect(
            draft.path, draft.start, draft.end, channel=draft.channel, samples=self._samples
        )


class Known:
    """What was found in recordings that a corpus lists more than once; not held in memory."""

    def __init__(self) -> None:
        self._keys, self._lines = Names(), Rows()
        self._lock = threading.Lock()

    def add(self, draft: Draft, line: str) -> None:
        """Keep what was found in a recording, as its file has it."""
        with self._lock:
            if self._keys.add(_key(draft)) == len(self._lines):
                self._lines.add(line.encode())

    def get(self, draft: Draft) -> Found | None:
        """Return what was found in a recording."""
        with self._lock:
            number = self._keys.number(_key(draft))
            return None if number is None else _found(bytes(self._lines[number]))


def _key(draft: Draft) -> str:
    """Return what tells a recording, or a part of one, from all others."""
    return f"{draft.path}\n{draft.start} {draft.end} {draft.channel}"


def _found(line: bytes) -> Found:
    """Return what was found, of a line of JSON."""
    header, offset, samples, told = parse_json(line, plain=False)
    known = None if header is None else Header(*header)
    return Found(known, offset, samples, tuple((kind, problem) for kind, problem in told))


def _is_there(file: Path, done: Callable[[], bool]) -> bool:
    return is_whole(file) or done()


def _parallel(
    function: Callable[[Draft], Found], drafts: Sequence[Draft], jobs: int
) -> Iterator[Found]:
    """Map in threads, in order: decoding releases Python's lock."""
    size = min(_CHUNK, -(-len(drafts) // jobs))
    chunks = [drafts[n : n + size] for n in range(0, len(drafts), size)]
    with ThreadPoolExecutor(jobs) as pool:
        for found in pool.map(lambda chunk: [function(draft) for draft in chunk], chunks):
            yield from found
