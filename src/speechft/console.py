"""Messages, progress bars and tables: logs go to stderr, results to stdout.

Names come from files of others: on their way to the terminal control characters and markup are
shown instead of obeyed, and secrets in addresses are masked. Nothing else in the package prints.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from speechft import launcher
from speechft.naming import shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


def is_main_process() -> bool:
    """Return whether this is the only process, or the first of those that a launcher started."""
    return launcher.rank() == 0


def stderr_console() -> Console:
    """Return a rich console on the current stderr."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


_CONTROL = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Characters that a terminal obeys, that turn the direction of what follows, or that no terminal
can be sent; line feeds are our own."""


def visible(text: str) -> str:
    r"""Return a text whose control characters stand as escapes, and whose secrets are masked.

    Line feeds stay. A byte of a file name that is not UTF-8 is shown as ``\xff``.
    """
    return _CONTROL.sub(_escape, shown(text))


def visible_name(text: str) -> str:
    """Return a text for one cell of a table or one line, see `visible`: no line feeds either."""
    return visible(text).replace("\n", "\\n")


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # what Python makes of such a byte
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


_for_machines: list[bool] = []
"""Whether stdout belongs to a program that reads JSON; the last of them counts."""


@contextmanager
def for_machines(flag: bool) -> Iterator[None]:
    """Say and show on stderr what is done within, so that stdout holds nothing but JSON.

    Args:
        flag: Whether that is asked for; nothing changes otherwise.
    """
    _for_machines.append(flag)
    try:
        yield
    finally:
        _for_machines.pop()


def _results() -> TextIO:
    return sys.stderr if _for_machines and _for_machines[-1] else sys.stdout


def say(text: str, end: str = "\n") -> None:
    """Print a result to stdout, on the main process only."""
    if is_main_process():
        _send(_results(), visible(text) + end)


def fail(message: str) -> None:
    """Print an error to stderr, on every process, but what is the same once a host."""
    if launcher.is_first_to_say(message):
        _send(sys.stderr, visible(message) + "\n")


def log(message: str) -> None:
    """Print one line to stderr, on the main process only."""
    if is_main_process():
        _send(sys.stderr, visible_name(message) + "\n")


def _send(stream: TextIO, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


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
            self.progress.update(self.task, note=visible_name(text))


def shows_progress() -> bool:
    """Return whether bars are shown: on a terminal, by the main process."""
    return is_main_process() and sys.stderr.isatty()


@contextmanager
def progress_bar(description: str, total: float, done: float = 0) -> Iterator[Bar]:
    """Show a bar with count, elapsed and remaining time; silent when stderr is not a terminal.

    Args:
        description: What is being done.
        total: Number of units of work.
        done: Units that an earlier, interrupted run has already done.
    """
    if not shows_progress():
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
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=stderr_console(), transient=True) as progress:
        task = progress.add_task(
            visible_name(description), total=total, completed=int(done), note=""
        )
        yield Bar(progress, task)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout, on the main process only; the first column is left-aligned."""
    if not is_main_process():
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    stream = _results()
    width = None if stream.isatty() else 200
    table = Table(title=Text(visible(title)), title_justify="left", title_style="bold")
    for index, name in enumerate(header):
        table.add_column(
            Text(visible_name(name)), justify="left" if index == 0 else "right", no_wrap=True
        )
    for row in rows:
        table.add_row(*(Text(visible_name(cell)) for cell in row))
    Console(file=stream, highlight=False, width=width).print(table)
