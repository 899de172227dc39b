"""The application, the options that several verbs share, and how it ends on errors."""

from __future__ import annotations

import contextlib
import copy
import gc
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from speechft import launcher
from speechft.cli.plain_values import PlainValues
from speechft.commands import command, running
from speechft.console import fail, is_main_process, say, warn
from speechft.errors import DataError, RunError, SpeechftError
from speechft.extras import CORE, missing
from speechft.interruption import INTERRUPTED, TERMINATED, handling_signals
from speechft.naming import public_command

_COLLECTING = (50_000, 20, 100)
"""Objects between looks for cycles. Python's 700 make these a sixth of importing transformers."""
_NAMED = 3
"""Items that the last line names."""
_ALONE = (
    "accelerate launch started this process alone: on processors it starts several through MPI "
    "only (--mpirun_hostfile); torchrun --nproc_per_node N -m speechft ... does without"
)
CORPUS_NAMES = ("--corpus", "--manifest", "--manifests")
"""One option in every verb that reads a corpus."""

app = typer.Typer(
    name="speechft",
    cls=PlainValues,
    help="Fine-tune speech encoders without making them forget: fine-tune, merge, evaluate.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what no command of ours wrote, too.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn what the operating system refuses, wherever it does, into an error with one message.

    Readers and writers say more; this is for names that no file can have and folders that may not
    be listed, which any look at a path may meet.

    Raises:
        RunError: Says which file and why.
    """
    try:
        yield
    except Exception as error:
        raise _in_words(error) from None


def _in_words(error: Exception) -> Exception:
    """Return what the operating system refused as an error of ours, anything else as it is."""
    if isinstance(error, SpeechftError):
        return error
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "speechft").partition(".")[0]
        ours = package == "speechft"
        return error if ours else missing("this", package, f"{CORE}; see {command('doctor')}")
    from speechft.storage.disk import disk_refusal

    refused = disk_refusal(error, Path.cwd())
    if refused is not None:
        place = refused.filename or "a file"
        return RunError(
            f"cannot write {place}: {refused.strerror or refused}",
            hint="free some space, or make it writable, and run it again",
        )
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return RunError(f"{place}{error.strerror or error}")
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # Path.expanduser
        return RunError(f"a path begins with ~ and a name that is no user's: {error}")
    return error


def main() -> None:
    """Run the command line.

    Exit codes: 0, all of it was done; 1, one message says what is wrong, or what was left out or
    failed while the rest was done; 2, the command line cannot be understood; 130, interrupted;
    143, terminated.
    """
    gc.set_threshold(*_COLLECTING)
    if launcher.alone_of_several():
        warn(_ALONE)
    try:
        alone, line = _alone(sys.argv[1:]), public_command(["speechft", *sys.argv[1:]])
        with handling_signals(), told(), running(line, _options(alone)):
            alone()
    except SpeechftError as error:
        fail(f"error: {error}")
        sys.exit(1)
    except SystemExit as stop:
        if stop.code in (INTERRUPTED, TERMINATED) and is_main_process():
            word = "interrupted" if stop.code == INTERRUPTED else "terminated"
            fail(f"{word}; give the same command again to go on")
        raise


def _alone(typed: Sequence[str]) -> typer.Typer:
    """Return the application with no verb but that which was typed, for typer reads all it has."""
    first = typed[0] if typed else ""
    named = [c for c in app.registered_commands if c.callback and c.callback.__name__ == first]
    if not named and first != "--version":
        return app
    alone = copy.copy(app)
    alone.registered_commands = named
    return alone


def _options(alone: typer.Typer) -> list[str]:
    """Return the options of the verbs of an application, by their names in Python."""
    verbs = [c.callback for c in alone.registered_commands if c.callback]
    return [name for verb in verbs for name in inspect.signature(verb).parameters]


def _version(show: bool) -> None:
    if show:
        from speechft import __version__

        say(f"speechft {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def tell_left_out(
    what: str, names: Sequence[str], total: int, hint: str | None = None, count: int = 0
) -> None:
    """End with exit code 1 if items were left out, though the rest was done.

    Args:
        what: Of the items, in words: ``files have no features``.
        names: Of what was left out.
        total: Items in all.
        hint: What to do.
        count: How many they are, where a name stands for several.

    Raises:
        DataError: Something was left out.
    """
    if names:
        more = ", ..." if len(names) > _NAMED else ""
        named = ", ".join(names[:_NAMED])
        raise DataError(f"{count or len(names)} of {total} {what}: {named}{more}", hint=hint)
