"""What a reader has to know of a run beside its figures: warnings, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from speechft.belonging import measured_on
from speechft.evaluation.superb_table import at_edge
from speechft.results import ResultRow, of_all_layers
from speechft.tasks.left_out import PREPARED

COST_HEADER = ("what", "time", "peak memory", "updates", "audio, h", "skipped updates")


def warnings_of(
    rows: Sequence[ResultRow], histories: Mapping[str, Mapping[str, Any]], few: int
) -> list[str]:
    """Return what makes figures less sure or less comparable, a sentence each.

    Args:
        rows: Figures on test and dev, means over seeds.
        histories: Of fine-tunings, by name.
        few: Test items below which a figure says little.
    """
    return [
        *_of_probes(rows),
        *_overlap(rows),
        *_left_out({row.task: row.left_out for row in rows}),
        *_left_out_of_tunings(histories),
        *_differing(rows),
        *_few(rows, few),
        *_skipped(histories),
    ]


def _of_probes(rows: Sequence[ResultRow]) -> Iterator[str]:
    open_ended = [row for row in rows if row.details.get("converged") is False]
    if open_ended:
        yield f"Probes that were still improving when their training ended: {_named(open_ended)}."
    edge = [row for row in rows if _is_at_edge(row)]
    if edge:
        yield f"The learning rate lies at the edge of the grid that was tried: {_named(edge)}."


def _is_at_edge(row: ResultRow) -> bool:
    grid = row.details.get("grid")
    try:
        return isinstance(grid, Mapping) and at_edge(row)
    except ValueError:
        return False  # of another program: names that are no rates


def _named(rows: Iterable[ResultRow]) -> str:
    """Return tasks with the encoders that something is true of."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        name = row.encoder if row.layer is None else f"single layers of {row.encoder}"
        found.setdefault(row.task, {})[name] = None
    return "; ".join(f"{task} ({', '.join(names)})" for task, names in found.items())


def _overlap(rows: Sequence[ResultRow]) -> Iterator[str]:
    """Say which test items and speakers were tuned on or heard in pre-training."""
    for key, what in (("tuned_on", "tuned on"), ("pretrained_on", "heard in pre-training")):
        by_task = {row.task: row.details.get(key) for row in rows}
        for kind in ("utterances", "speakers", "sessions"):
            parts = [
                f"{task} {pair[0]} of {pair[1]}"
                for task, counts in by_task.items()
                if isinstance(counts, Mapping) and (pair := _pair(counts.get(kind))) and pair[0]
            ]
            if parts:
                yield f"Test {kind} that were {what}: {', '.join(parts)}."
        if by_task and all(counts == "unknown" for counts in by_task.values()):
            yield "What pre-training heard is not known here, nor whether test items were in it."
    for row in rows:
        clean = row.details.get("clean")
        if isinstance(clean, Mapping):
            value = clean.get("value")
            left = f"{value:.2f} instead of {row.value:.2f}" if _is_number(value) else "no figure"
            yield f"{row.encoder}, {row.task}: {row.metric} without items tuned on: {left}."


def _pair(value: Any) -> tuple[int, int] | None:
    whole = isinstance(value, Sequence) and [type(one) for one in value] == [int, int]
    return (value[0], value[1]) if whole else None


