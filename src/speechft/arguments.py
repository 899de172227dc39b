"""Arguments of verbs that callers may give in more than one form: paths, names, lists, settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PathLike = str | Path
Paths = PathLike | Sequence[PathLike]
"""One, or several."""
Texts = str | Sequence[str]


def folder_of(path: PathLike) -> Path:
    """Return a path with the home folder in the place of ``~``."""
    return Path(os.path.expanduser(path))


def real_place(given: Any) -> str:
    """Return one name for a place, however it was typed: links followed; other texts stay.

    Objects are called by their type.
    """
    text = str(given) if isinstance(given, (str, Path)) else type(given).__name__
    path = os.path.expanduser(text)
    return os.path.realpath(path) if os.path.exists(path) else text


def names_of(given: Texts) -> tuple[str, ...]:
    """Return names of a list, or of a text with commas."""
    parts = given.split(",") if isinstance(given, str) else given
    return tuple(part.strip() for part in parts if part.strip())


def texts_of(names: Paths) -> list[str]:
    """Return one or several names as a list of texts."""
    return [str(name) for name in ([names] if isinstance(names, (str, Path)) else names)]


def listed_encoders(encoders: Any) -> list[Any]:
    """Return one or several encoders, names or objects, as a list; paths become text."""
    several = not isinstance(encoders, (str, Path)) and not callable(encoders)
    listed = list(encoders) if several and hasattr(encoders, "__iter__") else [encoders]
    return [str(item) if isinstance(item, Path) else item for item in listed]


def changes_of(settings: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes by key; options that were given come last, so that they win.

    Args:
        settings: Keywords, sections joined by two underscores: ``finetuning__steps``.
        options: By key, ``data.corpus``; those that are None were not given.
    """
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    return changes | {key: value for key, value in options.items() if value is not None}
