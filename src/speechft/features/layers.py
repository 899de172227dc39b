"""Which hidden states are meant: ``all``, ``last``, or numbers and ranges; light, for recipes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from speechft.errors import ConfigError

Layers = Literal["all", "last"] | tuple[int, ...]


_DIGITS = 4
"""Of the number of a layer."""


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _DIGITS


def read_layers(given: str | int | Sequence[int]) -> Layers:
    """Read what was asked for: ``all``, ``last``, or numbers and ranges such as ``0,6,9-12``.

    Args:
        given: Text, one number or several; 0 is the input of the first layer.

    Raises:
        ConfigError: It is something else.
    """
    if given == "all" or given == "last":
        return given  # type: ignore[return-value]
    if not isinstance(given, str | int | Sequence):
        raise _not_layers(given)
    parts = given.split(",") if isinstance(given, str) else given
    chosen: list[int] = []
    for part in [parts] if isinstance(parts, int) else parts:
        first, separator, last = str(part).strip().partition("-")
        if not all(_is_number(text) for text in ([first, last] if separator else [first])):
            raise _not_layers(given)
        numbers = range(int(first), int(last if separator else first) + 1)
        if not numbers:
            raise _not_layers(given)
        chosen += numbers
    if not chosen:
        raise _not_layers(given)
    return tuple(dict.fromkeys(chosen))


def pick_layers(layers: Layers, count: int) -> list[int]:
    """Return the numbers of the hidden states of an encoder with ``count`` layers.

    Raises:
        ConfigError: It has fewer.
    """
    if layers == "all":
        return list(range(count + 1))
    if layers == "last":
        return [count]
    wrong = [number for number in layers if int(number) > count]
    if wrong:
        raise ConfigError(
            f"layer {', '.join(map(str, wrong))}: the encoder has the hidden states 0 (input of "
            f"the first layer) to {count}"
        )
    return [int(number) for number in layers]


def _not_layers(given: object) -> ConfigError:
    return ConfigError(f"layer {given!r} is not all, last, or numbers and ranges such as 0,6,9-12")
