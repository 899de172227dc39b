"""Sweep merging coefficients: merge in memory, evaluate frozen, compare with the base, choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speechft.arguments import real_place
from speechft.console import log, warn
from speechft.data.manifest import Corpus
from speechft.errors import DataError, SpeechftError
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.encoders import earlier_rows, has_rows, open_tasks, with_earlier
from speechft.evaluation.failures import Failure, Failures
from speechft.evaluation.identity import slug
from speechft.evaluation.jobs import EncoderJobs, evaluate_all
from speechft.evaluation.predictions import dev_file, items_of, read_items
from speechft.features.downsampler import DownsamplerCache
from speechft.merging.lineage import evidence
from speechft.merging.repeated import Merger
from speechft.parallel.claims import Claim, Workers
from speechft.parallel.sharing import Unit, work_off
from speechft.results import ResultRow, Role, of_all_layers, write_rows
from speechft.storage.files import json_digest
from speechft.storage.locks import lock, waiting
from speechft.storage.outputs import replacing
from speechft.sweeping.corpora import corpora_of, tell_corpora
from speechft.sweeping.drawing import PICTURES, draw
from speechft.sweeping.judging import Change, Items, Judged, change_of, chosen, in_words, judged
from speechft.sweeping.merged import MergedCandidate, Place, merge_command
from speechft.sweeping.settings import Point, SweepSettings, points_of, upper_bound_text
from speechft.sweeping.tuning import find_tuning
from speechft.sweeping.writing import RESULTS_FILE, check_place, put_json
from speechft.tasks.base import Task
from speechft.tasks.measures import Item

SWEEP_FILE = "sweep.json"


@dataclass(frozen=True)
class Sweep:
    """What a sweep found."""

    rows: list[ResultRow]
    """Figures; those of a merge have its ``alpha``."""
    judged: list[Judged]
    """Every merge against the base, which is the first."""
    tuned_on: tuple[str, ...]
    choice: Judged | None
    """The merge to take; None where no task that was tuned on was measured."""
    command: str | None
    """The command that writes it to disk; None for the base, which is there."""
    suggestion: Any = None
    """Where one was asked for, a `speechft.sweeping.suggestion.Suggestion` in place of the rest."""


def sweep(
    settings: SweepSettings,
    corpus: Sequence[str],
    config: EvaluationConfig,
    folder: Path,
    *,
    seed: int = 0,
    test: bool = False,
) -> Sweep:
    """Evaluate merges that are never written; writes ``results.jsonl``, ``sweep.json``, pictures.

    Base and tuned encoders are read once. Every evaluation is a stage of its own: what a killed
    sweep had done is not done again. Several processes may be given the same, see `sharing`: each
    takes merges that no other is at.

    Args:
        settings: Which merges.
        corpus: As `find_corpus` takes them; none for those that TUNED was tuned on.
        config: Tasks and protocol.
        folder: Where results go.
        seed: Seed of the probes.
        test: Report the test split beside what is chosen on dev; else test stays unread.

    Raises:
        SpeechftError: Something is wrong with an encoder, a task or the corpus. Where single tasks
            fail, all others are measured and written before it is raised.
    """
    check_place(folder, SWEEP_FILE, *PICTURES)
    merger = Merger(settings.base, settings.tuned)
    points = points_of(settings, merger.names)
    shared = shares_downsampler(merger, points[-1])
    corpus = corpora_of(settings.tuned, corpus)
    tasks = open_tasks(corpus, config, folder, test=test)
    tell_corpora(settings.tuned, tasks[1].values())
    bench = Bench(settings, merger, shared, *tasks, config, folder, seed)
    tuned_on = tasks_tuned_on(settings, [task.name for task in bench.tasks])
    units = [bench.unit(point, test=test) for point in points]
    work_off(folder, "sweep", units)
    measured = [bench.measure(point, test=test) for point in points]
    with waiting(60), lock(folder):
        bench.write()
        complete = [one for one in measured if one.items]
        if not complete or complete[0].point != points[0]:
            bench.failures.raise_any(folder)
            raise DataError(f"the base of the sweep could not be evaluated; see {folder}")
        triples = [(one.point, one.digest, one.items) for one in complete]
        found = judged(triples, tuned_on, settings.rule)
        if test:
            found = [
                replace(judge, further=further(one.tested, complete[0].tested))
                for judge, one in zip(found, complete, strict=True)
            ]
        result = _result(settings, bench.rows, found, tuned_on)
        told = {**as_json(settings, result), "forced": list(merger.forced)}
        put_json(folder / SWEEP_FILE, told, settings.places)
        draw(told, folder)
        bench.failures.raise_any(folder)
    return result


@dataclass(frozen=True)
class Measured:
    """One merge, evaluated."""

    point: Point
    digest: str
    items: Items
    """On dev, by task and probe seed."""
    tested: Items
    """On test, where that is reported."""
    rows: list[ResultRow]
    failures: list[Failure]
    """Tasks that could not be evaluated."""


class Bench:
    """Evaluates merges of the same encoders on the same tasks.

    Args:
        settings: The encoders.
        merger: Holds them.
        shared: Whether all merges have the downsampler of the base.
        tasks: What on.
        corpora: Where, by task.
        config: How.
        folder: Where results go.
        seed: First seed of the probes.
    """

    def __init__(
        self,
        settings: SweepSettings,
        merger: Merger,
        shared: bool,
        tasks: list[Task],
        corpora: dict[str, Corpus],
        config: EvaluationConfig,
        folder: Path,
        seed: int,
    ) -> None:
        self.tasks, self.folder = tasks, folder
        self._settings, self._merger, self._config = settings, merger, config
        self._corpora, self._seed = corpora, seed
        self._cache = DownsamplerCache() if shared else None
        self._place = Place()
        self._measured: dict[str, Measured] = {}

    @property
    def rows(self) -> list[ResultRow]:
        """Return the rows of all merges, in the order that they were last asked for."""
        return [row for one in self._measured.values() for row in one.rows]

    @property
    def failures(self) -> Failures:
        """Return what of all merges could not be evaluated."""
        return Failures([one for found in self._measured.values() for one in found.failures])

    def unit(self, point: Point, *, test: bool) -> Unit:
        """Return the evaluation of one merge as a unit of work; arguments as for `measure`."""
        about = [real_place(one) for one in self._settings.places]
        key = json_digest([about, point.settings.changed()])[:8]

        def done() -> bool:
            return point.name in self._measured or self._is_done(point, test)

        def run(claim: Claim | None) -> None:
            if failures := self.measure(point, test=test, claim=claim).failures:
                raise failures[0].error

        return Unit(f"merge/{slug(point.name)}-{key}", done, run)

    def measure(self, point: Point, *, test: bool, claim: Claim | None = None) -> Measured:
        """Evaluate one merge, and forget its weights.

        Args:
            point: The merge.
            test: Report the test split too.
            claim: That this process works under.
        """
        found = self._measured.pop(point.name, None) or self._measure(point, test, claim)
        self._measured[point.name] = found
        return found

    def measure_together(
        self, points: Sequence[Point], workers: Workers, *, test: bool
    ) -> list[Measured]:
        """Evaluate merges with other processes: each takes tasks of merges that no other is at.

        Args:
            points: The merges.
            workers: The processes.
            test: Report the test split too.
        """
        jobs = [self._jobs(point, test) for point in points]
        workers.plan([one.unit(task) for one in jobs for task in one.jobs])
        done = evaluate_all(jobs, self.folder, workers)
        for point, one, (rows, errors) in zip(points, jobs, done, strict=True):
            self._measured.pop(point.name, None)
            self._measured[point.name] = self._read(point, one, rows, errors, test)
        return [self._measured[point.name] for point in points]

    def _jobs(self, point: Point, test: bool) -> EncoderJobs:
        about = (self._candidate(point), self.tasks, self._corpora, self._config, self.folder)
        return EncoderJobs(*about, seed=self._seed, test=test, cache=self._cache)

    def _is_done(self, point: Point, test: bool) -> bool:
        return all(unit.done() for unit in self._jobs(point, test).units())

    def _measure(self, point: Point, test: bool, claim: Claim | None) -> Measured:
        jobs = self._jobs(point, test)
        [(rows, errors)] = evaluate_all([jobs], self.folder, part_of=claim)
        return self._read(point, jobs, rows, errors, test)

    def _read(
        self,
        point: Point,
        jobs: EncoderJobs,
        rows: list[ResultRow],
        errors: Mapping[str, SpeechftError],
        test: bool,
    ) -> Measured:
        failures = Failures()
        failures.add(jobs.candidate.name, errors)
        whole = of_all_layers(rows)
        dev = _by_task(whole, lambda row: self._dev_items(row, test))
        tested = _by_task(whole, lambda row: items_of(row, self.folder)) if test else {}
        return Measured(point, jobs.digest, dev, tested, rows, failures.found)

    def write(self) -> None:
        """Write all rows so far, with those of earlier commands that nothing replaces."""
        file = self.folder / RESULTS_FILE
        earlier = earlier_rows(file)
        digests = {name: one.digest for name, one in self._measured.items()}
        with replacing(file, earlier=lambda: has_rows(file)) as hidden:
            write_rows(hidden, with_earlier(earlier, self.rows, digests))

    def _candidate(self, point: Point) -> MergedCandidate:
        settings = self._settings
        command = merge_command(settings.base, settings.tuned, point.settings)
        return MergedCandidate(
            point.name,
            f"merge of {' and '.join(str(one) for one in (settings.base, *settings.tuned))}",
            alpha=point.alpha,
            role=Role.MERGED,
            made_by=command,
            merger=self._merger,
            settings=point.settings,
            place=self._place,
        )

    def _dev_items(self, row: ResultRow, test: bool) -> list[Item]:
        if not test:
            return items_of(row, self.folder)
        return read_items(self.folder / dev_file(str(row.predictions)))


def shares_downsampler(merger: Merger, point: Point) -> bool:
    """Return whether merges have the convolutions of the base; merges once, before anything else.

    What speaks against merging and is let pass is said.

    Raises:
        LineageError: The models do not belong together, or a tuned one is the base.
    """
    changes = merger.merge(point.settings).changes
    for objection in merger.forced:
        warn(f"merged nevertheless: {objection}")
    if not any(evidence(change).cnn_equal is False for change in changes):
        return True
    log("the tuned encoders have a downsampler of their own: it runs anew for every merge")
    return False


def _by_task(
    rows: Sequence[ResultRow], read: Callable[[ResultRow], list[Item]]
) -> dict[str, list[list[Item]]]:
    """Return the items of the first measure of each task, by probe seed."""
    found: dict[str, dict[int, list[Item]]] = {}
    for row in rows:
        if row.seed not in found.setdefault(row.task, {}):
            found[row.task][row.seed] = read(row)
    return {task: [items for _, items in sorted(by.items())] for task, by in found.items()}


def further(own: Items, base: Items) -> dict[str, Change]:
    """Return the changes on test by task, of the tasks that both were evaluated on."""
    return {task: change_of(task, own[task], base[task]) for task in own if task in base}


def tasks_tuned_on(settings: SweepSettings, measured: Sequence[str]) -> tuple[str, ...]:
    """Return what was tuned on: what the user says, or the folders of the tuned encoders tell.

    Where nothing tells, the first task that is measured stands for it, which is said.

    Args:
        settings: The encoders.
        measured: Tasks that are evaluated.
    """
    told = settings.tuned_on or tuple(_told(settings.tuned))
    if told:
        if not set(told) & set(measured):
            warn(
                f"tuned on {', '.join(told)}, which is not among the tasks {', '.join(measured)}: "
                "what is gained is not measured, and no alpha is chosen"
            )
        return tuple(dict.fromkeys(told))
    log(
        f"nothing beside the tuned encoder tells what it was tuned on: {measured[0]} is taken "
        "(--tuned-on says otherwise)"
    )
    return (measured[0],)


def _told(tuned: Sequence[Any]) -> Iterator[str]:
    for encoder in tuned:
        tuning = find_tuning(encoder)
        yield from () if tuning is None else tuning.tasks


def _result(
    settings: SweepSettings,
    rows: list[ResultRow],
    found: list[Judged],
    tuned_on: tuple[str, ...],
) -> Sweep:
    choice = chosen(found)
    command = None
    if choice is not None and choice is not found[0]:
        command = merge_command(settings.base, settings.tuned, choice.point.settings)
    return Sweep(rows, found, tuned_on, choice, command)


def as_json(settings: SweepSettings, result: Sweep) -> dict[str, Any]:
    """Return what ``sweep.json`` says: the rule, every merge against the base, and the choice."""
    return {
        "base": str(settings.base),
        "tuned": [str(one) for one in settings.tuned],
        "tuned_on": list(result.tuned_on),
        "by": settings.by,
        "rule": {"keep_within": settings.rule.keep_within, "text": upper_bound_text(settings.rule)},
        "said": in_words(result.judged, result.choice, result.tuned_on),
        "points": [one.as_dict() for one in result.judged],
        "choice": None if result.choice is None else result.choice.point.name,
        "command": result.command,
    }
