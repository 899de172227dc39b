"""What is swept: coefficients as typed, parts of the encoder, and the user's rule; light."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, get_args

from speechft.commands import command
from speechft.errors import ConfigError, unknown_choice
from speechft.merging.coefficients import KINDS, finite, last_layer, selects
from speechft.merging.config import MergeSettings
from speechft.merging.methods import find_method

By = Literal["layers", "module"]
"""Parts of an encoder that are swept apart: its layers, or its kinds of modules."""
MOST = 1001
"""Coefficients of a sweep at most."""
LEVEL = 0.90
"""Of the paired intervals that rule and curves go by."""


@dataclass(frozen=True)
class Rule:
    """What a merge may cost elsewhere: the upper bound of the loss, not its point, is within it."""

    keep_within: float = 1.0
    """Points of a task's metric that may be lost on each task that was not tuned on."""

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            ConfigError: It is no number, or negative.
        """
        if finite(self.keep_within, "keep_within") < 0:
            raise ConfigError(
                f"keep_within is {self.keep_within:g}, expected a number of points from 0 on"
            )

    def keeps(self, lost: float) -> bool:
        """Return whether an upper bound of what is lost, in points, is within it."""
        return lost <= self.keep_within


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """Which encoders are merged how, and what is asked of the result."""

    base: Any
    """As `speechft.merge` takes it."""
    tuned: tuple[Any, ...]
    """Encoders tuned from it."""
    merge: MergeSettings = field(default_factory=MergeSettings)
    """Method, options, weight norm and type; the coefficient is what is swept."""
    alphas: tuple[float, ...] = ()
    """Coefficients."""
    by: By | None = None
    """Parts that are swept apart; None sweeps the encoder as a whole."""
    tuned_on: tuple[str, ...] = ()
    """Tasks that were tuned on; empty asks the folder of the tuned encoders."""
    rule: Rule = Rule()
    """What may be lost elsewhere."""

    @property
    def places(self) -> tuple[Any, ...]:
        """Return base and tuned encoders as they were given."""
        return (self.base, *self.tuned)

    def __post_init__(self) -> None:
        """Check what can be checked without the models.

        Raises:
            ConfigError: Method, coefficients and parts do not go together.
        """
        if self.by is not None and self.by not in get_args(By):
            raise unknown_choice("by", self.by, get_args(By))
        if not find_method(self.merge.method).takes_alpha:
            once = command("merge", "BASE", "TUNED...", method=self.merge.method, out="OUT")
            raise ConfigError(
                f"method {self.merge.method!r} finds the alpha of every tensor itself: there is "
                "nothing to sweep",
                hint=f"merge with it once, {once}, and evaluate OUT",
            )
        if self.merge.alpha is not None:
            raise ConfigError("a sweep has alphas; leave alpha out")
        if self.by is not None and not self.merge.takes_rules:
            raise ConfigError(
                f"method {self.merge.method!r} sets alpha per tensor itself and takes no parts",
                hint="leave --by out, or take another method",
            )
        if self.by is not None and self.merge.rules:
            raise ConfigError("alpha rules and --by both say which part moves; give one of them")


def read_alphas(given: Any, *, extrapolate: bool = False) -> tuple[float, ...]:
    """Return coefficients in ascending order, each once.

    Args:
        given: ``FIRST:LAST:STEP``, both ends included; numbers with commas; a number or several.
        extrapolate: Let them lie outside 0 to 1.

    Raises:
        ConfigError: It cannot be read, is empty, or a coefficient lies outside 0 to 1.
    """
    if isinstance(given, str) and ":" in given:
        found = _range(given)
    else:
        parts = given.split(",") if isinstance(given, str) else given
        parts = parts if isinstance(parts, Sequence) else [parts]
        found = [_number(part, given) for part in parts]
    if not found:
        raise _unreadable(given, "it holds none")
    alphas = tuple(sorted({alpha + 0.0 for alpha in found}))  # -0.0 is 0
    outside = [alpha for alpha in alphas if not 0 <= alpha <= 1]
    if outside and not extrapolate:
        raise ConfigError(
            f"alpha {', '.join(f'{alpha:g}' for alpha in outside[:4])} lies outside 0 (base) to 1 "
            "(tuned)",
            hint="--extrapolate takes it nevertheless",
        )
    return alphas


def _range(given: str) -> list[float]:
    parts = given.split(":")
    if len(parts) != 3:
        raise _unreadable(given, f"it has {len(parts)} parts")
    try:
        first, last, step = (Decimal(part.strip()) for part in parts)
    except InvalidOperation:
        raise _unreadable(given, "a part is no number") from None
    if not all(number.is_finite() for number in (first, last, step)):
        raise _unreadable(given, "a part is not finite")
    if step <= 0 or last < first:
        raise _unreadable(
            given, "the step is not positive" if step <= 0 else "it ends before it starts"
        )
    if (last - first) / step >= MOST:
        raise _unreadable(given, f"it holds more than {MOST} coefficients")
    count = int((last - first) / step)
    return [float(first + n * step) for n in range(count + 1)]


def _number(part: Any, given: Any) -> float:
    if isinstance(part, str) and not part.strip():
        raise _unreadable(given, "a part is empty")
    try:
        return finite(part, "alpha")
    except ConfigError as error:
        raise _unreadable(given, error.message) from None


def _unreadable(given: Any, why: str) -> ConfigError:
    return ConfigError(
        f"alphas {given!r} cannot be read: {why}",
        hint="write FIRST:LAST:STEP such as 0:1:0.1, or numbers with commas: 0,0.1,0.25",
    )


@dataclass(frozen=True)
class Point:
    """One merge of a sweep."""

    alpha: float
    part: str | None
    """Selector of the tensors that move, all others stay those of the base; None: all move."""
    settings: MergeSettings
    label: str | None = None
    """Name in tables, where it has one of its own."""

    @property
    def name(self) -> str:
        """Name of the merged encoder in tables."""
        if self.label is not None:
            return self.label
        return f"alpha {self.alpha:g}" if self.part is None else f"{self.part} at {self.alpha:g}"


def points_of(settings: SweepSettings, names: Sequence[str]) -> list[Point]:
    """Return the merges of a sweep; the first is the base, alpha 0, which all are compared with.

    Args:
        settings: What is swept.
        names: Hugging Face names of the tensors.
    """
    merge = settings.merge
    found = [Point(0.0, None, merge.only(alpha=0.0, rules={}))]
    moving = [alpha for alpha in settings.alphas if alpha != 0]
    for part in [None] if settings.by is None else parts_of(settings.by, names):
        for alpha in moving:
            changed = {"alpha": alpha} if part is None else {"alpha": 0.0, "rules": {part: alpha}}
            found.append(Point(alpha, part, merge.only(**changed)))
    return found


def parts_of(by: By, names: Sequence[str]) -> list[str]:
    """Return the selectors of the parts of an encoder that there are.

    Args:
        by: Layers, from the first to the last, after what lies before them; or kinds of modules.
        names: Hugging Face names of its tensors.
    """
    layers = [f"layers.{number}" for number in range(last_layer(names) + 1)]
    before = [kind for kind in KINDS if kind in ("cnn", "projection", "position")]
    wanted = [*before, *layers] if by == "layers" else [kind for kind in KINDS if kind != "mask"]
    found = [part for part in wanted if any(map(selects(part), names))]
    if by == "layers" and not layers:
        raise ConfigError("the encoder has no layers whose names are known", hint="--by module")
    return found


def upper_bound_text(rule: Rule) -> str:
    """Return the rule in words."""
    amount = f"{rule.keep_within:g} point{'' if math.isclose(rule.keep_within, 1) else 's'}"
    return (
        f"at most {amount} lost on every other task, at the upper end of the paired {LEVEL:.0%} "
        "interval on dev"
    )
