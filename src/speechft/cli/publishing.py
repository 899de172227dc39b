"""The verb that hands a model on: publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from speechft.cli.app import Json, Overwrite, app
from speechft.commands import command
from speechft.console import say


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a model.")],
    repo_id: Annotated[str, typer.Option(help="Where to: user/name.")],
    private: Annotated[bool, typer.Option("--private", help="Only its owners see it.")] = False,
    licence: Annotated[
        str | None,
        typer.Option("--license", "--licence", help="Such as apache-2.0; else the card's."),
    ] = None,
    results: Annotated[
        list[Path] | None, typer.Option(help="Evaluations with its figures; repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files and card; no network, no token.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Upload a model with its card to the Hugging Face hub, in one commit.

    Example: speechft publish runs/demo/merged --repo-id me/hubert-sid --license cc-by-4.0 --dry-run
    """
    from speechft.publishing.publish import publish as publish_folder

    done = publish_folder(
        folder,
        repo_id,
        private=private,
        licence=licence,
        results=results or (),
        dry_run=dry_run,
        overwrite=overwrite,
    )
    say(json.dumps(done.as_dict()) if as_json else "\n".join(done.lines()))
    if as_json:
        return
    if done.url is None:
        again = command(
            "publish",
            folder,
            repo_id=repo_id,
            private=private,
            licence=licence,
            results=results,
            overwrite=overwrite,
        )
        say(f"nothing was uploaded\nnext: {again}")
    else:
        say(f"published {done.url}\nnext: {command('evaluate', repo_id, out='runs/eval')}")
