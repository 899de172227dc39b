"""What verbs print about their results: lines and tables for people; numbers go to ``--json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechft.commands import command
from speechft.console import print_table, say

if TYPE_CHECKING:
    from speechft.data.issues import Issue
    from speechft.data.manifest import Corpus
    from speechft.features.files import ExtractionReport
    from speechft.results import ResultRow


_SHOWN = 10
"""Items that are named before they are only counted."""


def print_results(rows: Sequence[ResultRow], protocol: str) -> None:
    """Print a table of figures with their intervals, and SUPERB_S where its tasks are there."""
    from speechft.results import mean_over_seeds, of_all_layers

    encoders = list(dict.fromkeys(row.encoder for row in rows))
    header = ["task", "metric", *encoders, "n"]
    table: dict[tuple[str, str, int | None], dict[str, ResultRow]] = {}
    shown = mean_over_seeds(rows)
    for row in shown:
        table.setdefault((row.task, row.metric, row.layer), {}).setdefault(row.encoder, row)
    cells = []
    for (task, metric, layer), by_encoder in table.items():
        arrow = "↑" if next(iter(by_encoder.values())).higher_is_better else "↓"
        values = [_figure(by_encoder.get(name)) for name in encoders]
        name = task if layer is None else f"{task}, layer {layer}"
        cells.append([name, f"{metric} {arrow}", *values, str(next(iter(by_encoder.values())).n)])
    scores = [_score(of_all_layers(shown), name) for name in encoders]
    if any(score is not None for score in scores):
        texts = ["-" if score is None else f"{score:.1f}" for score in scores]
        cells.append(["SUPERB_S", "speech-ft ↑", *texts, ""])
    seeds = max(row.details.get("seeds", 1) for row in shown)
    over = f" and {seeds} seeds, means over them" if seeds > 1 else " only"
    alone = [r.task for r in shown if " items " in str(r.details.get("uncertainty"))]
    drawn = f"test groups (items on {', '.join(dict.fromkeys(alone))})" if alone else "test groups"
    print_table(f"protocol {protocol}; in brackets 95 % over {drawn}{over}", header, cells)
    if any(row.details.get("converged") is False for row in shown):
        say("* the probe was still improving on dev when its epochs were over")


def print_corpus(corpus: Corpus, left_out: Sequence[Issue] = ()) -> None:
    """Print what is in a corpus, and what was wrong with it."""
    from speechft.data.issues import ISSUES_FILE

    rows = [_split(split, values, corpus) for split, values in corpus.statistics.items()]
    header = ["split", "utterances", "hours", "seconds", "speakers", "labels"]
    print_table(corpus.name, header, rows)
    for name in ("licence", "source"):
        if name in corpus.info:
            say(f"{name}: {corpus.info[name]}")
    for note in corpus.info.get("notes", ()):
        say(f"note: {note}")
    if issues := corpus.info.get("issues", {}):
        counts = ", ".join(f"{number} {kind}" for kind, number in issues.items())
        say(f"issues: {counts} (in {Path(corpus.place) / ISSUES_FILE})")
    for issue in left_out[:_SHOWN]:
        say(f"left out: {issue.path or issue.id} ({issue.kind}): {issue.problem}")
    if len(left_out) > _SHOWN:
        say(f"left out: ... and {len(left_out) - _SHOWN} more")
    say(f"corpus: {corpus.place}")
    say(f"next: {_next(corpus)}")


def _next(corpus: Corpus) -> str:
    """Return what can be done with a corpus: the demo, an evaluation of some task, or features.

    One that lost more than these allow is looked at.
    """
    from speechft.data.labels import MAX_LEFT_OUT
    from speechft.data.losses import check_losses
    from speechft.errors import DataError
    from speechft.evaluation.config import EvaluationConfig
    from speechft.tasks import TASKS, find_task

    try:
        check_losses(corpus, corpus.statistics, MAX_LEFT_OUT, "max_left_out")
    except DataError:
        return command("inspect", corpus.place)
    if find_task("sid").supported_by(corpus):
        usual = EvaluationConfig().tasks
        whole = all(find_task(name).supported_by(corpus) for name in usual)
        fewer = None if whole else "evaluation.tasks=available"
        return command("run", "demo", corpus=corpus.place, set_=fewer, out="runs/mine")
    if any(task.supported_by(corpus) for task in TASKS.values()):
        return command("evaluate", "tiny-hubert", corpus=corpus.place, out="runs/eval")
    return command("extract", "tiny-hubert", corpus.place, out="feats")


def extraction_lines(report: ExtractionReport) -> Iterator[str]:
    """Yield what was written, from what."""
    layers = ",".join(map(str, report.layers))
    yield (
        f"encoder {report.encoder} (sha256 {report.digest[:12]}), layers {layers}, dimension "
        f"{report.dim}, {report.frame_rate:g} frames a second"
    )
    yield f"wrote {report.written} files to {report.out} ({report.seconds / 60:.1f} min of audio)"
    if report.skipped:
        yield f"{report.skipped} were there already"


def _figure(row: ResultRow | None) -> str:
    from speechft.tasks import measure_of

    if row is None:
        return "-"
    digits = measure_of(row.task, row.metric).decimals + 1
    text = f"{row.value:.{digits}f}"
    if row.interval is not None:
        low, high = row.interval
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{text} *" if row.details.get("converged") is False else text


def _score(rows: Sequence[ResultRow], encoder: str) -> float | None:
    from speechft.errors import ConfigError
    from speechft.evaluation.superb_score import superb_score

    figures: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.encoder == encoder:
            figures.setdefault(row.task, {}).setdefault(row.metric, row.value)
    try:
        return superb_score(figures)
    except ConfigError:
        return None


def _split(split: str, values: dict[str, Any], corpus: Corpus) -> list[str]:
    seconds = corpus.info.get("seconds", {}).get(split)
    lengths = f"{seconds['min']:.1f}-{seconds['max']:.1f}" if seconds else ""
    return [
        split,
        str(values["utterances"]),
        f"{values['hours']:.2f}",
        lengths,
        str(values["speakers"]),
        ", ".join(values["labels"]),
    ]
