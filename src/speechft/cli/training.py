"""The verbs that train: demo, run, finetune, pretrain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from speechft.cli.app import Out, Set, app, command_line


@app.command()
def demo(out: Out = Path("runs/demo"), set_: Set = None) -> None:
    """Run the whole method on embedded speech in minutes; the same as `run demo`.

    Example: speechft demo --out runs/demo
    """
    run("demo", out, set_)


@app.command()
def run(recipe: str, out: Out, set_: Set = None) -> None:
    """Fine-tune, merge, evaluate and report, by a recipe; run it again to go on after a stop.

    Example: speechft run demo --out runs/mine --set data.corpus=my.csv
    """
    from speechft import pipeline
    from speechft.finetuning.distributed import main_process_scope
    from speechft.recipe import Recipe, load_recipe

    with main_process_scope() as first:
        if first:
            pipeline.run(load_recipe(Recipe, recipe, set_ or ()), out, command=command_line())


@app.command()
def finetune(
    recipe: str,
    out: Out,
    strategy: Annotated[
        str | None, typer.Option(help="stable, plain, l2sp, lora, dora, distill, early-...")
    ] = None,
    set_: Set = None,
) -> None:
    """Fine-tune the encoder of a recipe; the result is in OUT/encoder.

    Example: speechft finetune demo --out runs/sid --strategy stable --set finetuning.steps=300
    """
    from speechft import pipeline
    from speechft.finetuning.distributed import main_process_scope
    from speechft.recipe import Recipe, load_recipe

    chosen = [f"finetuning.strategy={strategy}"] if strategy else []
    with main_process_scope() as first:
        if not first:
            return
        loaded = load_recipe(Recipe, recipe, [*(set_ or ()), *chosen])
        encoder = pipeline.finetune_recipe(loaded, out)
    typer.echo(f"tuned encoder: {encoder}")
    typer.echo(f"next: speechft merge BASE {encoder} --alpha 0.25 --out merged")


@app.command()
def pretrain(recipe: str, out: Out, set_: Set = None) -> None:
    """Pre-train an encoder by masked prediction of clusters (HuBERT).

    Example: speechft pretrain pretrain-tiny --out runs/pretrain
    """
    from speechft.pretrain import pretrain_recipe

    encoder = pretrain_recipe(recipe, out, set_ or ())
    typer.echo(f"encoder: {encoder}")
    typer.echo(f"next: speechft evaluate {encoder} --out runs/eval")
