"""Evaluate several encoders into one folder: earlier rows stay where nothing replaces them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechft.console import log, warn
from speechft.data.corpora import find_corpus
from speechft.data.manifest import Corpus
from speechft.errors import DataError
from speechft.evaluation.candidates import typed_candidates
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.failures import Failures
from speechft.evaluation.jobs import EncoderJobs, evaluate_all
from speechft.evaluation.protocols import protocol_notes
from speechft.evaluation.suite import assign_tasks, check_names
from speechft.features.downsampler import DownsamplerCache
from speechft.parallel.claims import Workers
from speechft.parallel.sharing import is_settled
from speechft.results import ResultRow, read_rows, write_rows
from speechft.storage.locks import lock, waiting
from speechft.storage.outputs import OTHERS, check_own, is_overwriting, replacing
from speechft.tasks import TASKS, find_task, is_task
from speechft.tasks.base import Task


def evaluate(
    encoders: Sequence[Any],
    corpus: str | Sequence[str],
    config: EvaluationConfig,
    folder: Path,
    *,
    seed: int = 0,
) -> list[ResultRow]:
    """Evaluate frozen encoders; writes ``results.jsonl``.

    Rows of earlier evaluations into the same folder stay, where nothing new replaces them. Any
    number of processes may be given the same: each does what no other is at, see `sharing`, and
    all end with the same rows.

    Args:
        encoders: As the user typed or gave them, see `typed_candidates`.
        corpus: As `find_corpus` takes it, one or several; see `assign_tasks`.
        config: Tasks and protocol.
        folder: Where results go.
        seed: Seed of the probes.

    Raises:
        SpeechftError: Something is wrong with an encoder, a task or the corpus. Where single tasks
            of encoders fail, all others are evaluated and written before it is raised.
    """
    candidates = typed_candidates(encoders)
    digests = {candidate.name: candidate.digest() for candidate in candidates}
    tasks, by_task = open_tasks(corpus, config, folder)
    file = folder / "results.jsonl"
    check_own(file, earlier=lambda: has_rows(file))
    cache, failures = DownsamplerCache(), Failures()
    jobs = [
        EncoderJobs(candidate, tasks, by_task, config, folder, seed=seed, cache=cache)
        for candidate in candidates
    ]
    units = [unit for one in jobs for unit in one.units()]
    if is_settled(folder, units):
        found = evaluate_all(jobs, folder)
    else:
        with Workers(folder, "evaluate", [unit.name for unit in units]) as workers:
            found = evaluate_all(jobs, folder, workers)
    rows = []
    for one, (own, errors) in zip(jobs, found, strict=True):
        failures.add(one.candidate.name, errors)
        rows += own
    if not _stands(file, rows, digests):
        with waiting(60), lock(folder):
            if not _stands(file, rows, digests):  # another process may have written it meanwhile
                with replacing(file, earlier=lambda: has_rows(file)) as hidden:
                    write_rows(hidden, with_earlier(earlier_rows(file), rows, digests))
    failures.raise_any(folder)
    return rows


def open_tasks(
    corpus: str | Sequence[str], config: EvaluationConfig, folder: Path, *, test: bool = True
) -> tuple[list[Task], dict[str, Corpus]]:
    """Open corpora, and return the tasks to evaluate with the corpus of each, see `assign_tasks`.

    Args:
        corpus: As `find_corpus` takes it, one or several.
        config: Tasks and protocol.
        folder: Where corpora are made that are none yet.
        test: Whether test may be read; else it cannot be, see `Corpus.closed`.
    """
    check_names(config)
    opened = open_corpora(corpus, folder, test=test)
    tasks, by_task = assign_tasks(config, opened)
    for note, about in protocol_notes(config.protocol, tasks).items():
        log(f"protocol {config.protocol}, {', '.join(about)}: {note}")
    return tasks, by_task


def open_corpora(corpus: str | Sequence[str], folder: Path, *, test: bool = True) -> list[Corpus]:
    """Open corpora; arguments as for `open_tasks`."""
    given = [corpus] if isinstance(corpus, str) else corpus
    places = [folder / f"corpus{f'-{n}' * (n > 1)}" for n in range(1, len(given) + 1)]
    opened = [find_corpus(c, place) for c, place in zip(given, places, strict=True)]
    for one in opened:
        log(f"corpus: {one.told}")
    return opened if test else [without_test(one) for one in opened]


def without_test(corpus: Corpus) -> Corpus:
    """Return a corpus whose test splits are closed, but those that a task trains or chooses on.

    Such are the splits of several folds: each is tested on in one and trained on in the others.
    """
    named = {*TASKS, *filter(is_task, corpus.info.get("task_splits", {}))}
    folds = [names for task in named for names in find_task(task).folds(corpus)]
    used = {name for train, dev, _ in folds for name in (train, dev)}
    return replace(corpus, closed=frozenset(test for *_, test in folds) - used)


def earlier_rows(file: Path) -> list[ResultRow]:
    """Return the rows of earlier commands; none where the user lets something else be replaced.

    Raises:
        DataError: The file holds something else.
    """
    try:
        return read_rows(file) if file.exists() else []
    except DataError as error:
        if is_overwriting():
            return []
        raise DataError(error.message, hint=OTHERS) from None


def has_rows(file: Path) -> bool:
    """Return whether a file holds rows, of which every one that stays true is kept.

    Raises:
        DataError: It holds something else.
    """
    return bool(earlier_rows(file))


def _stands(file: Path, rows: Sequence[ResultRow], digests: Mapping[str, str]) -> bool:
    """Return whether a file holds all that is to be written into it."""
    earlier = earlier_rows(file)
    return file.exists() and with_earlier(earlier, rows, digests, tell=False) == earlier


def with_earlier(
    earlier: Sequence[ResultRow],
    rows: Sequence[ResultRow],
    digests: Mapping[str, str],
    *,
    tell: bool = True,
) -> list[ResultRow]:
    """Return new rows with those earlier ones that nothing replaces and whose names mean the same.

    Encoders keep the places that they had, so that the first stays first; of each, what was asked
    for last comes last, see `speechft.belonging.newest`.

    Args:
        earlier: Rows that the folder held.
        rows: New rows.
        digests: Of the encoders that were evaluated now, by name.
        tell: Say which names mean another encoder now.
    """
    measured: set[tuple[object, ...]] = {(r.encoder, r.task, r.evaluation, r.seed) for r in rows}
    measured |= {(r.encoder, r.task, None, r.protocol) for r in rows}
    kept, others = [], set()
    for row in earlier:
        older = row.evaluation is None
        key = (row.encoder, row.task, row.evaluation, row.protocol if older else row.seed)
        if digests.get(row.encoder, row.encoder_digest) != row.encoder_digest:
            others.add(row.encoder)
        elif key not in measured:
            kept.append(row)
    for name in sorted(others) if tell else ():
        warn(f"{name} is another encoder than before: earlier figures of that name are left out")
    places = {row.encoder: place for place, row in reversed([*enumerate([*earlier, *rows])])}
    return sorted([*kept, *rows], key=lambda row: places[row.encoder])
