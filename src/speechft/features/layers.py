"""Which hidden states are meant: ``all``, ``last``, or numbers and ranges; light, for recipes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from speechft.errors import ConfigError

Layers = Literal["all", "last"] | tuple[int, ...]


def read_layers(given: str | int | Sequence[int]) -> Layers:
    """Read what was asked for: ``all``, ``last``, or numbers and ranges such as ``0,6,9-12``.

    Args:
        given: Text, one number or several; 0 is the input of the first layer.

    Raises:
        ConfigError: It is something else.
    """
    if given == "all" or given == "last":
        return given  # type: ignore[return-value]
    parts = given.split(",") if isinstance(given, str) else given
    chosen: list[int] = []
    for part in [parts] if isinstance(parts, int) else parts:
        first, separator, last = str(part).strip().partition("-")
        if not first.isdigit() or (separator and not last.isdigit()):
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
