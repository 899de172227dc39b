"""What a merge method says of itself: name, paper, options, models, coefficients, combination."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args, get_origin

from speechft.errors import ConfigError, nearest, unknown_choice
from speechft.merging.coefficients import alphas, finite

if TYPE_CHECKING:
    from speechft.encoders.conversion.tensors import Buffer
    from speechft.merging.coefficients import Rules
    from speechft.merging.plan import Plan, TensorPlan
    from speechft.merging.stream import Combiner


def option(
    default: Any,
    about: str,
    *,
    above: float = -math.inf,
    low: float = -math.inf,
    high: float = math.inf,
) -> Any:
    """Declare an option of a method as a field of its class.

    The annotation is its type: ``float``, ``int``, a ``Literal`` of choices, or
    ``tuple[float, ...]`` for one number per tuned model; with ``| None`` where no value has a
    meaning of its own.

    Args:
        default: Value where it is not given.
        about: What it is, with its unit, in one line.
        above: Bound that the value must exceed.
        low: Smallest value.
        high: Largest value.
    """
    return field(
        default=default, metadata={"about": about, "above": above, "low": low, "high": high}
    )


@dataclass(frozen=True)
class Method:
    """Base of the merge methods: a subclass is a frozen dataclass whose fields are its options.

    A subclass sets the class variables, overrides `combine`, and, where it has to know whole
    tensors before the first piece is merged, `bind` or `alphas`.
    """

    name: ClassVar[str]
    """Name of the method; its file has the same, with underscores."""
    title: ClassVar[str]
    """What it does, in one line."""
    paper: ClassVar[str]
    """Where it comes from."""
    models: ClassVar[tuple[int, float]] = (1, math.inf)
    """Smallest and largest number of tuned models."""
    takes_alpha: ClassVar[bool] = True
    """Whether it has a coefficient that is given; else it finds that of every tensor itself."""
    takes_rules: ClassVar[bool] = True
    """Whether coefficients may be given by layer; else `alphas` sets that of every tensor."""

    def alphas(self, plan: Plan, alpha: float, rules: Rules | None) -> dict[str, float]:
        """Return the coefficient of every merged tensor by Hugging Face name.

        Args:
            plan: The tensors.
            alpha: The coefficient that was given.
            rules: Coefficients by layer; None for a method that does not take them.
        """
        return alphas([tensor.canonical for tensor in plan.merged], alpha, rules)

    def bind(self, plan: Plan) -> Combiner:
        """Return what merges a piece, after a look at whole tensors where the method needs it.

        Args:
            plan: The tensors, with their coefficients.
        """
        return self.combine

    def combine(
        self, tensor: TensorPlan, start: int, base: Buffer, deltas: Sequence[Buffer]
    ) -> Buffer:
        """Merge one piece of a tensor.

        Args:
            tensor: The tensor that the piece is of; its ``alpha`` is the coefficient.
            start: Index of the first element of the piece; pieces of a tensor come in order.
            base: Elements of the base, flat, float32 or float64.
            deltas: Task vectors (tuned minus base) of the same elements, one per tuned model.
        """
        raise NotImplementedError

    def check(self, models: int) -> None:
        """Refuse a number of tuned models that the method or one of its options does not fit.

        Raises:
            ConfigError: Names what was expected.
        """
        least, most = self.models
        if not least <= models <= most:
            raise ConfigError(
                f"method {self.name!r} takes {_range(least, most)}, given: {models}",
                hint="method linear takes any number of them",
            )
        for name, value in self.given().items():
            if isinstance(value, tuple) and len(value) != models:
                raise ConfigError(
                    f"{len(value)} {name} were given for {models} tuned models",
                    hint="give one per tuned model",
                )

    def given(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {f.name: values[f.name] for f in fields(self) if values[f.name] != f.default}

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Return the names of its options."""
        return tuple(f.name for f in fields(cls))

    @classmethod
    def configure(cls, options: Mapping[str, Any]) -> Self:
        """Build the method from options as text or numbers; None stands for the default.

        Raises:
            ConfigError: There is no such option, or its value is of another type or out of range.
        """
        known = {f.name: f.metadata for f in fields(cls)}
        types = typing.get_type_hints(cls)
        for name in options:
            if name not in known:
                near = nearest(str(name), known)
                raise ConfigError(
                    f"method {cls.name!r} has no option {str(name)!r}; "
                    f"its options: {', '.join(known) or 'none'}",
                    hint=f"did you mean {near!r}?" if near else None,
                )
        given = {name: value for name, value in options.items() if value is not None}
        return cls(**{n: _read(n, value, types[n], known[n]) for n, value in given.items()})

    @classmethod
    def describe(cls) -> list[str]:
        """Return name and title, and a line for each option with its default."""
        lines = [f"{cls.name}: {cls.title}", f"    {cls.paper}"]
        for one in fields(cls):
            default = "" if one.default is None else f" [{one.default}]"
            lines.append(f"    {one.name}{default}: {one.metadata['about']}")
        return lines


def _read(name: str, value: Any, kind: Any, bounds: Mapping[str, Any]) -> Any:
    """Return a value as the type of an option, within its bounds."""
    kinds = [part for part in get_args(kind) or (kind,) if part is not type(None)]
    if get_origin(kind) in (Literal, tuple):
        kinds = [kind]
    (kind,) = kinds
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise unknown_choice(name, str(value), get_args(kind))
        return value
    if get_origin(kind) is tuple:
        return tuple(_within(name, finite(v, f"one of {name}"), bounds) for v in _parts(value))
    if kind is int:
        return _within(name, _whole(name, value), bounds, "a whole number")
    return _within(name, finite(value, name), bounds)


def _parts(value: Any) -> Sequence[Any]:
    """Return the numbers of ``1,2``, ``[1, 2]``, a sequence, or a single number."""
    if isinstance(value, str):
        return value.strip().removeprefix("[").removesuffix("]").split(",")
    return value if isinstance(value, Sequence) else [value]


def _whole(name: str, value: Any) -> int:
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, int):
        raise ConfigError(f"{name} is {value!r}, expected a whole number")
    return number


def _within(name: str, value: Any, bounds: Mapping[str, Any], what: str = "a number") -> Any:
    above, low, high = bounds["above"], bounds["low"], bounds["high"]
    if above < value <= high and value >= low:
        return value
    wanted = [f"above {above:g}"] if above > -math.inf else []
    wanted += [f"from {low:g} on"] if low > -math.inf else []
    wanted += [f"up to {high:g}"] if high < math.inf else []
    raise ConfigError(f"{name} is {value}, expected {what} {' and '.join(wanted)}")


def _range(least: float, most: float) -> str:
    words = {1: "one", 2: "two", 3: "three"}
    first = words.get(int(least), f"{least:g}")
    if least == most:
        return f"{first} tuned model{'' if least == 1 else 's'}"
    return f"{first} tuned models or more" if most == math.inf else f"{first} to {most:g} models"
