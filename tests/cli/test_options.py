"""Options that are read off a function: names, types, defaults and help stand there alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from speechft import cli
from speechft.cli.options import explained, options_of
from speechft.sweeping import api


def like(rate: float = 1.0) -> None:
    """Do it.

    Args:
        rate: As the other one
            says.
    """


def function(
    base: Any,
    *,
    out: str | Path,
    fast_one: bool = False,
    rate: float | str | Sequence[float] = 0.5,
    limit: int | None = None,
    names: str | Sequence[str] = (),
    pairs: Mapping[str, Any] | Sequence[str] = (),
    place: str | Sequence[str] = "here",
    **settings: Any,
) -> Nowhere:  # type: ignore[name-defined] # noqa: F821 # a heavy type is not looked at
    """Do it.

    Args:
        base: What ``it`` is.
        out: Where to: a folder.
        fast_one: Be fast.
        rate: See `like`.
        limit: At most.
        names: With commas.
        pairs: Of them.
        place: Several.
        **settings: More.

    Returns:
        Nothing.
    """


def made() -> tuple[typer.Typer, list[dict[str, Any]]]:
    app, calls = typer.Typer(), []
    shown = {
        "pairs": Annotated[list[str] | None, typer.Option("--pair", metavar="K=V")],
        "place": Annotated[list[str], typer.Option("--place")],
    }

    @app.command()
    @options_of(function, shown, like=like)
    def verb(
        out: Path, as_json: Annotated[bool, typer.Option("--json")] = False, **given: Any
    ) -> None:
        calls.append({"out": out, "as_json": as_json, **given})

    return app, calls


def test_what_is_typed_arrives_as_the_function_takes_it() -> None:
    app, calls = made()
    run = CliRunner().invoke
    assert run(app, ["b", "--out", "o"]).exit_code == 0
    defaults = {n: p.default for n, p in inspect.signature(function).parameters.items()}
    got = calls.pop()
    assert (got.pop("base"), got.pop("out"), got.pop("as_json")) == ("b", "o", False)
    nothing = {name: got.pop(name) for name in ("names", "pairs")}
    assert nothing == {"names": "", "pairs": []}
    assert got.pop("place") == ["here"]
    assert got.pop("rate") == str(defaults["rate"]), "text, where the function takes text too"
    assert got == {name: defaults[name] for name in ("fast_one", "limit")}
    typed = "b --out o --fast-one --rate 1:2 --limit 3 --names a,b --pair x=1 --pair y=2 --json"
    assert run(app, typed.split()).exit_code == 0
    assert calls.pop() == {
        "base": "b",
        "out": "o",
        "as_json": True,
        "fast_one": True,
        "rate": "1:2",
        "limit": 3,
        "names": "a,b",
        "pairs": ["x=1", "y=2"],
        "place": ["here"],
    }
    assert run(app, ["b", "--out", "o", "--no-fast-one"]).exit_code == 2, "a flag is one flag"


def test_help_is_what_the_docstring_says() -> None:
    assert explained(function)["out"] == "Where to: a folder."
    assert explained(function)["settings"] == "More."
    text = " ".join(CliRunner().invoke(made()[0], ["--help"]).output.split())
    for said in ("What it is.", "Be fast.", "As the other one says.", "At most.", "[default: 0.5]"):
        assert said in text
    assert "See `like`" not in text


@pytest.mark.parametrize("verb", ["sweep", "search"])
def test_a_verb_has_every_argument_of_its_function_once(verb: str) -> None:
    source = inspect.getsource(
        next(
            c.callback
            for c in cli.app.registered_commands
            if c.callback and c.callback.__name__ == verb
        )
    )
    arguments = inspect.signature(getattr(api, verb)).parameters.keys() - {"out"}
    assert not {name for name in arguments if f"{name}:" in source}, "they stand in the function"
    helps = explained(api.sweep) | explained(getattr(api, verb))
    assert not {name for name in arguments if not helps[name]}
