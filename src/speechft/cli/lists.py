"""The verbs that list what there is: recipes, corpora, tasks, and the state of shared work."""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechft.cli.app import Json, app
from speechft.commands import command
from speechft.console import say

if TYPE_CHECKING:
    from speechft.storage.uploads import Standing


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the packaged recipes, and the verbs that take them."""
    from speechft.recipe_files import packaged_recipes, read_recipe, verbs_of
    from speechft.storage.files import read_yaml

    found, read = {}, functools.cache(read_yaml)
    for name in packaged_recipes():
        content = read_recipe(name, read)
        found[name] = {"title": content["title"], "verbs": verbs_of(content)}
    if as_json:
        say(json.dumps(found))
    else:
        _list({n: f"{r['title']} ({' or '.join(r['verbs'])})" for n, r in found.items()}, as_json)


@app.command()
def corpora(as_json: Json = False) -> None:
    """List the corpora."""
    from speechft.data.corpora import cards

    if as_json:
        say(json.dumps({name: vars(card) for name, card in cards().items()}))
    else:
        _list({name: card.line() for name, card in cards().items()}, as_json)


@app.command()
def tasks(as_json: Json = False) -> None:
    """List the tasks; any other column of labels is one too, as label:COLUMN."""
    from speechft.tasks import BY_NAME, TASKS

    known = {**TASKS, **BY_NAME}
    _list({name: f"{t.title}; {t.metric}; needs {t.label}" for name, t in known.items()}, as_json)


@app.command()
def status(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder or address of results.")],
    as_json: Json = False,
) -> None:
    """Show what processes are at in a folder, what they have left, and what is complete.

    Example: speechft status runs/eval
    """
    from speechft import progress
    from speechft.console import print_table
    from speechft.storage.remote import address_of
    from speechft.storage.uploads import standing

    units = [unit.as_dict() for unit in progress.status(out)]
    counts = Counter(unit["state"] for unit in units)
    complete, written = progress.complete(out), progress.written(out)
    address = address_of(out)
    there = None if address is None else standing(address)
    if as_json:
        told = {"complete": complete, "written": written, "there": there and vars(there)}
        say(json.dumps({"units": units, "counts": counts, **told}))
        return
    if there is not None:
        say(f"{address}: {_standing(there)}")
    if units:
        cells = [[_name(u, out), u["state"], _where(u), _since(u), _note(u)] for u in units]
        print_table(str(out), ["part", "state", "by", "minutes ago", "note"], cells)
        say(", ".join(f"{number} {state}" for state, number in counts.items()))
        if not {"running", "free"} & counts.keys():
            say("no process is at work; the command that began it, given again, does what is left")
    else:
        where = f"in {out}" if there is None else "at it on this machine"
        say(f"no process is at work {where}, and nothing is left or failed")
    if complete:
        stages = Counter(complete.values())
        say("complete: " + ", ".join(f"{n} ({c})" if c > 1 else n for n, c in stages.items()))
    elif written:
        more = f" and {len(written) - 5} more" * (len(written) > 5)
        say(f"complete: {', '.join(written[:5])}{more}; what it is: {command('inspect', out)}")
    _say_figures(out, there)


def _standing(there: Standing) -> str:
    if there.whole:
        return f"complete, {len(there.files)} file{'s' * (len(there.files) > 1)}"
    if there.files:
        count = "some" if there.there is None else there.there
        told = f"partly moved up, {count} of {len(there.files)} files"
        return f"{told}: the command that wrote it completes it"
    return "nothing is there yet: outputs are moved up when the command has ended"


def _say_figures(out: Path, there: Standing | None) -> None:
    from speechft.progress import FIGURES
    from speechft.storage.uploads import path_here

    if there is None:
        found = [path_here(out) / name for name in FIGURES if (path_here(out) / name).is_file()]
    else:
        found = [out / name for name in FIGURES if there.whole and name in there.files]
    if found:
        say(f"results: {', '.join(map(str, found))}")


def _name(unit: Mapping[str, Any], out: Path) -> str:
    return str(out if unit["unit"] == "." else unit["unit"])


def _note(unit: Mapping[str, Any]) -> str:
    step = unit["step"]
    return unit["why"] or ("" if step is None else f"its last checkpoint is of step {step}")


def _where(unit: Mapping[str, Any]) -> str:
    return f"{unit['host']}, process {unit['pid']}" if unit.get("host") else ""


def _since(unit: Mapping[str, Any]) -> str:
    since = unit["since"]
    return f"{(time.time() - since) / 60:.0f}" if isinstance(since, int) else ""


def _list(entries: dict[str, str], as_json: bool) -> None:
    if as_json:
        say(json.dumps(entries))
        return
    width = max(map(len, entries))
    for name, text in entries.items():
        say(f"{name:{width}}  {text}")
