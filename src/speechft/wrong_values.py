"""What a schema refuses, in words: where, what was expected, what was given, the nearest choice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from speechft.errors import nearest
from speechft.typed_text import choices, fields_of

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a section of keys and values",
    "model": "a section of keys and values",
    "dataclass": "a section of keys and values",
}
"""By the beginning of pydantic's name for a problem."""
_SHOWN = 100
"""Characters of a given value."""


def in_words(
    error: ValidationError, kind: type[BaseModel], content: Mapping[str, Any]
) -> tuple[str, str | None]:
    """Return what is wrong, problem by problem, and a hint.

    Args:
        error: What pydantic found.
        kind: The configuration class.
        content: What was validated.
    """
    expected: dict[str, list[str]] = {}
    given: dict[str, Any] = {}
    lines: list[str] = []
    hints: list[str] = []
    for problem in error.errors():
        missing = problem["type"] == "missing"
        place = ".".join(_place(problem["loc"], content, missing)) or "(top level)"
        if problem["type"] in _UNKNOWN:
            valid = sorted(_fields_at(kind, problem["loc"][:-1]))
            lines.append(f"unknown key {place!r}; valid keys there: {', '.join(valid)}")
            hints += _meant(str(problem["loc"][-1]), valid, kind)
        elif missing:
            lines.append(f"{place} is missing")
        elif problem["type"] in ("value_error", "assertion_error"):
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{place}: {message} (given: {_shown(problem['input'])})")
        else:
            given[place] = problem["input"]
            expected.setdefault(place, []).append(_expected(problem))
            named = re.findall(r"'([^']*)'", str(problem.get("ctx", {}).get("expected", "")))
            near = nearest(str(problem["input"]), named)
            hints += [f"did you mean {near!r}?"] if near else []
    for place, whats in expected.items():
        told = " or ".join(dict.fromkeys(whats))
        lines.append(f"{place}: expected {told} (given: {_shown(given[place])})")
    return "; ".join(lines), next(iter(hints), None)


def _expected(problem: Mapping[str, Any]) -> str:
    """Return what would have been right, without pydantic's words for Python's types."""
    kind = str(problem["type"])
    if kind.endswith(("_type", "_parsing", "_from_float")):
        for start, words in _KINDS.items():
            if kind.startswith(start):
                return words
    message = str(problem["msg"]).removeprefix("Input should be ")
    if message.startswith(("greater", "less")):
        return f"a value {message}"
    return (
        f"one of {message}" if kind in ("literal_error", "enum") and " or " in message else message
    )


def _place(location: Sequence[int | str], content: Any, missing: bool) -> Iterator[str]:
    """Yield the keys of a place as they stand in the content, without names of union members."""
    node = content
    for number, part in enumerate(location, 1):
        inside = isinstance(node, Mapping) and part in node
        if inside or (isinstance(node, (list, tuple)) and isinstance(part, int)):
            node = node[part]
            yield str(part)
        elif missing and number == len(location):
            yield str(part)


def _meant(key: str, valid: Sequence[str], kind: type[BaseModel]) -> list[str]:
    """Return a hint at the nearest key there, or at the same one in a section."""
    leaves = {path: path.rpartition(".")[2] for path in _paths(kind)}
    wanted = key if key in leaves.values() else nearest(key, valid)
    if wanted not in valid:
        wanted = wanted or nearest(key, leaves.values())
        found = [path for path, leaf in leaves.items() if leaf == wanted]
        return [f"did you mean {' or '.join(map(repr, found[:3]))}?"] if found else []
    return [f"did you mean {wanted!r}?"]


def _paths(kind: type, above: str = "", depth: int = 3) -> Iterator[str]:
    """Yield the keys of all sections below a configuration."""
    for name, annotation in fields_of(kind).items():
        if above:
            yield f"{above}{name}"
        for part in choices(annotation):
            if depth and isinstance(part, type):
                yield from _paths(part, f"{above}{name}.", depth - 1)


def _fields_at(kind: type[BaseModel], location: Sequence[int | str]) -> dict[str, Any]:
    """Return the fields of the section at a place below ``kind``."""
    current: Any = kind
    for part in location:
        annotation = fields_of(current).get(str(part))
        for candidate in (annotation, *get_args(annotation)):
            if isinstance(candidate, type) and fields_of(candidate):
                current = candidate
    return fields_of(current)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."
