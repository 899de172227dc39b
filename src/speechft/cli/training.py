"""The verbs that train: demo, run, finetune, pretrain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from speechft.cli import complete
from speechft.cli.app import CORPUS_NAMES, Device, Json, Out, Overwrite, Set, app
from speechft.commands import command
from speechft.console import for_machines, say

Recipe = Annotated[
    str, typer.Argument(help="Packaged name or YAML file.", autocompletion=complete.recipes)
]
Corpus = Annotated[
    str | None,
    typer.Option(
        *CORPUS_NAMES,
        help="Instead of the recipe's: name, CSV or folder.",
        autocompletion=complete.corpora,
    ),
]


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    corpus: Corpus = None,
    device: Device = "auto",
    set_: Set = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Run the whole method on embedded speech in minutes; the same as `run demo`.

    Example: speechft demo --out runs/demo
    """
    run("demo", out, corpus, device, set_, overwrite, as_json)


@app.command()
def run(
    recipe: Recipe,
    out: Out,
    corpus: Corpus = None,
    device: Device = "auto",
    set_: Set = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fine-tune, merge, evaluate and report, by a recipe; run it again to go on after a stop.

    Example: speechft run demo --out runs/mine --corpus my.csv
    """
    from speechft import api
    from speechft.results import Role
    from speechft.tasks import find_task

    with for_machines(as_json):
        done = api.run(
            recipe,
            out=out,
            corpus=corpus,
            device=device,
            overrides=set_ or (),
            overwrite=overwrite,
        )
    if done is None:  # a further process
        return
    if as_json:
        say(json.dumps(done.as_dict()))
        return
    probed = dict.fromkeys(row.task for row in done.rows if row.role is Role.MERGED)
    tasks = [task for task in probed if find_task(task).predicts_files]
    several = None if len(tasks) < 2 else tasks[0]
    say(f"wrote {out / 'report.html'}, {out / 'merged'}, {out / 'tuned'}, {out / 'results.jsonl'}")
    if tasks:
        say(f"next: {command('predict', out, 'AUDIO...', task=several, out='answers.jsonl')}")


@app.command()
def finetune(
    recipe: Recipe,
    out: Out,
    strategy: Annotated[
        str | None, typer.Option(help="stable, plain, plain-cnn, l2sp, lora, distill, ...")
    ] = None,
    corpus: Corpus = None,
    device: Device = "auto",
    set_: Set = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fine-tune the encoder of a recipe; the result is in OUT/encoder.

    Example: speechft finetune demo --out runs/sid --strategy stable --set finetuning.steps=300
    """
    from speechft import api
    from speechft.recipe import Recipe as RecipeModel
    from speechft.recipe import load_recipe

    with for_machines(as_json):
        encoder = api.finetune(
            recipe,
            out=out,
            strategy=strategy,
            corpus=corpus,
            device=device,
            overrides=set_ or (),
            overwrite=overwrite,
        )
    if as_json:
        say(json.dumps({"encoder": str(encoder)}))
        return
    say(f"tuned encoder: {encoder}")
    base = load_recipe(RecipeModel, recipe, set_ or ()).encoder
    say(f"next: {command('merge', base, encoder, alpha='0.25', out='merged')}")
    say(f"or: {command('predict', out, 'AUDIO...', out='answers.jsonl')}")


@app.command()
def pretrain(
    recipe: Recipe,
    out: Out,
    corpus: Corpus = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it takes, and train nothing.")
    ] = False,
    set_: Set = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Pre-train an encoder by masked prediction of clusters (HuBERT).

    Example: speechft pretrain pretrain-tiny --out runs/pretrain
    """
    from speechft import api

    with for_machines(as_json):
        encoder = api.pretrain(
            recipe,
            out=out,
            corpus=corpus,
            device=device,
            dry_run=dry_run,
            overrides=set_ or (),
            overwrite=overwrite,
        )
    if as_json:
        say(json.dumps({"encoder": None if dry_run else str(encoder)}))
    if dry_run or as_json:
        return
    say(f"encoder: {encoder}")
    say(f"next: {command('evaluate', encoder, out='runs/eval')}")
