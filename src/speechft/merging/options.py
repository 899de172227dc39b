"""Options of the merge methods, with their defaults and which method takes which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from speechft.errors import ConfigError, unknown_choice
from speechft.merging.coefficients import finite
from speechft.merging.methods import METHODS

CHOICES: dict[str, tuple[str, ...]] = {
    "trim": ("global", "tensor"),
    "election": ("unweighted", "weighted", "frequency"),
    "divisor": ("count", "weight", "none"),
    "rescale": ("density", "l1", "none"),
}

USED_BY: dict[str, tuple[str, ...]] = {
    "weights": ("task-arithmetic", "ties", "dare-linear", "dare-ties"),
    "density": ("ties", "dare-linear", "dare-ties"),
    "trim": ("ties",),
    "election": ("ties", "dare-ties"),
    "divisor": ("ties", "dare-ties"),
    "rescale": ("dare-linear", "dare-ties"),
    "seed": ("dare-linear", "dare-ties"),
    "first": ("lines",),
}
"""Which methods look at which option; for others a value is an error."""


@dataclass(frozen=True)
class Options:
    """Options of the methods; None stands for the method's default."""

    weights: tuple[float, ...] | None = None
    """One weight per tuned model, default 1."""
    density: float | None = None
    """Share of each task vector's entries that is kept: default 0.2 for ties, 0.5 for dare."""
    trim: Literal["global", "tensor"] | None = None
    """ties: one threshold over the whole model (the reference, default) or one per tensor (PEFT,
    mergekit)."""
    election: Literal["unweighted", "weighted", "frequency"] | None = None
    """ties, dare-ties: what is summed for the sign: entries (reference, PEFT's total; default),
    entries times weights (mergekit), or signs (PEFT's frequency)."""
    divisor: Literal["count", "weight", "none"] | None = None
    """ties, dare-ties: the agreeing entries are divided by their number (reference, PEFT; default),
    by their weights (mergekit's ties; default of a weighted election), or not (mergekit's
    dare_ties)."""
    rescale: Literal["density", "l1", "none"] | None = None
    """dare: divide by the density (paper, PEFT; default), restore the L1 norm (mergekit), or
    neither."""
    seed: int | None = None
    """dare: seed of the masks, default 0."""
    first: float | None = None
    """lines: coefficient of the first layer, default 0; alpha is the last layer's."""

    def given(self) -> dict[str, Any]:
        """Return the options that have a value."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def make_options(given: Mapping[str, Any]) -> Options:
    """Build the options of a method.

    Raises:
        ConfigError: There is no such option.
    """
    for name in given:
        if name not in option_names():
            raise unknown_choice("merge option", name, option_names())
    values = dict(given)
    for name in ("density", "first"):
        if values.get(name) is not None:
            values[name] = finite(values[name], name)
    if values.get("weights") is not None:
        weights = values["weights"]
        parts = weights.split(",") if isinstance(weights, str) else weights
        parts = [parts] if isinstance(parts, int | float) else parts
        values["weights"] = tuple(finite(w, "a weight") for w in parts)
    return Options(**values)


def check_options(method: str, options: Options, models: int) -> None:
    """Refuse options that the method ignores, values out of range, and wrong numbers of models.

    Raises:
        ConfigError: Names the option, what was expected, and where it is used.
    """
    if method not in METHODS:
        raise unknown_choice("merge method", method, METHODS)
    for name, value in options.given().items():
        if method not in USED_BY[name]:
            raise ConfigError(
                f"method {method!r} has no option {name!r}",
                hint=f"{name} is for {', '.join(USED_BY[name])}",
            )
        if name in CHOICES and value not in CHOICES[name]:
            raise unknown_choice(name, str(value), CHOICES[name])
    if options.weights is not None and len(options.weights) != models:
        raise ConfigError(
            f"{len(options.weights)} weights were given for {models} tuned models",
            hint="give one weight per tuned model",
        )
    if options.seed is not None and not (isinstance(options.seed, int) and options.seed >= 0):
        raise ConfigError(f"seed is {options.seed!r}, expected a whole number from 0 on")
    if options.density is not None and not 0 < options.density <= 1:
        raise ConfigError(f"density is {options.density}, expected a share above 0 and up to 1")
    if method == "model-stock" and models < 2:
        raise ConfigError(
            "method 'model-stock' needs two tuned models or more",
            hint="it reads the ratio off the angle between them; use linear for one model",
        )
    if method == "slerp" and models != 1:
        raise ConfigError(f"method 'slerp' takes one tuned model, given: {models}")


def option_names() -> tuple[str, ...]:
    """Return the names of all options."""
    return tuple(f.name for f in fields(Options))
