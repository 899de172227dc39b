"""Differences between evaluated encoders on the same items, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechft.errors import DataError, unknown_choice
from speechft.evaluation.score import (
    difference_over_seeds,
    interval_of,
    paired_difference,
    paired_p_value,
)
from speechft.evaluation.suite import folder_of, read_items
from speechft.evaluation.superb_score import constants_named, superb_score, superb_score_values
from speechft.results import ResultRow, read_rows
from speechft.tasks import TASKS
from speechft.tasks.measures import Item

SCORE = "SUPERB_S"


@dataclass(frozen=True)
class Evaluated:
    """One figure of one encoder, and where its items lie."""

    row: ResultRow
    folder: Path
    """Of the encoder, with ``predictions/``."""
    number: int
    """Of the probe seed, counted from the first of its encoder."""


@dataclass(frozen=True)
class Difference:
    """One encoder against another on one metric."""

    task: str
    metric: str
    encoder: str
    baseline: str
    value: float
    baseline_value: float
    difference: float
    """In points of the metric, positive where the encoder's figure is larger."""
    interval: tuple[float, float] | None
    """95 % paired bootstrap interval of the difference; None where the items differ."""
    p_value: float | None
    n: int
    better: bool | None
    """Whether the interval lies on the good side of zero, on the bad, or (None) on neither."""
    note: str = ""


def compare(files: Sequence[Path], baseline: str | None = None) -> list[Difference]:
    """Compare every encoder with a baseline.

    Args:
        files: Files ``results.jsonl`` of evaluations; predictions lie beside them.
        baseline: Name of the encoder that the others are compared with; None takes the first.

    Raises:
        DataError: A file cannot be read, or there is only one encoder.
        ConfigError: There is no such encoder.
    """
    evaluated = [e for file in dict.fromkeys(files) for e in _evaluated(file)]
    _refuse_twins(evaluated)
    names = list(dict.fromkeys(e.row.encoder for e in evaluated))
    if baseline is not None and baseline not in names:
        raise unknown_choice("encoder", baseline, names)
    base = baseline or (names[0] if names else "")
    if len(names) < 2:
        raise DataError(
            f"there is nothing to compare: the results hold {', '.join(names) or 'nothing'}",
            hint="evaluate two encoders, or give two files of results",
        )
    found: list[Difference] = []
    keys = dict.fromkeys(_key(e.row) for e in evaluated)
    for key in keys:
        for name in names:
            if name != base:
                found += _compared(*(_chosen(evaluated, n, key) for n in (name, base)))
    found += _scores(evaluated, names, base)
    if not found:
        raise DataError(
            f"there is nothing to compare: {', '.join(n for n in names if n != base)} and {base} "
            "have no task, split and protocol in common",
            hint="evaluate them with the same --tasks, --corpus and --protocol",
        )
    return found


def _key(row: ResultRow) -> tuple[str, str, str, str]:
    """Return what two figures must share to be compared."""
    return row.task, row.metric, row.protocol, row.split


def _evaluated(file: Path) -> list[Evaluated]:
    seeds: dict[str, list[int]] = {}
    result = []
    for row in read_rows(file):
        known = seeds.setdefault(row.encoder, [])
        if row.seed not in known:
            known.append(row.seed)
        result.append(Evaluated(row, folder_of(file.parent, row.encoder), known.index(row.seed)))
    return result


def _refuse_twins(evaluated: Sequence[Evaluated]) -> None:
    """Refuse figures that two files give for the same encoder, by name, task and seed."""
    places: dict[tuple[object, ...], Path] = {}
    for e in evaluated:
        key = (e.row.encoder, *_key(e.row), e.row.seed)
        if places.setdefault(key, e.folder) != e.folder:
            raise DataError(
                f"encoder {e.row.encoder!r} was evaluated on {e.row.task} in two places: "
                f"{places[key]} and {e.folder}",
                hint="give one of them, or evaluate them in one command: its names are distinct",
            )


def _chosen(
    evaluated: Sequence[Evaluated], encoder: str, key: tuple[str, str, str, str]
) -> list[Evaluated]:
    return [e for e in evaluated if e.row.encoder == encoder and _key(e.row) == key]


