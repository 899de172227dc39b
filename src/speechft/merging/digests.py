"""SHA-256 of the inputs, on threads of their own while they are merged."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from speechft.errors import CheckpointError
from speechft.storage.disk import reading
from speechft.storage.files import CONFIG_NAME, file_digest

_BLOCK = 1 << 20


class InputDigests:
    """Digests files, as many at once as there are processors; hashing releases Python's lock."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._left = list(dict.fromkeys(paths))[::-1]
        self._digests: dict[Path, str] = {}
        self._error: OSError | None = None
        self._stop = threading.Event()
        count = min(len(self._left), os.cpu_count() or 1)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        buffer = bytearray(_BLOCK)
        try:
            while not self._stop.is_set():
                path = self._left.pop()
                digest = hashlib.sha256()
                with reading(path) as file:
                    while (count := file.readinto(buffer)) and not self._stop.is_set():
                        digest.update(memoryview(buffer)[:count])
                self._digests[path] = digest.hexdigest()
        except IndexError:
            return  # nothing is left
        except OSError as error:
            self._error = error
            self._stop.set()

    def result(self) -> dict[Path, str]:
        """Wait for all digests and return them by path.

        Raises:
            CheckpointError: A file cannot be read any more.
        """
        self._wait()
        if self._error is not None:
            raise CheckpointError(f"cannot read an input: {self._error}")
        return self._digests

    def cancel(self) -> None:
        """Give up; for the end of a merge that failed."""
        self._stop.set()
        self._wait()

    def _wait(self) -> None:
        for thread in self._threads:
            thread.join()


def combined_digest(folder: Path | None, files: Sequence[Path], digests: dict[Path, str]) -> str:
    """Return one digest for a checkpoint out of the digests of its files.

    For an encoder folder it is `speechft.storage.files.encoder_digest`; for a single file without a
    configuration, the digest of that file.
    """
    parts = [digests[path] for path in files]
    if folder is not None and (folder / CONFIG_NAME).is_file():
        parts.insert(0, file_digest(folder / CONFIG_NAME))
    elif len(parts) == 1:
        return parts[0]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
