"""Differences between evaluated encoders on the same items, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from speechft.errors import DataError, unknown_choice
from speechft.evaluation.predictions import items_of
from speechft.evaluation.score import (
    difference_over_seeds,
    has_groups,
    interval_of,
    paired_difference,
    paired_p_value,
    resampled,
)
from speechft.evaluation.superb_score import (
    FITTED,
    constants_named,
    superb_score,
    superb_score_values,
)
from speechft.evaluation.superb_table import NEAR, is_ranked
from speechft.results import ResultRow, check_number, read_rows
from speechft.tasks import TASKS, measure_of
from speechft.tasks.measures import Item

SCORE = "SUPERB_S"


@dataclass(frozen=True)
class Evaluated:
    """One figure of one encoder, and where its items lie."""

    row: ResultRow
    folder: Path
    """Of the file that holds the row; predictions are relative to it."""


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
    """95 % paired bootstrap interval of the difference, over groups of items where they have some;
    None where the items differ."""
    p_value: float | None
    n: int
    better: bool | None
    """Whether the interval lies on the good side of zero, on the bad, or (None) on neither."""
    note: str = ""
    """What the interval covers, or why there is none."""
    warning: str = ""
    """What makes the two figures less comparable, such as another precision."""
    layer: int | None = None
    """Hidden state that the probes saw alone; None for the weighted sum of all."""


def compare(files: Sequence[Path], baseline: str | None = None) -> list[Difference]:
    """Compare every encoder with a baseline.

    Args:
        files: Files ``results.jsonl`` of evaluations; their rows name the predictions.
        baseline: Name of the encoder that the others are compared with; None takes the first.

    Raises:
        DataError: A file cannot be read, there is only one encoder, or there are too many.
        ConfigError: There is no such encoder.
    """
    evaluated = _without_twins([e for file in dict.fromkeys(files) for e in _evaluated(file)])
    check_number(e.row for e in evaluated)
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
    for key in dict.fromkeys(_key(e.row) for e in evaluated):
        for name in names:
            if name != base:
                found += _pairs(*(_chosen(evaluated, n, key) for n in (name, base)))
    found += _scores([e for e in evaluated if e.row.layer is None], names, base)
    if not found:
        raise DataError(
            f"there is nothing to compare: {', '.join(n for n in names if n != base)} and {base} "
            "have no task, split and protocol in common",
            hint="evaluate them with the same --tasks, --corpus and --protocol",
        )
    return found


Key = tuple[str, str, str, str, str, int | None]


def _key(row: ResultRow) -> Key:
    """Return what two figures must share to be compared."""
    return row.task, row.metric, row.protocol, row.split, row.part, row.layer


def _evaluated(file: Path) -> list[Evaluated]:
    return [Evaluated(row, file.parent) for row in read_rows(file)]


def _without_twins(evaluated: Sequence[Evaluated]) -> list[Evaluated]:
    """Return every figure once; the same measured thing may stand in several files.

    Raises:
        DataError: One name stands for two encoders, or an older version wrote the same figure
            twice, which cannot be told from two.
    """
    encoders: dict[str, Evaluated] = {}
    figures: dict[tuple[object, ...], Evaluated] = {}
    for e in evaluated:
        row = e.row
        first = encoders.setdefault(row.encoder, e)
        again = figures.setdefault((row.encoder, *_key(row), row.evaluation, row.seed), e)
        twins = row.evaluation is None and again.folder != e.folder
        if first.row.encoder_digest != row.encoder_digest or twins:
            raise DataError(
                f"encoder {row.encoder!r} was evaluated on {row.task} in two places: "
                f"{(again if twins else first).folder} and {e.folder}",
                hint="give one of them, or evaluate them in one command: its names are distinct",
            )
    return list(figures.values())


def _chosen(evaluated: Sequence[Evaluated], encoder: str, key: Key) -> list[Evaluated]:
    return [e for e in evaluated if e.row.encoder == encoder and _key(e.row) == key]


def _pairs(first: list[Evaluated], second: list[Evaluated]) -> list[Difference]:
    """Compare the evaluations that two encoders have in common.

    Where they have none, their first figures are compared as far as the items are the same, and the
    note says that data or settings were others.

    Args:
        first: Figures of one encoder on one metric.
        second: Of the baseline.
    """
    if not first or not second:
        return []
    known = [{e.row.evaluation for e in part} - {None} for part in (first, second)]
    common = [e.row.evaluation for e in first if e.row.evaluation in known[0] & known[1]]
    if common:
        return [
            _compared(*([e for e in part if e.row.evaluation == one] for part in (first, second)))
            for one in dict.fromkeys(common)
        ]
    if not all(known):
        note = "an older version kept no predictions: no interval"
        return [_difference(first[:1], second[:1], None, None, note)]
    parts = ([e for e in p if e.row.evaluation == p[0].row.evaluation] for p in (first, second))
    found = _compared(*parts)
    warning = "; ".join(["other data or settings", *filter(None, [found.warning])])
    return [replace(found, warning=warning)]


def _compared(first: list[Evaluated], second: list[Evaluated]) -> Difference:
    """Compare two encoders by the items of the same evaluation."""
    shared = {e.row.seed for e in first} & {e.row.seed for e in second}
    if shared:
        first, second = ([e for e in part if e.row.seed in shared] for part in (first, second))
    row = first[0].row
    measure = measure_of(row.task, row.metric)
    items = [[_items(e) for e in part] for part in (first, second)]
    same = {tuple(item.id for item in part) for parts in items for part in parts}
    if len(same) != 1 or not items[0][0]:
        return _difference(first, second, None, None, "items differ: no interval")
    over_seeds = difference_over_seeds(*items, level=0.95, measure=measure)
    if over_seeds is not None:
        note = f"{len(items[0])} probe seeds and {resampled(items[0][0], measure)}"
        return _difference(first, second, over_seeds, None, note)
    one, two = items[0][0], items[1][0]
    _, low, high = paired_difference(one, two, level=0.95, measure=measure)
    note = f"{resampled(one, measure)} only"
    if len(first) != len(second):
        first, second, note = first[:1], second[:1], f"{note}; first seed of each"
    return _difference(first, second, (low, high), paired_p_value(one, two, measure=measure), note)


def _difference(
    first: list[Evaluated],
    second: list[Evaluated],
    interval: tuple[float, float] | None,
    p_value: float | None,
    note: str,
) -> Difference:
    """Return the difference of the means over the given figures."""
    row, other = first[0].row, second[0].row
    value, reference = (float(np.mean([e.row.value for e in part])) for part in (first, second))
    return Difference(
        task=row.task,
        metric=row.metric,
        encoder=row.encoder,
        baseline=other.encoder,
        value=value,
        baseline_value=reference,
        difference=value - reference,
        interval=interval,
        p_value=p_value,
        n=row.n,
        better=_judged(interval, row.higher_is_better),
        note=note,
        warning=unlike(row, other),
        layer=row.layer,
    )


_ARITHMETIC = ("precision", "device", "kernel", "threads")


def unlike(row: ResultRow, other: ResultRow) -> str:
    """Say in what the arithmetic of two figures differed; empty where it did not.

    Rows of older versions say less; what only one of them says is no difference.
    """
    both = [(key, row.details.get(key), other.details.get(key)) for key in _ARITHMETIC]
    found = [f"{key} {a} against {b}" for key, a, b in both if None not in (a, b) and a != b]
    return ", ".join(found)


def _scores(evaluated: Sequence[Evaluated], names: Sequence[str], base: str) -> list[Difference]:
    """Compare SUPERB_S where all its tasks were evaluated in the same way."""
    found = []
    for name in names:
        pairs = None if name == base else _score_pairs(evaluated, name, base)
        if not pairs:
            continue
        own, reference = ({task: _items(pair[n]) for task, pair in pairs.items()} for n in (0, 1))
        if not (all(own.values()) and all(reference.values())):
            continue
        measured = [
            {t: {m.name: m.value(part[t]) for m in TASKS[t].measures} for t in part}
            for part in (own, reference)
        ]
        figures = [superb_score(part) for part in measured]
        ranked = is_ranked(*({n: superb_score(part, n) for n in FITTED} for part in measured))
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
                better=_judged(interval, True) if ranked else None,
                note=f"{'groups' if any(map(has_groups, own.values())) else 'items'} of each task "
                "only; constants speech-ft",
                warning=_score_warning(pairs, ranked),
            )
        )
    return found


def _score_pairs(
    evaluated: Sequence[Evaluated], name: str, base: str
) -> dict[str, tuple[Evaluated, Evaluated]]:
    """Return a figure of both encoders for each task of SUPERB_S: same evaluation, same protocol.

    Empty where a task is missing.
    """
    needed = constants_named("speech-ft").tasks
    for protocol in dict.fromkeys(e.row.protocol for e in evaluated):
        found: dict[str, tuple[Evaluated, Evaluated]] = {}
        for task in needed:
            one, two = (
                {
                    e.row.evaluation: e
                    for e in reversed(evaluated)
                    if (e.row.encoder, e.row.task, e.row.protocol) == (n, task, protocol)
                }
                for n in (name, base)
            )
            common = next((key for key in one if key is not None and key in two), None)
            if common is not None:
                found[task] = (one[common], two[common])
        if needed.keys() <= found.keys():
            return found
    return {}


def _score_warning(pairs: dict[str, tuple[Evaluated, Evaluated]], ranked: bool) -> str:
    found = [unlike(one.row, two.row) for one, two in pairs.values()]
    if not ranked:
        found.append(f"not ranked: less than {NEAR:g} points under some of the fitted constants")
    return "; ".join(dict.fromkeys(filter(None, found)))


def _items(e: Evaluated) -> list[Item]:
    try:
        return items_of(e.row, e.folder)
    except DataError:
        return []


def _judged(interval: tuple[float, float] | None, higher_is_better: bool) -> bool | None:
    if interval is None or interval[0] <= 0.0 <= interval[1]:
        return None
    return (interval[0] > 0.0) == higher_is_better


def difference_table(found: Sequence[Difference]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of differences for a terminal."""
    header = [
        "task",
        "metric",
        "encoder",
        "value",
        "baseline",
        "difference",
        "95 %",
        "p",
        "",
        "over",
    ]
    words = {True: "better", False: "worse", None: "open"}
    cells = []
    for d in found:
        digits = 2 if d.task == SCORE else measure_of(d.task, d.metric).decimals + 1
        low, high = d.interval or (float("nan"), float("nan"))
        cells.append(
            [
                d.task if d.layer is None else f"{d.task}, layer {d.layer}",
                d.metric,
                d.encoder,
                f"{d.value:.{digits}f}",
                f"{d.baseline_value:.{digits}f}",
                f"{d.difference:+.{digits}f}",
                f"{low:+.{digits}f} to {high:+.{digits}f}" if d.interval else "-",
                "-" if d.p_value is None else f"{d.p_value:.3f}",
                "; ".join(filter(None, [words[d.better] if d.interval else "", d.warning])),
                d.note,
            ]
        )
    return header, cells
