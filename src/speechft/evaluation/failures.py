"""What of an evaluation failed while the rest went on, told at the end in one message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from speechft.console import warn
from speechft.errors import DataError, SpeechftError, TrainingError


@dataclass(frozen=True)
class Failure:
    """One task of one encoder that could not be evaluated."""

    encoder: str
    task: str
    error: SpeechftError


class Failures:
    """Tasks of encoders that could not be evaluated."""

    def __init__(self) -> None:
        self.found: list[Failure] = []

    @contextmanager
    def held(self, encoder: str, tasks: Sequence[str]) -> Iterator[None]:
        """Note that tasks failed where their data or their training does; the rest goes on."""
        try:
            yield
        except (DataError, TrainingError) as error:
            warn(f"{', '.join(tasks)} of {encoder} failed, going on: {error.message}")
            self.found += [Failure(encoder, task, error) for task in tasks]

    def has(self, encoder: str, task: str) -> bool:
        """Return whether a task of an encoder failed."""
        return any(f.encoder == encoder and f.task == task for f in self.found)

    @property
    def tasks(self) -> set[str]:
        """Return the tasks that failed for some encoder."""
        return {failure.task for failure in self.found}

    def raise_any(self, out: Path) -> None:
        """Say what failed, if anything did.

        Args:
            out: Where the results of the rest are.

        Raises:
            DataError: Data could not be used; lists all that failed.
            TrainingError: Only trainings failed.
        """
        if not self.found:
            return
        encoders: dict[tuple[str, str], list[str]] = {}
        for failure in self.found:
            encoders.setdefault((failure.task, failure.error.message), []).append(failure.encoder)
        lines = [f"{task} of {', '.join(who)}: {why}" for (task, why), who in encoders.items()]
        if len(lines) > 1:
            lines = [f"{len(self.found)} of the evaluations failed:", *(f"  {x}" for x in lines)]
        hints = dict.fromkeys(f.error.hint for f in self.found if f.error.hint)
        rest = f"what was measured is in {out / 'results.jsonl'}; the same command tries the rest"
        trained = all(isinstance(failure.error, TrainingError) for failure in self.found)
        kind = TrainingError if trained else DataError
        raise kind("\n".join(lines), hint="; ".join([*hints, rest]))
