"""Files of repositories on the hub as `remote` reads them: what is there now, and in time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import HfFileSystem, get_session
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from speechft.console import shows_progress

_TRIES = ("thrown while requesting", "Retrying in")
"""What the hub's client says of each of its tries; that it waits as the hub wants it still says."""


def _is_no_try(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in _TRIES)


logging.getLogger("huggingface_hub.utils._http").addFilter(_is_no_try)  # one message: ours


@contextmanager
def bars_like_ours() -> Iterator[None]:
    """Show bars of the hub's client where ours are shown, and nowhere else."""
    if shows_progress() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


class HubFileSystem:
    """`HfFileSystem` without what it remembers of files, and with an end to its patience.

    Args:
        silence: Seconds without a byte after which an answer is given up.
    """

    async_impl = False

    def __init__(self, silence: float) -> None:
        self._system, self._silence = HfFileSystem(), silence

    def look(self, path: str) -> None:
        """Learn whether there is such a repository and revision; that there is none is forgotten.

        Raises:
            FileNotFoundError: There is none.
        """
        try:
            with self._limited():
                self._system.resolve_path(path)
        except BaseException:
            self._system.invalidate_cache()
            raise

    def info(self, path: str) -> dict[str, Any]:
        """Return size, type and digest of a file as it is now."""
        with self._limited():
            found: dict[str, Any] = self._system.info(path, refresh=True, expand_info=True)
        return found

    def find(self, path: str) -> list[str]:
        """Return the paths of all files below a folder, or of the file."""
        try:
            with self._limited():
                return list(self._system.find(path))
        finally:
            self._system.dircache.clear()

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes of a range, and ask for no other and no listing."""
        with self._limited():
            more: dict[str, Any] = {"cache_type": "none", "size": end}
            return bytes(self._system.cat_file(path, start=start, end=end, **more))

    @contextmanager
    def _limited(self) -> Iterator[None]:
        """Limit the silence of requests that have no limit of their own."""
        session = get_session()
        before, session.timeout = session.timeout, self._silence
        try:
            yield
        finally:
            session.timeout = before
