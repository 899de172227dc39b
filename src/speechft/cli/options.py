"""The options of a verb, read off the Python function that it calls, so that they stand once."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import typer

Verb = TypeVar("Verb", bound=Callable[..., None])


def options_of(
    function: Callable[..., Any],
    shown: Mapping[str, Any],
    like: Callable[..., Any] | None = None,
) -> Callable[[Verb], Verb]:
    """Give a verb the arguments of a function, before those that only the verb has.

    Names and defaults are the function's; the text of an option is what the function's docstring
    says of the argument; bool, int, float and text are told by the annotation.

    Args:
        function: What the verb calls. Its return type is not looked at.
        shown: Arguments that the command line shows in a way of its own, by name: an annotation as
            typer takes it.
        like: Where arguments are explained of which the docstring says "See `NAME`.".
    """
    told = {} if like is None else dict(explained(like))
    told |= {n: text for n, text in explained(function).items() if not text.startswith("See ")}
    hints = get_type_hints(
        types.SimpleNamespace(
            __annotations__={n: a for n, a in function.__annotations__.items() if n != "return"}
        ),
        globalns=getattr(inspect.unwrap(function), "__globals__", {}),
    )

    def decorate(verb: Verb) -> Verb:
        taken = {
            name: _as_typed(given, shown.get(name) or _option(given, hints[name], told[name]))
            for name, given in inspect.signature(function).parameters.items()
            if given.kind is not given.VAR_KEYWORD
        }
        own = inspect.signature(verb, eval_str=True).parameters
        further = [p for n, p in own.items() if n not in taken and p.kind is not p.VAR_KEYWORD]
        both = [p.replace(kind=p.KEYWORD_ONLY) for p in (*taken.values(), *further)]
        verb.__signature__ = inspect.Signature(both)  # type: ignore[attr-defined]
        verb.__annotations__ = {p.name: p.annotation for p in both} | {"return": None}
        return verb

    return decorate


def _option(parameter: inspect.Parameter, hint: Any, said: str) -> Any:
    """Return an argument as typer takes it, of the simplest type that the function takes."""
    if parameter.kind is not parameter.KEYWORD_ONLY:
        return Annotated[str, typer.Argument(help=said)]
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    simple = next((one for one in (bool, str, int, float) if one in kinds), str)
    if simple is bool:
        return Annotated[bool, typer.Option(f"--{parameter.name.replace('_', '-')}", help=said)]
    kind = simple | None if type(None) in kinds else simple
    return Annotated[kind, typer.Option(help=said)]


def _as_typed(parameter: inspect.Parameter, kind: Any) -> inspect.Parameter:
    """Return it with a default as typer has it: nothing is an empty list, or an empty text."""
    default, listed = parameter.default, "list" in str(get_args(kind)[0])
    if default == ():
        default = [] if listed else ""
    elif listed and isinstance(default, str):
        default = [default]
    return parameter.replace(annotation=kind, default=default)


@functools.cache
def explained(function: Callable[..., Any]) -> Mapping[str, str]:
    """Return what a docstring says of each argument, on one line."""
    text = inspect.getdoc(function) or ""
    _, _, rest = text.partition("\nArgs:\n")
    section = re.split(r"\n(?=\S)", rest, maxsplit=1)[0]
    entries = re.split(r"^ {4}(?=\S)", section, flags=re.MULTILINE)[1:]
    pairs = (entry.partition(":")[::2] for entry in entries)
    return {name.strip("*"): " ".join(said.replace("``", "").split()) for name, said in pairs}
