"""What the stages of a run share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from speechft.data.manifest import Corpus
from speechft.evaluation.failures import Failures
from speechft.features.downsampler import DownsamplerCache
from speechft.recipe import Recipe
from speechft.tasks.base import Task


@dataclass
class Run:
    """A run in progress: its recipe, folder, and what the stages share."""

    recipe: Recipe
    folder: Path
    corpus: Corpus
    corpora: dict[str, Corpus]
    tasks: list[Task]
    evaluated: dict[str, Corpus]
    """The corpus that each task is evaluated on."""
    pretrained: tuple[Corpus, ...] = ()
    """Heard by the encoder before."""
    cache: DownsamplerCache = field(default_factory=DownsamplerCache)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: Failures = field(default_factory=Failures)
    """What could not be evaluated."""

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Record how long a stage takes."""
        started = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
