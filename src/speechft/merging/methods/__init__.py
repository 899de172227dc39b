"""The merge methods: a file for each, which says all of itself, and the list of them.

A method is added by its file, a subclass of `speechft.merging.method.Method`, and a line in
`METHODS`. What several methods share lies beside them: `election`, `dropping`, `thresholds`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from speechft.errors import ConfigError, nearest
from speechft.merging.method import Method


class Methods(Mapping[str, type[Method]]):
    """Methods by name; the file of one is imported when it is asked for, since numpy is slow."""

    def __init__(self, classes: Mapping[str, str]) -> None:
        self._classes = dict(classes)

    def __getitem__(self, name: str) -> type[Method]:
        """Return the class of a method.

        Raises:
            KeyError: There is no such method.
        """
        file, _, kind = self._classes[name].partition(".")
        found: type[Method] = getattr(importlib.import_module(f"{__name__}.{file}"), kind)
        return found

    def __contains__(self, name: object) -> bool:
        """Tell whether there is a method of this name."""
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._classes)

    def __len__(self) -> int:
        """Return the number of methods."""
        return len(self._classes)


METHODS = Methods(
    {
        "linear": "linear.Linear",
        "task-arithmetic": "task_arithmetic.TaskArithmetic",
        "ties": "ties.Ties",
        "dare-linear": "dare_linear.DareLinear",
        "dare-ties": "dare_ties.DareTies",
        "model-stock": "model_stock.ModelStock",
        "lines": "lines.Lines",
        "slerp": "slerp.Slerp",
    }
)
"""All methods, by name: file and class."""


def find_method(name: Any) -> type[Method]:
    """Return the class of a method.

    Raises:
        ConfigError: There is no such method; says what there is.
    """
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    width = max(map(len, METHODS))
    choices = "".join(f"\n  {known:{width}}  {METHODS[known].title}" for known in METHODS)
    near = nearest(str(name), METHODS)
    raise ConfigError(
        f"unknown merge method {str(name)!r}; choices are:{choices}",
        hint=f"did you mean {near!r}?" if near else None,
    )


def configure(name: str, options: Mapping[str, Any]) -> Method:
    """Return a method with its options.

    Raises:
        ConfigError: There is no such method or option, or a value is wrong.
    """
    kind = find_method(name)
    others = [one for one in options if one not in kind.option_names()]
    takers = [n for n in METHODS if others and others[0] in METHODS[n].option_names()]
    if takers:
        raise ConfigError(
            f"method {name!r} has no option {others[0]!r}",
            hint=f"{others[0]} is for {', '.join(takers)}",
        )
    return kind.configure(options)


def describe_methods() -> list[str]:
    """Return a line for each method and for each of its options."""
    return [line for method in METHODS.values() for line in method.describe()]
