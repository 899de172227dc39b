"""Settings of a corpus as they are typed, ``key=value``, as arguments of what reads it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from speechft.errors import ConfigError, unknown_choice


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
