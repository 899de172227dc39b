"""Text, paths and numbers of the command line without pydantic, which typer imports to read them.

Half of what a light verb took was that import. Whatever is not plainly of its type goes the way of
typer, which says what is wrong with it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, get_args, get_origin

from typer import core

_NUMBERS = {
    int: re.compile(r"[+-]?[0-9]{1,15}", re.ASCII),
    float: re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,2})?", re.ASCII | re.I),
}


class PlainValues(core.TyperGroup):
    """The group of verbs: its options, and those of each verb, read plain values themselves."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options that stand before the verb."""
        return [_reading_plainly(param) for param in super().get_params(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a verb by its name."""
        verb = super().get_command(ctx, cmd_name)
        if verb is not None:
            for param in verb.get_params(ctx):
                _reading_plainly(param)
        return verb


def _reading_plainly(param: Any) -> Any:
    """Have an option or argument try `plain` before typer reads it, and return it."""
    kind = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    typers = param.process_value
    if kind is None or getattr(typers, "reads_plainly", False):
        return param  # typers before 0.29 import no pydantic
    several = param.multiple or param.nargs == -1

    def process_value(ctx: Any, value: Any) -> Any:
        absent = value is None or (several and not value)
        read = plain(kind, value)
        if (absent and param.required) or (read is None and not absent):
            return typers(ctx, value)
        if absent:
            read = () if several else None
        return read if param.callback is None else param.callback(ctx, param, read)

    process_value.reads_plainly = True  # type: ignore[attr-defined] # a mark on a function
    param.process_value = process_value
    return param


def plain(kind: Any, value: Any) -> Any:
    """Return a value that was typed, or a default, as what it is; None where that is not plain.

    Args:
        kind: What the verb says that it is: ``str``, ``Path``, ``int``, ``float``,
            ``bool``, or a list of one of them.
        value: Text, a default of that type, or several of either.
    """
    if get_origin(kind) is list:
        if not isinstance(value, (list, tuple)):
            return None
        items = [plain(get_args(kind)[0], item) for item in value]
        return None if None in items else items
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind in _NUMBERS:
        if type(value) is kind:
            return value
        return kind(value) if isinstance(value, str) and _NUMBERS[kind].fullmatch(value) else None
    if kind is str and isinstance(value, str):
        return value if value.isascii() else None
    if kind is Path and isinstance(value, (str, Path)):
        path = Path(value)
        is_plain = str(path).isascii() and "\0" not in str(path)
        return path if is_plain and (os.access(path, os.R_OK) or not path.exists()) else None
    return None
