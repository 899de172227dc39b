"""What of an evaluation failed while the rest went on, told at the end in one message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechft.errors import DataError, SpeechftError, TrainingError


@dataclass(frozen=True)
class Failure:
    """One task of one encoder that could not be evaluated."""

    encoder: str
    task: str
    error: SpeechftError


class Failures:
    """Tasks of encoders that could not be evaluated."""

    def __init__(self, found: Sequence[Failure] = ()) -> None:
        self.found = list(found)

    def add(self, encoder: str, errors: Mapping[str, SpeechftError]) -> None:
        """Note what failed of an encoder, by task."""
        self.found += [Failure(encoder, task, error) for task, error in errors.items()]

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
