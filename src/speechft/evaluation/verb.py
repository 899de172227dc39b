"""What `speechft evaluate` and `speechft compare` do with their options and results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechft.config import build
from speechft.console import print_table
from speechft.errors import ConfigError
from speechft.evaluation.compare import compare, difference_table
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.superb_score import superb_score
from speechft.results import ResultRow, mean_over_seeds
from speechft.tasks import SUPERB, measure_of


def evaluation_config(tasks: str, options: dict[str, Any]) -> EvaluationConfig:
    """Return the configuration of an evaluation.

    Args:
        tasks: Keys with commas, ``all`` for SUPERB's ten, or ``available``.
        options: Further fields; those that are None keep their defaults.

    Raises:
        ConfigError: An option has a value that is not allowed.
    """
    chosen: Any = tuple(name.strip() for name in tasks.split(",") if name.strip())
    if tasks == "all":
        chosen = SUPERB
    elif tasks == "available":
        chosen = "available"
    given = {name: value for name, value in options.items() if value is not None}
    return build(EvaluationConfig, {"floors": (), "tasks": chosen, **given}, "evaluate")


def result_lines(rows: Sequence[ResultRow], protocol: str) -> None:
    """Print a table of figures with their intervals, and SUPERB_S where its tasks are there."""
    encoders = list(dict.fromkeys(row.encoder for row in rows))
    header = ["task", "metric", *encoders, "n"]
    table: dict[tuple[str, str], dict[str, ResultRow]] = {}
    shown = mean_over_seeds(rows)
    for row in shown:
        table.setdefault((row.task, row.metric), {}).setdefault(row.encoder, row)
    cells = []
    for (task, metric), by_encoder in table.items():
        arrow = "↑" if next(iter(by_encoder.values())).higher_is_better else "↓"
        values = [_figure(by_encoder.get(name)) for name in encoders]
        cells.append([task, f"{metric} {arrow}", *values, str(next(iter(by_encoder.values())).n)])
    scores = [_score(shown, name) for name in encoders]
    if any(score is not None for score in scores):
        texts = ["-" if score is None else f"{score:.1f}" for score in scores]
        cells.append(["SUPERB_S", "speech-ft ↑", *texts, ""])
    seeds = max(row.details.get("seeds", 1) for row in shown)
    over = f"items and {seeds} seeds, means over them" if seeds > 1 else "items only"
    print_table(f"protocol {protocol}; in brackets 95 % over {over}", header, cells)
    if any(row.details.get("converged") is False for row in shown):
        print("* the probe was still improving on dev when its epochs were over")


def compare_verb(paths: Sequence[Path], baseline: str | None, *, as_json: bool) -> None:
    """Print differences between the encoders of files or folders of results."""
    files = [path / "results.jsonl" if path.is_dir() else path for path in paths]
    found = compare(files, baseline)
    if as_json:
        print("\n".join(json.dumps(asdict(difference)) for difference in found))
        return
    notes = "; ".join(dict.fromkeys(d.note for d in found if d.interval))
    print_table(f"differences to {found[0].baseline} ({notes})", *difference_table(found))


def _figure(row: ResultRow | None) -> str:
    if row is None:
        return "-"
    digits = measure_of(row.task, row.metric).decimals + 1
    text = f"{row.value:.{digits}f}"
    if row.interval is not None:
        low, high = row.interval
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{text} *" if row.details.get("converged") is False else text


def _score(rows: Sequence[ResultRow], encoder: str) -> float | None:
    figures: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.encoder == encoder:
            figures.setdefault(row.task, {}).setdefault(row.metric, row.value)
    try:
        return superb_score(figures)
    except ConfigError:
        return None
