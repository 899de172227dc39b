"""One pass of an encoder over the audio of several tasks: made once, handed to whoever needs it."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechft.console import warn
from speechft.data.kept_cuts import Cuts
from speechft.errors import DataError
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.task_evaluation import TaskEvaluation
from speechft.features.cache import Codec, FrameCache, PooledCache, audio_key
from speechft.features.keeping import Features, Storage
from speechft.parallel.claims import FOLDER, Claim, Workers
from speechft.storage.scratch import scratch_in

if TYPE_CHECKING:
    from torch import Tensor

_FLUSH = 2000
"""Utterances of a file of pooled statistics."""

Encode = Callable[[Sequence[TaskEvaluation], Storage | None], Features]
"""From tasks, and where features are kept (None: as the configuration says), to their features."""


class SharedPass:
    """Features of one encoder for all its tasks on one corpus.

    Args:
        name: Of the pass, as a unit of work.
        out: Folder of the results.
        config: How is evaluated.
        encode: Runs the encoder.
    """

    def __init__(self, name: str, out: Path, config: EvaluationConfig, encode: Encode) -> None:
        self.jobs: list[TaskEvaluation] = []
        """The tasks that are to be evaluated here."""
        self._name, self._config, self._encode = name, config, encode
        key = hashlib.sha256(name.encode()).hexdigest()[:16]
        self._place = out / FOLDER / f"features-{key}"
        self._features: Features | None = None
        self._apart = False
        self._claim: Claim | None = None

    def ready(self, workers: Workers) -> bool:
        """Return whether features can be had without waiting."""
        if self._features is not None or self._apart:
            return True
        return workers.state(self._name).state != "running"

    def reserve(self, workers: Workers) -> None:
        """Claim the features if nobody has them, so that others begin with another encoder."""
        if workers.state(self._name).state not in ("running", "done"):
            self._claim = workers.claim(self._name)

    def ask(self, workers: Workers) -> None:
        """Ask who has the features to hand them over, which costs that process their writing."""
        workers.ask(self._name)

    def features(self, job: TaskEvaluation, workers: Workers | None) -> Features:
        """Return the features of a task, with those of all other tasks where that can be.

        Raises:
            DataError: A recording of this task cannot be read.
        """
        if self._features is None and not self._apart:
            if workers is None:
                self._make()
            elif (claim := self._claim or self._claimed(workers)) is not None:
                self._make()
                self._offer(workers, claim)
        return self._encode([job], None) if self._features is None else self._features

    def release(self, workers: Workers | None) -> None:
        """Forget the features; who has asked for them gets them first."""
        if self._claim is not None and workers is not None:
            workers.serve(self._name, None)
            if self._claim is not None:  # nobody asked
                self._claim.end("left")
        self.jobs, self._features, self._apart, self._claim = [], None, False, None

    def _claimed(self, workers: Workers) -> Claim | None:
        """Return the claim to make the features; None where they were read from who made them."""
        while True:
            seen = workers.state(self._name)
            if seen.state == "done":
                self._apart = bool((seen.content or {}).get("apart"))
                if not self._apart:
                    self._features = self._encode(self.jobs, self._handed())
                return None
            if (claim := workers.claim(self._name)) is not None:
                return claim
            workers.ask(self._name)
            time.sleep(0.2)

    def _make(self) -> None:
        """Make the features; where a recording that cannot be read forbids it, each task does.

        Then only those tasks fail whose recording it is.
        """
        try:
            self._features = self._encode(self.jobs, None)
        except DataError as error:
            if len(self.jobs) > 1:
                warn(f"going on with one task at a time: {error.message}")
            self._apart = True

    def _offer(self, workers: Workers, claim: Claim) -> None:
        if self._apart:
            claim.end("done", apart=True)
            self._claim = None
        else:
            self._claim = claim
            workers.serve(self._name, self._hand_out)

    def _hand_out(self) -> None:
        """Write the features to disk; where that fails, each task makes its own.

        Whatever goes wrong here must not end the signs of life, nor leave who waits waiting.
        """
        assert self._features is not None
        assert self._claim is not None
        apart = False
        try:
            found, pooled, new = self._features, PooledCache(self._place), dict[str, "Tensor"]()
            self._place.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._place).free
            frames = FrameCache(self._place, free // 2, "float16")
            with scratch_in(self._place):  # a thread of its own
                cuts = Cuts.different(job.cuts() for job in self.jobs)
            for cut in cuts:
                new[audio_key(cut)] = found.mean(cut)
                if len(new) == _FLUSH:
                    pooled.put(new)
                    new = {}
                if cut.id in found.frames or (found.cache and cut.id in found.lengths):
                    [states] = found.rows([cut])
                    frames.put(audio_key(cut), states)
            pooled.put(new)
        except Exception as error:
            warn(f"features are not handed over, others make their own: {error}")
            apart = True
        self._claim.end("done", apart=apart)
        self._claim = None

    def _handed(self) -> Storage:
        """Return where another process has put the features, exactly as it sees them."""
        config = self._config
        rounded: Codec = "float16"
        if config.cache is not None and config.frame_cache_gb > 0:
            rounded = config.frame_codec
        frames = FrameCache(self._place, 0, "float16", seen_as=rounded)
        return Storage(PooledCache(self._place), frames, frame_room(config))


def frame_room(config: EvaluationConfig) -> int | None:
    """Return the bytes of frames that are kept meanwhile; None where nothing is said."""
    return None if config.frame_memory_gb is None else int(config.frame_memory_gb * 1e9)
