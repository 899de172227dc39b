"""The exception tree: every error that a user can cause, with what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from speechft.naming import shown


class SpeechftError(Exception):
    """Base of all errors that the command line shows as one message instead of a traceback.

    SpeechftError
    ├── ConfigError       a recipe, a key or an option is wrong
    ├── DataError         a corpus, a manifest or an audio file cannot be used
    ├── CheckpointError   an encoder folder or a weight file cannot be used
    │   └── LineageError  the encoders to merge do not belong together
    ├── PackageError      something that is not installed is needed
    ├── RemoteError       what lies at an address cannot be read or written
    │   └── AbsentError   there is nothing at an address
    ├── RunError          a run's folder is in use, not writable or damaged
    └── TrainingError     training diverged or cannot start

    Args:
        message: What was given and what was expected; see `shown` for addresses.
        hint: What to do about it.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = shown(message)
        self.hint = None if hint is None else shown(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class ConfigError(SpeechftError):
    """A recipe, a key or an option is wrong."""


class DataError(SpeechftError):
    """A corpus, a manifest or an audio file cannot be used."""


class CheckpointError(SpeechftError):
    """An encoder folder or a weight file cannot be used."""


class LineageError(CheckpointError):
    """The encoders to merge do not belong together."""


class PackageError(SpeechftError):
    """Something that is not installed is needed."""


class RemoteError(SpeechftError):
    """What lies at an address cannot be read or written: no answer, no permission, no such way."""


class AbsentError(RemoteError):
    """There is nothing at an address."""


class RunError(SpeechftError):
    """A run's folder is in use, not writable or damaged."""


class TrainingError(SpeechftError):
    """Training diverged or cannot start."""


def nearest(value: str, choices: Iterable[str]) -> str | None:
    """Return the choice that looks most like ``value``, or None when nothing is near."""
    by_form = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(value.lower(), by_form, n=1, cutoff=0.6)
    return by_form[matches[0]] if matches else None


def unknown_choice(kind: str, value: str, choices: Iterable[str]) -> ConfigError:
    """Build the error for a name that is not among ``choices``.

    Args:
        kind: What the name stands for, such as ``"recipe"`` or ``"task"``.
        value: The name that was given.
        choices: The names that exist.
    """
    known = sorted(choices)
    near = nearest(value, known)
    message = f"unknown {kind} {value!r}; choices are: {', '.join(known) or 'none'}"
    return ConfigError(message, hint=f"did you mean {near!r}?" if near else None)
