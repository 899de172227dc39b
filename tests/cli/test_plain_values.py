"""Tests of values of the command line: read as typer reads them, without pydantic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from speechft.cli.plain_values import PlainValues, plain

FOUND: dict[str, Any] = {}


def application(cls: Any) -> typer.Typer:
    app = typer.Typer(cls=cls, pretty_exceptions_enable=False)

    @app.callback()
    def shared() -> None:
        pass

    @app.command()
    def verb(
        name: str,
        more: Annotated[list[str] | None, typer.Argument()] = None,
        out: Annotated[Path, typer.Option("--out")] = Path("here"),
        count: Annotated[int, typer.Option("--count")] = 3,
        rate: Annotated[float | None, typer.Option("--rate")] = None,
        places: Annotated[list[Path] | None, typer.Option("--place")] = None,
        quiet: Annotated[bool, typer.Option("--quiet")] = False,
    ) -> None:
        FOUND.clear()
        FOUND.update(locals())

    return app


LINES = [
    ["verb", "a"],
    ["verb"],
    ["verb", "a", "b", "c"],
    ["verb", "a", "--out", "x y", "--count", "-5", "--rate", "1e-4", "--quiet"],
    ["verb", "a", "--rate", ".25"],
    ["verb", "a", "--rate", "5."],
    ["verb", "a", "--rate", "nan"],
    ["verb", "a", "--rate", "much"],
    ["verb", "a", "--rate", ""],
    ["verb", "a", "--count", "1.5"],
    ["verb", "a", "--count", "1_000"],
    ["verb", "a", "--count", "9" * 30],
    ["verb", "ä", "--out", "ö"],
    ["verb", "", "--out", ""],
    ["verb", "a", "--place", "x", "--place", "y"],
    ["verb", "a", "--nothing"],
    ["verb", "--help"],
    ["--help"],
    ["nothing"],
]


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_values_and_refusals_are_those_of_typer(line: list[str]) -> None:
    results = []
    for cls in (PlainValues, typer.core.TyperGroup):
        FOUND.clear()
        told = CliRunner().invoke(application(cls), line)
        kinds = {n: type(v) for n, v in FOUND.items()}
        results.append((told.exit_code, told.output, repr(FOUND), kinds))
    assert results[0] == results[1]


def test_what_is_not_plainly_of_its_type_is_left_to_typer(tmp_path: Path) -> None:
    assert plain(int, "12") == 12
    assert plain(float, "2e3") == 2000.0
    assert plain(list[str], ("a", "b")) == ["a", "b"]
    assert plain(Path, str(tmp_path)) == tmp_path
    assert plain(bool, False) is False
    for kind, value in ((int, "one"), (float, "inf"), (str, "\udcff"), (Path, "a\0"), (dict, "a")):
        assert plain(kind, value) is None
    assert plain(list[int], ["1", "one"]) is None
