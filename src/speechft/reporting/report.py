"""The HTML report of a run: one file that needs neither network nor scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechft.errors import RunError
from speechft.evaluation.superb_table import SuperbTable
from speechft.files import write_text
from speechft.reporting.cells import detail_table, has_scores, main_lines
from speechft.reporting.figures import Column, Figures, Look, table
from speechft.results import ResultRow

__all__ = ["Report", "table", "write_report"]


@dataclass(frozen=True)
class Report:
    """What a run found, ready to be shown."""

    title: str
    """Name of the run, such as ``demo``."""
    tuned_on: str
    """Key of the task that was tuned on, such as ``sid``."""
    verdict: tuple[str, ...]
    """What happened, in plain sentences."""
    rows: tuple[ResultRow, ...]
    """Test figures; encoders and tasks in the order of the table."""
    curve: tuple[ResultRow, ...]
    """Dev figures over alpha, from 0 (pre-trained) to 1 (stable fine-tuning)."""
    scores: Mapping[str, float | None]
    """Miniature SUPERB score by encoder; None or absent where it has none."""
    histories: Mapping[str, Mapping[str, Any]]
    """By name: strategy, losses, evaluations, hours_of_audio, seconds."""
    recipe: str
    """The resolved recipe as YAML."""
    facts: Mapping[str, str]
    """Corpus, digests, machine, versions, command, times: label and text."""
    superb: SuperbTable | None = None
    """Figures and SUPERB_S beside published rows; None where tasks of the score are missing."""
    colours: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    """``better`` or ``worse`` by (encoder, task, metric), from the comparisons of the verdict."""


def write_report(report: Report, path: Path) -> None:
    """Write the report as one self-contained HTML file, atomically.

    The same report gives the same bytes with the same versions of matplotlib and jinja2.

    Args:
        report: What to show. Names in it are untrusted text and are escaped.
        path: The file to write.

    Raises:
        RunError: jinja2 or matplotlib is missing, or the file cannot be written.
    """
    write_text(path, render(report))


def render(report: Report) -> str:
    """Return the report as HTML.

    Raises:
        RunError: jinja2 or matplotlib is missing.
    """
    require_extra()
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("speechft", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template("report.html.jinja")
    text = template.render(_content(report))
    return text.encode("utf-8", "replace").decode("utf-8")


def require_extra() -> None:
    """Refuse to draw where the extra is missing.

    Raises:
        RunError: jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise RunError(
            f"the report needs {error.name or 'a package'}, which is not installed",
            hint="pip install 'speechft[report]'",
        ) from None


def _content(report: Report) -> dict[str, Any]:
    """Return all that the template shows."""
    from speechft.reporting import sections, svg

    figures, curve = Figures(report.rows), Figures(report.curve)
    merged = figures.with_look(Look.MERGED)
    alpha = next((row.alpha for row in report.rows if row.encoder == merged), None)
    tuned = next((c for c in figures.columns if c.task == report.tuned_on), None)
    parts = (
        sections.trade_section(figures, report.tuned_on),
        sections.alpha_section(curve, report.tuned_on, alpha),
        sections.layer_section(figures, report.tuned_on),
        sections.training_section(report.histories, tuned, figures.main),
    )
    lines = main_lines(figures, report.scores, report.colours)
    return {
        "report": report,
        "lead": _lead(report, figures, alpha),
        "columns": figures.columns,
        "titles": _titles(figures.columns),
        "scored": has_scores(figures, report.scores),
        "lines": lines,
        "unconverged": any(cell.unconverged for line in lines for cell in line.cells),
        "reference": figures.reference,
        "superb": None if report.superb is None else report.superb.cells(),
        "sections": [part for part in parts if part is not None],
        "details": detail_table((*report.rows, *report.curve)),
        "light": svg.LIGHT,
        "dark": svg.DARK,
    }


def _lead(report: Report, figures: Figures, alpha: float | None) -> str:
    """Return a line on what was run."""
    count = len({column.task for column in figures.columns})
    merged = f", merged at alpha {alpha:g}" if alpha is not None else ""
    tasks = "1 task" if count == 1 else f"{count} tasks"
    title = _titles(figures.columns).get(report.tuned_on)
    tuned = f"{report.tuned_on} ({title})" if title else report.tuned_on
    return f"Fine-tuned on {tuned}{merged}, evaluated frozen on {tasks}."


def _titles(columns: Sequence[Column]) -> dict[str, str]:
    """Return what the tasks are in words, for those that the library knows."""
    from speechft.tasks import find_task, is_task

    return {c.task: find_task(c.task).title for c in columns if is_task(c.task)}
