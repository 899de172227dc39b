"""The HTML page on one or several folders: one file that needs neither network nor scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from speechft.analysis.rows import AnalysisRow
from speechft.evaluation.superb_table import SuperbTable
from speechft.extras import needs
from speechft.reporting.cells import (
    detail_table,
    has_scores,
    language_table,
    main_lines,
    marked,
)
from speechft.reporting.examples import TaskExamples
from speechft.reporting.figures import Figures, Look, table, titles_of
from speechft.reporting.notes import COST_HEADER
from speechft.reporting.sweeps import Suggestion, Swept
from speechft.results import ResultRow

__all__ = ["Report", "render", "table"]


@dataclass(frozen=True)
class Report:
    """What a run found, ready to be shown."""

    title: str
    """Name of the run, such as ``demo``."""
    tuned_on: tuple[str, ...]
    """Keys of the tasks that were tuned on, such as ``sid``; empty where no file tells."""
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
    by_layer: tuple[ResultRow, ...] = ()
    """Figures of probes on single layers."""
    analysis: tuple[AnalysisRow, ...] = ()
    """What fine-tuning did, layer by layer."""
    swept: Swept | None = None
    """Merges that were compared on dev, and the choice."""
    suggestion: Suggestion | None = None
    """An alpha without labels of other tasks."""
    examples: tuple[TaskExamples, ...] = ()
    """Items with the answers of several encoders."""
    costs: tuple[tuple[str, ...], ...] = ()
    """Lines under `COST_HEADER`."""
    warnings: tuple[str, ...] = ()
    """What makes figures less sure or less comparable, in sentences."""
    on_dev: bool = False
    """Whether the rows are of the development split."""


def render(*reports: Report) -> str:
    """Return one page of HTML on one report, or on several side by side.

    The same reports give the same bytes with the same versions of matplotlib and jinja2.

    Args:
        *reports: What to show. Names in them are untrusted text and are escaped.

    Raises:
        PackageError: jinja2 or matplotlib is missing.
    """
    require_extra()
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from speechft.reporting import svg
    from speechft.reporting.side_by_side import overview

    environment = Environment(
        loader=PackageLoader("speechft", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template("report.html.jinja")
    several = len(reports) > 1
    runs = [_content(one, f"run{n}-" * several) for n, one in enumerate(reports, 1)]
    text = template.render(
        runs=runs,
        overview=overview(reports) if several else None,
        light=svg.LIGHT,
        dark=svg.DARK,
    )
    return text.encode("utf-8", "replace").decode("utf-8")


def require_extra() -> None:
    """Refuse to draw where the extra is missing.

    Raises:
        PackageError: jinja2 or matplotlib is not installed.
    """
    with needs("report", "the report"):
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401


def _content(report: Report, prefix: str) -> dict[str, Any]:
    """Return all that the page shows of one report; ids begin with the prefix."""
    from speechft.reporting import sections

    figures, curve = Figures(report.rows), Figures(report.curve)
    merged = figures.with_look(Look.MERGED)
    alpha = next((row.alpha for row in report.rows if row.encoder == merged), None)
    tuned = next((c for c in figures.columns if c.task in report.tuned_on), None)
    parts = (
        sections.trade_section(figures, report.tuned_on),
        sections.alpha_section(curve, report.tuned_on, alpha),
        sections.sweep_section(report.swept),
        sections.suggestion_section(report.suggestion),
        sections.analysis_section(report.analysis),
        sections.ability_section(report.by_layer, report.tuned_on),
        sections.layer_section(figures, report.tuned_on),
        sections.training_section(report.histories, tuned, figures.main),
    )
    lines = main_lines(figures, report.scores, report.colours)
    if report.swept is not None:
        lines = marked(lines, report.swept.choice)
    return {
        "report": report,
        "prefix": prefix,
        "lead": _lead(report, figures, alpha),
        "columns": figures.columns,
        "titles": titles_of(figures.columns),
        "scored": has_scores(figures, report.scores),
        "lines": lines,
        "unconverged": any(cell.unconverged for line in lines for cell in line.cells),
        "reference": figures.reference,
        "superb": None if report.superb is None else report.superb.cells(),
        "sections": [part.with_prefix(prefix) for part in parts if part is not None],
        "details": detail_table((*report.rows, *report.by_layer, *report.curve)),
        "cost_header": COST_HEADER,
        "languages": language_table(report.rows),
    }


def _lead(report: Report, figures: Figures, alpha: float | None) -> str:
    """Return a line on what was run."""
    count = len({column.task for column in figures.columns})
    tasks = "1 task" if count == 1 else f"{count} tasks"
    on = " on the development split" * report.on_dev
    evaluated = f"evaluated frozen on {tasks}{on}" if count else ""
    parts = []
    if report.tuned_on:
        titles = titles_of(figures.columns)
        told = [f"{t} ({titles[t]})" if titles.get(t) else t for t in report.tuned_on]
        parts.append(f"fine-tuned on {' and '.join(told)}")
    if alpha is not None and report.swept is None:
        parts.append(f"merged at alpha {alpha:g}")
    if report.swept is not None:
        parts.append(f"{len(report.swept.points)} merges compared")
    if report.analysis:
        parts.append("analysed layer by layer")
    text = ", ".join([*parts, *filter(None, [evaluated])])
    return f"{text[:1].upper()}{text[1:]}." if text else ""
