"""Answers as they come: a line each, safe on disk before the next batch, so that work goes on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from speechft.console import log
from speechft.disk import open_regular, remove
from speechft.documents import parse_json
from speechft.errors import CheckpointError
from speechft.files import json_digest, read_json, write_error, write_json
from speechft.locks import lock, make_scratch

_KEY, _LINES = "key.json", "answers.jsonl"


class Journal:
    """What was answered so far, in the order in which it was; known by name and state of the audio.

    Args:
        file: Open for reading and appending.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._places: dict[str, tuple[Any, int]] = {}
        self._read()

    def _read(self) -> None:
        """Find the whole lines; what a killed process wrote of another is cut off."""
        end = 0
        for line in self._file:
            try:
                entry = parse_json(line)
                self._places[str(entry["id"])] = entry["audio"], end
            except (ValueError, TypeError, KeyError):
                break
            if not line.endswith(b"\n"):
                break
            end += len(line)
        self._places = {name: place for name, place in self._places.items() if place[1] < end}
        self._file.truncate(end)
        self._file.seek(end)

    def has(self, name: str, audio: Any) -> bool:
        """Return whether an answer is there, about audio that is as it was then."""
        return name in self._places and self._places[name][0] == audio

    def add(self, answers: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> None:
        """Keep answers, each with the state of its audio, by name."""
        self._file.seek(0, os.SEEK_END)
        for name, (audio, answer) in answers.items():
            self._places[name] = audio, self._file.tell()
            line = json.dumps({"id": name, "audio": audio, "answer": answer}, ensure_ascii=False)
            self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def read(self, name: str) -> dict[str, Any]:
        """Return a kept answer."""
        self._file.seek(self._places[name][1])
        answer: dict[str, Any] = parse_json(self._file.readline())["answer"]
        return answer


@contextlib.contextmanager
def journal(out: Path, key: Mapping[str, Any]) -> Iterator[Journal]:
    """Hold the unfinished work on an output; it is removed when the block, which publishes, ends.

    Args:
        out: The output, beside which the work lies in a hidden folder.
        key: All that answers depend on beside the audio; work of another key is begun anew.

    Raises:
        RunError: Another process is at it, or it cannot be written.
    """
    folder = out.with_name(f".{out.name}.answers")
    make_scratch(folder)
    with lock(folder):
        digest = json_digest(key)
        try:
            known = read_json(folder / _KEY)
        except CheckpointError:
            known = None
        if known != digest:
            if (folder / _LINES).exists():
                log(f"{out}: earlier answers were made otherwise; it starts anew")
            remove(folder / _LINES)
            write_json(folder / _KEY, digest)
        try:
            place = open_regular(folder / _LINES, os.O_RDWR | os.O_CREAT, follow=False)
            with os.fdopen(place, "r+b") as file:
                yield Journal(file)
        except OSError as error:
            raise write_error(out, error) from error
        except BaseException:
            if not (folder / _LINES).stat().st_size:  # nothing to go on with
                remove(folder)
            raise
        remove(folder)
