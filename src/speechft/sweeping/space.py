"""What is searched: coefficients by group of layers, and methods."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from speechft.errors import ConfigError
from speechft.merging.coefficients import last_layer
from speechft.merging.methods import find_method
from speechft.sweeping.settings import Point, SweepSettings

if TYPE_CHECKING:
    import optuna

STEP = 0.05
"""Of the coefficients that are tried."""


@dataclass(frozen=True)
class SearchSettings:
    """What is searched."""

    sweep: SweepSettings
    """Encoders, tuned tasks and rule; its coefficients are the first that are tried."""
    methods: tuple[str, ...] = ("linear",)
    """Merge methods to choose from."""
    groups: int = 3
    """Groups of neighbouring layers with a coefficient each."""
    trials: int = 30
    """Merges to measure."""

    def __post_init__(self) -> None:
        """Check what can be checked without the models.

        Raises:
            ConfigError: A method takes no coefficients by layer, or there is nothing to search.
        """
        for name, value in (("groups", self.groups), ("trials", self.trials)):
            if value < 1:
                raise ConfigError(f"{name} is {value}, expected a whole number from 1 on")
        if not self.methods:
            raise ConfigError("no method to search", hint="give --methods linear")
        for name in self.methods:
            kind = find_method(name)
            if not (kind.takes_alpha and kind.takes_rules):
                raise ConfigError(
                    f"method {name!r} sets alpha per tensor itself: there is nothing to search",
                    hint="take methods such as linear, ties or dare-ties",
                )


@dataclass(frozen=True)
class Space:
    """Coefficients by group of tensors, and methods."""

    settings: SearchSettings
    groups: dict[str, tuple[str, ...]]
    """Selectors by name of the group."""

    @classmethod
    def of(cls, settings: SearchSettings, names: Sequence[str]) -> Space:
        """Return the space of an encoder with such names of tensors.

        Raises:
            ConfigError: It has fewer layers than groups are asked for.
        """
        count, groups = last_layer(names) + 1, settings.groups
        if count < groups:
            raise ConfigError(
                f"{groups} groups of layers were asked for; the encoder has {count} layers",
                hint=f"--groups {count}" if count else "its names are not known",
            )
        ends = [count * n // groups for n in range(groups + 1)]
        made = {
            f"layers.{a}-{b - 1}": (f"layers.{a}-{b - 1}",) for a, b in itertools.pairwise(ends)
        }
        return cls(settings, {"rest": (), **made})

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw a trial."""
        methods = list(self.settings.methods)
        drawn: dict[str, Any] = {
            name: trial.suggest_float(name, 0.0, 1.0, step=STEP) for name in self.groups
        }
        drawn["method"] = trial.suggest_categorical("method", methods)
        return drawn

    def even(self, alpha: float) -> dict[str, Any]:
        """Return the trial with one coefficient for all."""
        return {**dict.fromkeys(self.groups, alpha), "method": self.settings.methods[0]}

    def point(self, drawn: Mapping[str, Any], name: str) -> Point:
        """Return the merge of a trial; what is not in a layer has the coefficient of ``rest``."""
        numbers = {n: round(float(drawn[n]), 4) for n in self.groups}
        rules = {s: numbers[n] for n, selectors in self.groups.items() for s in selectors}
        method, merge = str(drawn["method"]), self.settings.sweep.merge
        options = merge.options if method == merge.method else {}
        made = merge.only(method=method, options=options, alpha=numbers["rest"], rules=rules)
        return Point(numbers["rest"], None, made, name)
