"""The verbs that list what there is: recipes, corpora, tasks."""

from __future__ import annotations

import json

from speechft.cli.app import Json, app
from speechft.console import say


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the packaged recipes, and the verbs that take them."""
    from speechft.recipe_files import packaged_recipes, read_recipe, verbs_of

    found = {}
    for name in packaged_recipes():
        content = read_recipe(name)
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


def _list(entries: dict[str, str], as_json: bool) -> None:
    if as_json:
        say(json.dumps(entries))
        return
    width = max(map(len, entries))
    for name, text in entries.items():
        say(f"{name:{width}}  {text}")
