"""Settings of a corpus as they are typed, ``key=value``, as arguments of what reads it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl

from speechft.errors import ConfigError, unknown_choice


def behind(mark: str) -> list[str]:
    """Return the settings of what stands behind a question mark: ``key=value&key=value``."""
    return [f"{key}={value}" for key, value in parse_qsl(mark, keep_blank_values=True)]


def place_and_settings(text: str) -> tuple[str, list[str]]:
    """Return one's own recordings and the settings behind them: ``PLACE?key=value&key=value``.

    A file or folder that is called so, question mark and all, is meant itself.
    """
    parts = text.split("?")
    places = ["?".join(parts[:n]) for n in range(len(parts), 0, -1)]
    place = next((p for p in places if os.path.lexists(os.path.expanduser(p))), parts[0])
    return place, behind(text[len(place) + 1 :])


def keywords(name: str, function: Callable[..., Any], settings: Sequence[str]) -> dict[str, Any]:
    """Turn ``key=value`` texts into keyword arguments of a corpus's function.

    Raises:
        ConfigError: A key that the corpus does not have, or a value of the wrong type.
    """
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    known = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    given: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"setting {setting!r} is not of the form key=value")
        if key not in known:
            raise unknown_choice(f"setting of corpus {name}", key, known)
        given[key] = _value(key, value, known[key].annotation)
    return given


def _value(key: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text) if kind in (int, float) else text
    except (KeyError, ValueError):
        raise ConfigError(f"{key}={text} is not {kind.__name__}") from None
