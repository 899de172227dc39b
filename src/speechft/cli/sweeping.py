"""The verbs that look for a merge: sweep and search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from speechft.cli import complete
from speechft.cli.app import CORPUS_NAMES, Device, Json, Out, Overwrite, Set, app
from speechft.cli.merging import Allow, Force, Options
from speechft.cli.options import options_of
from speechft.commands import command
from speechft.console import say
from speechft.sweeping import api

SHOWN: dict[str, Any] = {
    "tuned": Annotated[list[str], typer.Argument(metavar="TUNED...", help="Tuned from the base.")],
    "out": Out,
    "tasks": Annotated[
        str,
        typer.Option(help="Tasks with commas, or 'available'.", autocompletion=complete.tasks),
    ],
    "corpus": Annotated[
        list[str],
        typer.Option(
            *CORPUS_NAMES,
            help="Corpus; repeatable. [default: what TUNED was tuned on]",
            autocompletion=complete.corpora,
        ),
    ],
    "options": Options,
    "rules": Annotated[
        list[str] | None, typer.Option("--alpha-rule", help="Parts that do not move; see merge.")
    ],
    "device": Device,
    "allow": Allow,
    "force": Force,
    "overrides": Set,
    "overwrite": Overwrite,
}
"""Arguments of both that are shown in a way of their own; the others are read off the functions."""


@app.command()
@options_of(api.sweep, SHOWN)
def sweep(out: Path, as_json: Json = False, **given: Any) -> None:
    """Find the alpha to merge with: measure merges on dev, none of them written to disk.

    Example: speechft sweep tiny-hubert runs/sid/encoder --tasks sid,pr --out runs/sweep
    """
    from speechft.console import print_table
    from speechft.sweeping.judging import in_words
    from speechft.sweeping.table import table

    found = api.sweep(out=out, **given)
    if as_json:
        told = [row.as_dict() for row in found.rows]
        told += [found.suggestion.as_dict()] if found.suggestion else []
        say("\n".join(map(json.dumps, told)))
        return
    if found.suggestion:
        say(f"suggested alpha (not yet judged): {found.suggestion.alpha:g}")
        say(f"{found.suggestion.reason}\nwrote {out / 'suggestion.json'}")
        say(f"next: {found.command}")
        return
    print_table("points gained over the base on dev, in brackets paired 90 %", *table(found))
    say(f"wrote {out / 'results.jsonl'}, {out / 'sweep.json'}")
    if found.choice is not None:
        say(f"choice: {found.choice.point.name}")
    say(in_words(found.judged, found.choice, found.tuned_on))
    if found.command is not None:
        say(f"next: {found.command}")


@app.command()
@options_of(api.search, SHOWN, like=api.sweep)
def search(out: Path, as_json: Json = False, **given: Any) -> None:
    """Search alphas by layer group, and a method: on one half of dev, chosen on the other.

    Example: speechft search tiny-hubert runs/sid/encoder --tasks sid,pr --out runs/search
    """
    from speechft.console import print_table
    from speechft.sweeping.judging import in_words
    from speechft.sweeping.table import table

    found = api.search(out=out, **given)
    if as_json:
        say("\n".join(json.dumps(row.as_dict()) for row in found.rows))
        return
    title = "points gained over the base on the half of dev that chooses, in brackets paired 90 %"
    print_table(title, *table(found))
    say(f"wrote {out / 'results.jsonl'}, {out / 'search.json'}, {found.config}")
    say(f"choice: {found.choice.point.name}")
    say(in_words(found.judged, found.choice, found.tuned_on))
    if found.choice is not found.judged[0]:
        say(f"next: {command('merge', config=found.config, out='merged')}")
