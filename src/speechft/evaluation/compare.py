"""Differences between evaluated encoders on the same items, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from speechft.belonging import Evaluated, apart, measured_on, read_evaluated, settings_of
from speechft.console import warn
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
from speechft.results import ResultRow, Role, check_number
from speechft.tasks import TASKS, measure_of
from speechft.tasks.measures import Item, Measure

SCORE = "SUPERB_S"


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
    measured_on: Mapping[str, str] = field(default_factory=dict)
    """Corpus, split, protocol and settings of the encoder's figure; empty for SUPERB_S."""
    evaluation: str | None = None
    """Digest of the encoder's evaluation, as in its rows; None for SUPERB_S."""


def compare(files: Sequence[Path], baseline: str | None = None) -> list[Difference]:
    """Compare every encoder with a baseline.

    Args:
        files: Files ``results.jsonl`` of evaluations; their rows name the predictions.
        baseline: Name of the encoder that the others are compared with; None takes that of the
            first file which the others started from, else its first.

    Raises:
        DataError: A file cannot be read, there is only one encoder, or there are too many.
        ConfigError: There is no such encoder.
    """
    evaluated = read_evaluated(files)
    check_number(e.row for e in evaluated)
    names = list(dict.fromkeys(e.row.encoder for e in evaluated))
    if baseline is not None and baseline not in names:
        raise unknown_choice("encoder", baseline, names)
    base = _start(evaluated) if baseline is None else baseline
    if len(names) < 2:
        raise DataError(
            f"there is nothing to compare: the results hold {', '.join(names) or 'nothing'}",
            hint="evaluate two encoders, or give two files of results",
        )
    _tell_missing(evaluated)
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


