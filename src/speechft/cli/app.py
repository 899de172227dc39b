"""The application, the options that several verbs share, and how it ends on errors."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from speechft.errors import SpeechftError

_FLAGS = {"help": False, "install_completion": False, "show_completion": False}
"""Flags that have no default in typer: to see that they are off it would import pydantic."""
CORPUS_NAMES = ("--corpus", "--manifest", "--manifests")
"""One option in every verb that reads a corpus."""
_VERBS_WITHOUT_VALUES = ("recipes", "corpora", "tasks")

app = typer.Typer(
    name="speechft",
    help="Fine-tune speech encoders without making them forget: fine-tune, merge, evaluate.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "default_map": {**_FLAGS, **{verb: {"help": False} for verb in _VERBS_WITHOUT_VALUES}},
    },
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a key.")
]
Config = Annotated[
    Path | None, typer.Option(help="Configuration, where the checkpoint does not tell it.")
]
Nonfinite = Annotated[bool, typer.Option("--allow-nonfinite", help="Accept NaN weights.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def main() -> None:
    """Run the command line; the user's mistakes end with one message and exit code 1."""
    try:
        app()
    except SpeechftError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == 130:  # typer's, for Ctrl-C
            print("interrupted; give the same command again to go on", file=sys.stderr)
        raise


def _version(show: bool) -> None:
    if show:
        from speechft import __version__

        typer.echo(f"speechft {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def command_line() -> str:
    """Return the command as it was typed, for what is recorded."""
    return shlex.join(["speechft", *sys.argv[1:]])
