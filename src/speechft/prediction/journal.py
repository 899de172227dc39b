"""Answers as they come: a line each, safe on disk before the next batch, so that work goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speechft.console import log
from speechft.errors import CheckpointError
from speechft.storage.disk import remove
from speechft.storage.files import json_digest, read_json, write_error, write_json
from speechft.storage.kept_lines import KeptLines, kept_lines
from speechft.storage.locks import lock, make_scratch

_KEY, _LINES = "key.json", "answers.jsonl"


class Journal:
    """What was answered so far, known by name and state of the audio.

    Args:
        lines: Where it stands.
    """

    def __init__(self, lines: KeptLines) -> None:
        self._lines = lines

    def has(self, name: str, audio: Any) -> bool:
        """Return whether an answer is there, about audio that is as it was then."""
        return name in self._lines and self._lines.remembered(name) == audio

    def add(self, answers: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> None:
        """Keep answers, each with the state of its audio, by name."""
        for name, (audio, answer) in answers.items():
            self._lines.add({"id": name, "audio": audio, "answer": answer})
        self._lines.sync()

    def read(self, name: str) -> dict[str, Any]:
        """Return a kept answer."""
        answer: dict[str, Any] = self._lines.row(name)["answer"]
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
            with kept_lines(folder / _LINES, "audio") as lines:
                yield Journal(lines)
        except OSError as error:
            raise write_error(out, error) from error
        except BaseException:
            if not (folder / _LINES).stat().st_size:  # nothing to go on with
                remove(folder)
            raise
        remove(folder)