def _tell_missing(evaluated: Sequence[Evaluated]) -> None:
    """Warn of predictions that rows name and that are not there, as where rows were copied."""
    places = [e.folder / e.row.predictions for e in evaluated if e.row.predictions is not None]
    missing = [place for place in dict.fromkeys(places) if not place.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        warn(
            f"predictions are missing: {missing[0]}{more}; there are no intervals without them: "
            "copy the folder evaluation beside results.jsonl, or evaluate again"
        )


Key = tuple[str, str, str, str, str, int | None]


def _key(row: ResultRow) -> Key:
    """Return what two figures must share to be compared."""
    return row.task, row.metric, row.protocol, row.split, row.part, row.layer


def _start(evaluated: Sequence[Evaluated]) -> str:
    """Return the encoder of the first file that its others started from; else its first."""
    first = [e.row for e in evaluated if e.folder == evaluated[0].folder]
    started = [row for row in first if row.role is Role.PRE_TRAINED]
    started += [row for row in first if row.role is Role.MERGED and row.alpha == 0.0]
    return next((row.encoder for row in [*started, *first]), "")


def _chosen(evaluated: Sequence[Evaluated], encoder: str, key: Key) -> list[Evaluated]:
    return [e for e in evaluated if e.row.encoder == encoder and _key(e.row) == key]


def _pairs(first: list[Evaluated], second: list[Evaluated]) -> list[Difference]:
    """Compare the evaluations that two encoders have in common, the newest of every test.

    Where they have none, their newest figures are compared as far as the items are the same, and
    the note says that data or settings were others.

    Args:
        first: Figures of one encoder on one metric.
        second: Of the baseline.
    """
    if not first or not second:
        return []
    known = [{e.row.evaluation for e in part} - {None} for part in (first, second)]
    if not all(known):
        note = "no interval: an older version kept no predictions"
        return [_difference(first[-1:], second[-1:], None, None, note)]
    common = {
        str(measured_on(e.row)): e.row.evaluation
        for e in first
        if e.row.evaluation in known[0] & known[1]
    }
    if common:
        return [_shared(first, second, one) for one in common.values()]
    parts = (_of_evaluation(part, part[-1].row.evaluation) for part in (first, second))
    found = _compared(*parts)
    warning = "; ".join(["other data or settings", *filter(None, [found.warning])])
    return [replace(found, warning=warning)]


def _of_evaluation(evaluated: Sequence[Evaluated], one: str | None) -> list[Evaluated]:
    return [e for e in evaluated if e.row.evaluation == one]


def _shared(first: list[Evaluated], second: list[Evaluated], one: str | None) -> Difference:
    """Compare two encoders by one evaluation, and say where a newer one of its test is not both's.

    Args:
        first: Figures of one encoder on one metric.
        second: Of the baseline.
        one: The evaluation.
    """
    found = _compared(*(_of_evaluation(part, one) for part in (first, second)))
    alone = []
    for part in (first, second):
        same = [e.row for e in part if measured_on(e.row) == found.measured_on]
        if same[-1].evaluation != one:
            alone.append(same[-1].encoder)
    if alone:
        newer = f"{' and '.join(alone)} alone evaluated on newer data or settings"
        found = replace(found, warning="; ".join(filter(None, [found.warning, newer])))
    return found


def _compared(first: list[Evaluated], second: list[Evaluated]) -> Difference:
    """Compare two encoders by the items of the same evaluation."""
    shared = {e.row.seed for e in first} & {e.row.seed for e in second}
    if shared:
        first, second = ([e for e in part if e.row.seed in shared] for part in (first, second))
    row = first[0].row
    measure = measure_of(row.task, row.metric)
    items = [[_items(e) for e in part] for part in (first, second)]
    parts = zip((first, second), items, strict=True)
    lost = [part[0].row.encoder for part, found in parts if not all(found)]
    if lost:
        note = f"no interval: predictions of {' and '.join(lost)} cannot be read"
        return _difference(first, second, None, None, note)
    same = {tuple(item.id for item in part) for parts in items for part in parts}
    if len(same) != 1:
        return _difference(first, second, None, None, "no interval: items differ")
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
        measured_on=measured_on(row),
        evaluation=row.evaluation,
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
        own, reference = (
            {task: _items(pair[n], TASKS[task].measures) for task, pair in pairs.items()}
            for n in (0, 1)
        )
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
    """Return a figure of both encoders for each task of SUPERB_S: same evaluation, protocol, part.

    Empty where a task is missing.
    """
    needed = constants_named("speech-ft").tasks
    for kind in dict.fromkeys((e.row.protocol, e.row.part) for e in evaluated):
        found: dict[str, tuple[Evaluated, Evaluated]] = {}
        for task in needed:
            one, two = (
                {
                    e.row.evaluation: e
                    for e in reversed(evaluated)
                    if (e.row.encoder, e.row.task, e.row.protocol, e.row.part) == (n, task, *kind)
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
    for task, (one, _) in pairs.items():
        found += [f"{task} with {name} {value}" for name, value in settings_of(one.row).items()]
    if not ranked:
        found.append(f"not ranked: less than {NEAR:g} points under some of the fitted constants")
    return "; ".join(dict.fromkeys(filter(None, found)))


def _items(e: Evaluated, measures: Sequence[Measure] = ()) -> list[Item]:
    """Return the scored items of a row; none where they cannot be read.

    Args:
        e: The row.
        measures: Whose counts they must have, which those of older versions may lack; none given
            are that of the row.
    """
    try:
        items = items_of(e.row, e.folder)
        for measure in measures or [measure_of(e.row.task, e.row.metric)]:
            measure.value(items)
    except (DataError, KeyError):
        return []
    return items


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
    tests: dict[tuple[str, int | None], list[Mapping[str, str]]] = {}
    for d in found:
        tests.setdefault((d.task, d.layer), []).append(d.measured_on)
    several = {key: list({str(one): one for one in part}.values()) for key, part in tests.items()}
    cells = []
    for d in found:
        layer = "" if d.layer is None else f"layer {d.layer}"
        test = apart(d.measured_on, several[d.task, d.layer])
        digits = 2 if d.task == SCORE else measure_of(d.task, d.metric).decimals + 1
        low, high = d.interval or (float("nan"), float("nan"))
        cells.append(
            [
                ", ".join(filter(None, [d.task, layer, test])),
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
