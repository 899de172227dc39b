"""Which result rows belong together: the newest evaluation of each test counts, others have names.

A folder holds what all commands into it measured. Whoever shows one figure of an encoder on a task
asks here which one that is: no reader chooses by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechft.errors import DataError
from speechft.results import ResultRow, mean_over_seeds, read_rows


@dataclass(frozen=True)
class Evaluated:
    """One figure of one encoder, and where its items lie."""

    row: ResultRow
    folder: Path
    """Of the file that holds the row; predictions are relative to it."""


def read_evaluated(files: Iterable[Path]) -> list[Evaluated]:
    """Return the figures of files ``results.jsonl``, each once.

    Raises:
        DataError: A file cannot be read; one name stands for two encoders; or an older version
            wrote the same figure twice, which cannot be told from two.
    """
    encoders: dict[str, Evaluated] = {}
    figures: dict[tuple[object, ...], Evaluated] = {}
    read = [(row, file.parent) for file in dict.fromkeys(files) for row in read_rows(file)]
    rows = _labelled_alike([row for row, _ in read])
    for row, (_, folder) in zip(rows, read, strict=True):
        e = Evaluated(row, folder)
        first = encoders.setdefault(row.encoder, e)
        again = figures.setdefault((*_figure(row), row.metric, row.evaluation, row.seed), e)
        twins = row.evaluation is None and again.folder != e.folder
        if first.row.encoder_digest != row.encoder_digest or twins:
            raise DataError(
                f"encoder {row.encoder!r} was evaluated on {row.task} in two places: "
                f"{(again if twins else first).folder} and {e.folder}",
                hint="give one of them, or evaluate them in one command: its names are distinct",
            )
    return list(figures.values())


def measured_on(row: ResultRow) -> dict[str, str]:
    """Return what a reader tells tests of one task apart by: corpus, split, protocol, settings.

    Other evaluations of the same test, such as after its table was corrected, replace each other.
    """
    corpus = row.details.get("corpus")
    named = {} if corpus is None else {"corpus": str(corpus)}
    return {**settings_of(row), **named, "split": row.split, "protocol": row.protocol}


def settings_of(row: ResultRow) -> dict[str, str]:
    """Return what was set that differs from the defaults and tells tests apart, such as a limit."""
    given = row.details.get("settings")
    settings = given if isinstance(given, Mapping) else {}
    return {str(name): str(value) for name, value in sorted(settings.items())}


def _labelled_alike(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Return rows of which those of one evaluation have one test: names are labels, digests count.

    A corpus may have had another name, and older versions did not write what was set.
    """
    told: dict[str | None, dict[str, Any]] = {}
    for row in rows:
        labels = {k: v for k, v in row.details.items() if k in ("settings", "corpus")}
        if row.evaluation not in told or "settings" not in told[row.evaluation]:
            told[row.evaluation] = labels
    return [
        row
        if row.evaluation is None or told[row.evaluation].items() <= row.details.items()
        else row.model_copy(update={"details": {**row.details, **told[row.evaluation]}})
        for row in rows
    ]


def apart(test: Mapping[str, str], others: Iterable[Mapping[str, str]]) -> str:
    """Say what a test has that others have not, such as ``limit 7``; empty where they are alike."""
    others = list(others)
    names = dict.fromkeys(name for one in (test, *others) for name in one)
    differing = [n for n in names if any(one.get(n) != test.get(n) for one in others)]
    return ", ".join(f"{n} {test[n]}" if n in test else f"no {n}" for n in differing)


def newest(rows: Iterable[ResultRow]) -> tuple[list[ResultRow], list[ResultRow]]:
    """Return the rows that count, each once, and those of older evaluations of the same test.

    Args:
        rows: In the order of files: of each encoder, later evaluations come last.
    """
    rows = _labelled_alike(list(rows))
    last = {_figure(row): row.evaluation for row in rows}
    counted: list[ResultRow] = []
    older: list[ResultRow] = []
    for row in {(*_figure(r), r.metric, r.evaluation, r.seed): r for r in rows}.values():
        (counted if row.evaluation == last[_figure(row)] else older).append(row)
    return counted, older


def _figure(row: ResultRow) -> tuple[object, ...]:
    """Return what evaluations share of which the newest counts."""
    test = tuple(sorted(measured_on(row).items()))
    return row.encoder, row.encoder_digest, row.task, row.part, row.layer, row.alpha, test


def newest_test(rows: Iterable[ResultRow]) -> dict[str, str]:
    """Return the test, of those of one task, that no encoder was measured on before another."""
    tests: dict[str, dict[str, str]] = {}
    last: dict[str, str] = {}
    earlier: set[str] = set()
    for row in rows:
        test = measured_on(row)
        key = repr(sorted(test.items()))
        tests[key] = tests.pop(key, test)
        if last.setdefault(row.encoder_digest, key) != key:
            earlier.add(last[row.encoder_digest])
        last[row.encoder_digest] = key
    return tests[[key for key in tests if key not in earlier or tests.keys() <= earlier][-1]]


@dataclass(frozen=True)
class Shown:
    """Rows of which every encoder has one evaluation of a task, ready to stand in one table."""

    rows: list[ResultRow]
    """Encoders have names that tell apart what was measured on other tests than the newest."""
    notes: list[str]
    """What was left out, and what lines hold whose names say nothing more; in sentences."""


def side_by_side(rows: Iterable[ResultRow]) -> Shown:
    """Return rows for a table with one figure of an encoder on a task.

    Args:
        rows: As in files, see `newest`.
    """
    counted, older = newest(rows)
    digests: dict[str, set[str]] = {}
    by_task: dict[tuple[str, str], list[ResultRow]] = {}
    for row in counted:
        digests.setdefault(row.encoder, set()).add(row.encoder_digest)
        by_task.setdefault((row.task, row.part), []).append(row)
    notes = left_out(counted, older)
    named = {id(row): row for row in counted}
    for (task, _), part in by_task.items():
        tests = {repr(test): test for test in map(measured_on, part)}
        own = newest_test(part)
        names = {key: apart(test, tests.values()) * (test != own) for key, test in tests.items()}
        if any(names.values()):
            notes.append(
                f"{task} was measured on several tests; lines whose names do not say which are of "
                f"the newest: {apart(own, tests.values())}."
            )
        for row in part:
            digest = row.encoder_digest[:8] * (len(digests[row.encoder]) > 1)
            more = ", ".join(filter(None, [digest, names[repr(measured_on(row))]]))
            if more:
                changes = {"encoder": f"{row.encoder} ({more})"}
                named[id(row)] = row.model_copy(update=changes)
    return Shown(list(named.values()), notes)


def left_out(counted: Iterable[ResultRow], older: Iterable[ResultRow]) -> list[str]:
    """Say which figures newer ones replace; arguments as `newest` returns them."""
    standing = {_figure(row): row for row in counted}
    return [
        f"{row.encoder or 'This model'}, {row.task}: {row.metric} {row.value:.2f} "
        f"({_evaluation_of(row)}) is left out; a newer evaluation of the same test stands for it "
        f"({_evaluation_of(standing[_figure(row)])})."
        for row in mean_over_seeds(older)
        if row.layer is None
    ]


def _evaluation_of(row: ResultRow) -> str:
    """Return how much was measured, and the beginning of the digest of the evaluation."""
    digest = row.evaluation or "of an older version"
    return f"{row.n} items, evaluation {digest[:8] if row.evaluation else digest}"
