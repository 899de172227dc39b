"""Commands that outputs and errors tell people to run: quoted for the shell, options included."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

_typed: ContextVar[str | None] = ContextVar("typed", default=None)
_taken: ContextVar[frozenset[str] | None] = ContextVar("taken", default=None)


@contextlib.contextmanager
def running(line: str, options: Iterable[str] | None = None) -> Iterator[None]:
    """Remember the command line that runs, for cards, reports and hints.

    Args:
        line: As `speechft.naming.public_command` shows it.
        options: What the verb takes, by name in Python; None where that is not known.
    """
    tokens = _typed.set(line), _taken.set(None if options is None else frozenset(options))
    try:
        yield
    finally:
        _typed.reset(tokens[0])
        _taken.reset(tokens[1])


def typed_command() -> str | None:
    """Return the command line that runs, with names in the stead of paths; None within Python."""
    return _typed.get()


def takes(name: str) -> bool:
    """Return whether the verb that runs has an option, so that a hint may name it.

    Within Python that is not known, and what is called is taken to have it.

    Args:
        name: Of the option in Python.
    """
    taken = _taken.get()
    return taken is None or name in taken


def option(name: str, value: str | None = None) -> str:
    """Return an option as whoever is told of it gives it: typed, or as an argument in Python.

    Args:
        name: In Python.
        value: None for a flag.
    """
    if _taken.get() is None:
        return f"{name}={True if value is None else repr(value)}"
    words = [f"--{name.replace('_', '-')}", *([] if value is None else [value])]
    return " ".join(words)


def command(
    verb: str, *arguments: str | Path, **options: str | Path | Sequence[Path] | bool | None
) -> str:
    """Return a call of `speechft` that a shell takes as it is printed.

    It is the only way to such a line: `tests/test_commands.py` gives every call of this function
    to the parser of the command line.

    Args:
        verb: Of `speechft --help`.
        *arguments: Paths as they are (with blanks too), or words in capitals for what is missing.
        **options: By their name in Python (``from_`` for ``--from``); None leaves one out, several
            values repeat it, True is a flag that is set.
    """
    words = [verb, *(_plain(argument) for argument in arguments)]
    for name, value in options.items():
        if value is None or value is False:
            continue
        option = f"--{name.strip('_').replace('_', '-')}"
        if value is True:
            words.append(option)
        else:
            for one in [value] if isinstance(value, str | Path) else value:
                words += [option, _plain(one)]
    return shell("speechft", words)


def shell(program: str, words: Iterable[str | Path]) -> str:
    """Return a call of any program, quoted for the shell."""
    return shlex.join([program, *map(str, words)])


def _plain(argument: str | Path) -> str:
    """Return an argument that no parser takes for an option."""
    text = str(argument)
    return f"./{text}" if text.startswith("-") else text