def _left_out(by_task: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    for task, reasons in by_task.items():
        own = {why: count for why, count in reasons.items() if not why.startswith(PREPARED)}
        lost = {why.removeprefix(PREPARED): reasons[why] for why in reasons.keys() - own.keys()}
        if own:
            yield (
                f"Items that {task} could not use were left out: {_counted(own)}; left_out.jsonl "
                "names them."
            )
        if lost:
            yield (
                f"Recordings that the corpus of {task} lost when it was prepared: "
                f"{_counted(lost)}; its issues.tsv names them."
            )


def _left_out_of_tunings(histories: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, history in histories.items():
        told = history.get("left_out")
        for task, reasons in told.items() if isinstance(told, Mapping) else ():
            if isinstance(reasons, Mapping) and all(type(n) is int for n in reasons.values()):
                yield from _left_out({f"fine-tuning {name} on {task}": reasons})


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} ({why})" for why, count in sorted(reasons.items()))


def _differing(rows: Sequence[ResultRow]) -> Iterator[str]:
    """Say where figures that stand side by side were not made alike."""
    for key, what in (("precision", "precision"), ("device", "devices"), ("kernel", "processors")):
        found = Counter(str(row.details[key]) for row in rows if key in row.details)
        if len(found) > 1:
            listed = ", ".join(f"{name} ({count} figures)" for name, count in found.items())
            yield f"Figures of different {what} stand side by side: {listed}."
    protocols = dict.fromkeys(row.protocol for row in rows)
    if len(protocols) > 1:
        yield f"Figures of different protocols stand side by side: {', '.join(protocols)}."
    yield from _evaluations(rows)


def _evaluations(rows: Sequence[ResultRow]) -> Iterator[str]:
    """Say where encoders in one column, which are of the same test, were not evaluated alike."""
    tests: dict[tuple[str, str, str], dict[tuple[str | None, int], ResultRow]] = {}
    for row in of_all_layers(rows):
        key = row.task, row.part, str(measured_on(row))
        tests.setdefault(key, {}).setdefault((row.evaluation, row.n), row)
    for (task, *_), found in tests.items():
        first = next(iter(found.values()))
        if len({count for _, count in found}) > 1:
            yield f"{task}: encoders were measured on different numbers of items of {first.split}."
        elif len(found) > 1:
            named = ", ".join(
                f"{row.encoder} {(key or 'older')[:8]}" for (key, _), row in found.items()
            )
            yield (
                f"{task}: encoders were measured by different evaluations ({named}): data or "
                "settings were not all the same."
            )


def _few(rows: Sequence[ResultRow], least: int) -> Iterator[str]:
    small = {row.task: row.n for row in rows if row.n < least}
    if small:
        listed = ", ".join(f"{task} {n}" for task, n in small.items())
        yield f"Fewer than {least} items, too few for a verdict: {listed}."


def _skipped(histories: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, history in histories.items():
        skipped = history.get("skipped")
        if isinstance(skipped, int) and skipped > 0:
            yield f"Fine-tuning {name} skipped {skipped} updates whose gradient was not finite."


def costs_of(
    histories: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, Any],
    memory: Mapping[str, Any],
) -> list[tuple[str, ...]]:
    """Return lines under `COST_HEADER`; empty cells are not recorded.

    Args:
        histories: Of fine-tunings, by name; they keep their time when a run goes on.
        seconds: By stage, of the last call of the run.
        memory: Peak of the process in GB, by kind.
    """
    lines: list[tuple[str, ...]] = []
    for name, history in histories.items():
        losses = history.get("losses")
        updates = str(len(losses)) if isinstance(losses, Sequence) else ""
        hours, skipped = history.get("hours_of_audio"), history.get("skipped")
        audio = f"{hours:.3g}" if _is_number(hours) else ""
        shown = str(skipped) if isinstance(skipped, int) else ""
        time = duration(history.get("seconds"))
        lines.append((f"fine-tuning, {name}", time, "", updates, audio, shown))
    lines += [(f"last call: {name}", duration(t), "", "", "", "") for name, t in seconds.items()]
    peaks = [f"{value:.2f} GB {kind}" for kind, value in memory.items() if _is_number(value)]
    if peaks:
        whole = sum(time for time in seconds.values() if _is_number(time))
        lines.append(("last call, in all", duration(whole), ", ".join(peaks), "", "", ""))
    return lines


def duration(seconds: Any) -> str:
    """Return a time in words: ``12 s``, ``3 min 20 s``, ``2 h 5 min``; nothing for no number."""
    if not _is_number(seconds) or seconds < 0:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _is_number(value: Any) -> bool:
    import math

    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
