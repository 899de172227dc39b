"""What an analysis may be asked: measures, layers, split and caps; light, for the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from speechft.devices import Precision
from speechft.errors import ConfigError, unknown_choice
from speechft.features.layers import Layers, read_layers

MEASURES = ("similarity", "linearity", "weights", "cca", "abx", "speaker", "knn")
"""What can be measured: a file each in this package."""


@dataclass(frozen=True)
class Settings:
    """What is measured, on what."""

    measures: tuple[str, ...] | None = None
    """Some of `MEASURES`; None for all that encoders and corpus allow."""
    layers: Layers = "all"
    """Hidden states of the base."""
    split: str | None = None
    """Of the corpus; None for the development split."""
    relative_depth: bool = False
    """Whether encoders of another shape are compared, layer by relative depth."""
    alpha: float = 0.5
    """Where between two encoders linearity is measured."""
    limit: int = 1000
    """Utterances at most, speakers in turn."""
    seed: int = 0
    """Of everything that is drawn."""
    precision: Precision = "fp32"
    """Of the encoders; in bf16 the rounding of both looks like a small change."""


def read_settings(
    measures: str | Sequence[str] = "available",
    layers: str | int | Sequence[int] = "all",
    alpha: float = 0.5,
    limit: int = 1000,
    precision: str = "fp32",
    **others: object,
) -> Settings:
    """Check what was asked for.

    Raises:
        ConfigError: A measure is unknown, or a number is out of its range.
    """
    listed = [m.strip() for m in measures.split(",")] if isinstance(measures, str) else measures
    chosen = None if list(listed) == ["available"] else tuple(dict.fromkeys(listed))
    for name in chosen or ():
        if name not in MEASURES:
            raise unknown_choice("measure", name, (*MEASURES, "available"))
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha {alpha:g} is not between 0 (the base) and 1 (the tuned encoder)")
    if limit < 1:
        raise ConfigError(f"limit {limit} leaves no utterance: give 1 or more")
    if precision not in ("auto", "fp32", "bf16", "fp16"):
        raise unknown_choice("precision", precision, ("auto", "fp32", "bf16", "fp16"))
    given = {"alpha": alpha, "limit": limit, "precision": precision, **others}
    return Settings(chosen, read_layers(layers), **given)  # type: ignore[arg-type]
