"""Messages, progress bars and tables: logs go to stderr, results to stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


def is_main_process() -> bool:
    """Return whether this is the only process, or the first of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def stderr_console() -> Console:
    """Return a rich console on the current stderr."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def log(message: str) -> None:
    """Print one line to stderr, on the main process only."""
    if is_main_process():
        print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Print one warning line to stderr, on the main process only."""
    log(f"warning: {message}")


@dataclass
class Bar:
    """A running progress bar; `advance` moves it and `note` changes the text behind it."""

    progress: Progress | None = None
    task: TaskID | None = None

    def advance(self, amount: float = 1.0) -> None:
        """Move the bar by ``amount`` units."""
        if self.progress is not None and self.task is not None:
            self.progress.advance(self.task, amount)

    def note(self, text: str) -> None:
        """Show ``text`` behind the bar."""
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, note=text)


@contextmanager
def progress_bar(description: str, total: float, done: float = 0) -> Iterator[Bar]:
    """Show a bar with count, elapsed and remaining time; silent when stderr is not a terminal.

    Args:
        description: What is being done.
        total: Number of units of work.
        done: Units that an earlier, interrupted run has already done.
    """
    if not (is_main_process() and sys.stderr.isatty()):
        yield Bar()
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=stderr_console(), transient=True) as progress:
        task = progress.add_task(description, total=total, completed=int(done), note="")
        yield Bar(progress, task)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout; the first column is left-aligned, the others right-aligned."""
    from rich.console import Console
    from rich.table import Table

    width = None if sys.stdout.isatty() else 200
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(file=sys.stdout, highlight=False, width=width).print(table)
