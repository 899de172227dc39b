"""Dropout rates of an encoder: what the recipe says, what is left, printed with the source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechft.console import log
from speechft.encoders.base import Encoder
from speechft.errors import ConfigError
from speechft.finetuning.distributed import sharding_asked


def check_layer_drop(rates: Mapping[str, float]) -> None:
    """Refuse layer drop where layers are spread over processes.

    Every process draws the layers that it leaves out, and the others would wait for its part.

    Raises:
        ConfigError: Both were asked for.
    """
    for name, rate in rates.items():
        if name.endswith("layerdrop") and rate and sharding_asked():
            raise ConfigError(
                f"dropout {name} {rate:g} does not work with FSDP: every process would leave out "
                "other layers",
                hint=f"set it to 0 ({name}=0), or start without --use_fsdp",
            )


def set_dropout(encoder: Encoder, rates: Mapping[str, float]) -> dict[str, float]:
    """Set the dropout rates of an encoder and say what each is and why.

    What the recipe does not name is 0; the rates that the encoder's configuration came with are
    those of its pre-training and are not used.

    Returns:
        Every rate by name; empty for an encoder without dropout.

    Raises:
        ConfigError: There is no dropout of that name, or a rate is not one.
    """
    for name, rate in rates.items():
        if not 0.0 <= rate < 1.0:
            raise ConfigError(f"dropout {name}: {rate:g} is no rate; it is at least 0 and below 1")
    own: Any = encoder
    if not hasattr(own, "set_dropout"):
        return {}
    came = dict(own.dropouts)
    own.set_dropout(dict(rates))
    now = dict(own.dropouts)
    log(f"dropout: {_in_words(now, came, rates)}")
    return now


def _in_words(
    now: Mapping[str, float], came: Mapping[str, float], rates: Mapping[str, float]
) -> str:
    told = ", ".join(f"{name} {now[name]:g}" for name in sorted(now) if name in rates)
    silent = [name for name in sorted(now) if name not in rates]
    parts = [f"{told} as the recipe says"] if told else []
    if silent:
        by_rate: dict[float, list[str]] = {}
        for name in silent:
            by_rate.setdefault(came[name], []).append(name)
        had = [f"{r:g} ({', '.join(names)})" for r, names in sorted(by_rate.items()) if r]
        with_these = f"; the encoder came with {' and '.join(had)}" if had else ""
        parts.append(f"0 where the recipe says nothing{with_these}")
    return ", ".join(parts)
