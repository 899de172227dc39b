"""Curves for TensorBoard and the other trackers that Accelerate knows."""

from __future__ import annotations

import contextlib
import importlib.util
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechft.commands import shell
from speechft.console import log
from speechft.errors import unknown_choice
from speechft.extras import missing
from speechft.naming import public

DEFAULT = "tensorboard"


class Trackers:
    """Sends figures to trackers; none on processes other than the first.

    TensorBoard is left out with a word where it is not installed; any other tracker that is named
    and not installed is an error.

    Args:
        names: As Accelerate calls them.
        folder: Where those that write files write them.
        step: First update that is still to come; a resumed TensorBoard log forgets later ones.
        settings: What the run was configured to do.

    Raises:
        ConfigError: An unknown tracker, or one that is not installed.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, step: int, settings: Mapping[str, Any]
    ) -> None:
        self._trackers = []
        for name in names:
            kind = _kind(name)
            if kind is None:
                log("curves are not kept: TensorBoard is not installed (extra 'tensorboard')")
                continue
            options: dict[str, Any] = (
                {"logging_dir": str(folder)} if kind.requires_logging_directory else {}
            )
            if name == DEFAULT and step:
                options["purge_step"] = step
            with warnings.catch_warnings(), _no_host(name):
                warnings.simplefilter("ignore")  # of the tracker's own dependencies
                tracker = kind("speechft", **options)
                tracker.start()
                if name != DEFAULT:
                    tracker.store_init_configuration(public(settings))
            self._trackers.append(tracker)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Send figures of a step."""
        for tracker in self._trackers:
            tracker.log(dict(figures), step=step)

    def close(self) -> None:
        """Finish all trackers."""
        for tracker in self._trackers:
            tracker.finish()


@contextlib.contextmanager
def _no_host(name: str) -> Iterator[None]:
    """Keep the host's name out of the names of TensorBoard's files, which has no option for it."""
    if name != DEFAULT:
        yield
        return
    from tensorboard.summary.writer import event_file_writer as writer

    usual: Any = writer.socket
    writer.socket = types.SimpleNamespace(gethostname=lambda: "speechft")
    try:
        yield
    finally:
        writer.socket = usual


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that cannot be used, on every process and before any work.

    Raises:
        ConfigError: An unknown tracker, or one that is not installed.
    """
    for name in names:
        _kind(name)


def _kind(name: str) -> Any:
    """Return Accelerate's class; None for a TensorBoard that is not installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    if name not in LOGGER_TYPE_TO_CLASS:
        raise unknown_choice("tracker", name, LOGGER_TYPE_TO_CLASS)
    if importlib.util.find_spec(name) is None:
        if name == DEFAULT:
            return None
        raise missing(f"the tracker {name}", name, shell("pip", ["install", name]))
    return LOGGER_TYPE_TO_CLASS[name]