def _compared(first: list[Evaluated], second: list[Evaluated]) -> list[Difference]:
    if not first or not second:
        return []
    row, other = first[0].row, second[0].row
    values = [float(np.mean([e.row.value for e in part])) for part in (first, second)]
    measure = TASKS[row.task].measure(row.metric) if row.task in TASKS else None
    items = [[_items(e) for e in part] for part in (first, second)]
    same = {tuple(item.id for item in part) for parts in items for part in parts}
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    note = "items differ: no interval" if len(same) != 1 else ""
    if len(same) == 1 and measure is not None and items[0][0]:
        one, two = items[0][0], items[1][0]
        _, low, high = paired_difference(one, two, level=0.95, measure=measure)
        interval, p_value = (low, high), paired_p_value(one, two, measure=measure)
        note = "item uncertainty only"
        over_seeds = difference_over_seeds(*items, level=0.95, measure=measure)
        if over_seeds is not None:
            interval, p_value = over_seeds, None
            note = f"{len(items[0])} probe seeds and items"
        elif len(items[0]) != len(items[1]):
            values, note = [row.value, other.value], f"{note}; first seed of each"
    return [
        Difference(
            task=row.task,
            metric=row.metric,
            encoder=row.encoder,
            baseline=other.encoder,
            value=values[0],
            baseline_value=values[1],
            difference=values[0] - values[1],
            interval=interval,
            p_value=p_value,
            n=row.n,
            better=_judged(interval, row.higher_is_better),
            note=note,
        )
    ]


def _scores(evaluated: Sequence[Evaluated], names: Sequence[str], base: str) -> list[Difference]:
    """Compare SUPERB_S where all its tasks were evaluated under the same protocol."""
    items = {name: _score_items(evaluated, name) for name in names}
    if items[base] is None:
        return []
    found = []
    for name in names:
        own, reference = items[name], items[base]
        if name == base or own is None or reference is None:
            continue
        figures = [
            superb_score({t: {m.name: m.value(part[t]) for m in TASKS[t].measures} for t in part})
            for part in (own, reference)
        ]
        same = all([i.id for i in own[t]] == [i.id for i in reference[t]] for t in own)
        interval = None
        if same:
            interval = interval_of(superb_score_values(own) - superb_score_values(reference))
        found.append(
            Difference(
                task=SCORE,
                metric=SCORE,
                encoder=name,
                baseline=base,
                value=figures[0],
                baseline_value=figures[1],
                difference=figures[0] - figures[1],
                interval=interval,
                p_value=None,
                n=sum(len(part) for part in own.values()),
                better=_judged(interval, True),
                note="item uncertainty only; constants speech-ft",
            )
        )
    return found


def _score_items(evaluated: Sequence[Evaluated], name: str) -> dict[str, list[Item]] | None:
    """Return the items of an encoder's first seed on the tasks of SUPERB_S."""
    needed = constants_named("speech-ft").tasks
    first = {e.row.task: e for e in reversed(evaluated) if e.row.encoder == name}
    protocols = {e.row.protocol for e in evaluated if e.row.task in needed}
    if not needed.keys() <= first.keys() or len(protocols) > 1:
        return None
    items = {task: _items(first[task]) for task in needed}
    return items if all(items.values()) else None


def _items(e: Evaluated) -> list[Item]:
    try:
        return read_items(e.folder, e.row.task, e.number)
    except DataError:
        return []


def _judged(interval: tuple[float, float] | None, higher_is_better: bool) -> bool | None:
    if interval is None or interval[0] <= 0.0 <= interval[1]:
        return None
    return (interval[0] > 0.0) == higher_is_better


def difference_table(found: Sequence[Difference]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of differences for a terminal."""
    header = ["task", "metric", "encoder", "value", "baseline", "difference", "95 %", "p", ""]
    words = {True: "better", False: "worse", None: "open"}
    cells = []
    for d in found:
        digits = 4 if d.metric == "mtwv" else 2
        low, high = d.interval or (float("nan"), float("nan"))
        cells.append(
            [
                d.task,
                d.metric,
                d.encoder,
                f"{d.value:.{digits}f}",
                f"{d.baseline_value:.{digits}f}",
                f"{d.difference:+.{digits}f}",
                f"{low:+.{digits}f} to {high:+.{digits}f}" if d.interval else "-",
                "-" if d.p_value is None else f"{d.p_value:.3f}",
                words[d.better] if d.interval else d.note,
            ]
        )
    return header, cells
