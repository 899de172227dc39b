"""Search coefficients by layer group and method on one half of dev, and choose on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from speechft.data.manifest import Corpus
from speechft.errors import ConfigError, DataError
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.encoders import open_tasks
from speechft.extras import needs
from speechft.merging.config import MergeSettings
from speechft.merging.repeated import Merger
from speechft.parallel.claims import Workers
from speechft.results import ResultRow
from speechft.storage.files import json_digest
from speechft.storage.locks import lock, waiting
from speechft.storage.outputs import put_text
from speechft.sweeping.corpora import corpora_of, tell_corpora
from speechft.sweeping.drawing import FRONT, draw_front
from speechft.sweeping.judging import Items, Judged, chosen, in_words, judged
from speechft.sweeping.merged import merge_command
from speechft.sweeping.settings import Point, Rule, SweepSettings, upper_bound_text
from speechft.sweeping.space import SearchSettings, Space
from speechft.sweeping.sweep import (
    Bench,
    Measured,
    further,
    shares_downsampler,
    tasks_tuned_on,
)
from speechft.sweeping.writing import RESULTS_FILE, check_place, put_json
from speechft.tasks.base import Task
from speechft.tasks.measures import Item

if TYPE_CHECKING:
    import optuna

SEARCH_FILE, CHOSEN_FILE = "search.json", "chosen.yaml"
FIRST = 10
"""Trials that are drawn before any result counts, as optuna's sampler does; they are one round."""


@dataclass(frozen=True)
class Search:
    """What a search found."""

    rows: list[ResultRow]
    judged: list[Judged]
    """Every trial on the half of dev that the choice is made on, the base first."""
    tuned_on: tuple[str, ...]
    choice: Judged
    config: Path
    """The file that ``merge --config`` takes."""


def search(
    settings: SearchSettings,
    corpus: Sequence[str],
    config: EvaluationConfig,
    folder: Path,
    *,
    seed: int = 0,
    test: bool = False,
) -> Search:
    """Search, choose, and write the choice; test is opened after that, if at all.

    A trial is measured on dev. Its items on one half of the speakers (items where there are none)
    guide the search, and prune what breaks the rule there; of the others the choice is made by the
    rule on the other half, which no trial has seen. A trial takes one pass of the encoder for all
    tasks, so nothing is gained by giving one up between them. What was killed goes on: trials are
    drawn by the seed and what was measured is found again.

    Several processes may be given the same, see `sharing`: each draws the same trials and takes
    tasks of them that no other is at. The first round holds as many trials as the sampler draws
    before results count; after that a trial waits for the one before, and only its tasks are
    shared.

    Args:
        settings: What is searched.
        corpus: As `find_corpus` takes them; none for those that TUNED was tuned on.
        config: Tasks and protocol.
        folder: Where ``results.jsonl``, ``search.json``, ``chosen.yaml`` and the front go.
        seed: Of probes, halves and trials.
        test: Report base and choice on test in the end.

    Raises:
        ConfigError: optuna is not installed, or no task that was tuned on is measured.
        SpeechftError: As `speechft.sweeping.sweep.sweep`.
    """
    study = _study(seed)
    asked = settings.sweep
    check_place(folder, SEARCH_FILE, CHOSEN_FILE, FRONT)
    merger = Merger(asked.base, asked.tuned)
    space = Space.of(settings, merger.names)
    even = asked.merge.only(alpha=0.0, method="linear", options={}, rules={})
    base = Point(0.0, None, even, "base")
    shared = shares_downsampler(merger, space.point(space.even(1.0), "trial"))
    corpus = corpora_of(asked.tuned, corpus)
    tasks, corpora = open_tasks(corpus, config, folder, test=False)
    tell_corpora(asked.tuned, corpora.values())
    bench = Bench(asked, merger, shared, tasks, corpora, config, folder, seed)
    tuned_on = tasks_tuned_on(asked, [task.name for task in tasks])
    if not set(tuned_on) & {task.name for task in tasks}:
        raise ConfigError(
            f"tuned on {', '.join(tuned_on)}, of which nothing is measured",
            hint="add it to --tasks, or say --tuned-on",
        )
    with Workers(folder, "search", []) as workers:
        trials = _run(study, settings, space, bench, base, tuned_on, seed, workers)
        _write(bench)
        second = [(m.point, m.digest, half_of(m.items, seed, second=True)) for m in trials.measured]
        found = judged(second, tuned_on, asked.rule)
        able = [one for one, kept in zip(found, trials.kept, strict=True) if kept]
        choice = chosen(able)
        assert choice is not None  # the base is within every rule
        result = Search(bench.rows, found, tuned_on, choice, folder / CHOSEN_FILE)

        def put() -> None:
            told = {**_as_json(settings, result, trials), "forced": list(merger.forced)}
            with waiting(60), lock(folder):
                put_text(folder / CHOSEN_FILE, merge_yaml(asked, choice.point.settings))
                put_json(folder / SEARCH_FILE, told, asked.places)
                draw_front(told, folder)

        put()
        if test:
            opened: tuple[list[Task], dict[str, Corpus]] = open_tasks(corpus, config, folder)
            bench = Bench(asked, merger, shared, *opened, config, folder, seed)
            result = _tested(result, bench, base, workers)
            put()
    return result


def _tested(result: Search, bench: Bench, base: Point, workers: Workers) -> Search:
    """Report base and choice on test, which is open now."""
    point = result.choice.point
    points = [base] if point == base else [base, point]
    first, *others = bench.measure_together(points, workers, test=True)
    own = others[0] if others else first
    _write(bench)
    choice = replace(result.choice, further=further(own.tested, first.tested))
    every = [choice if one is result.choice else one for one in result.judged]
    return replace(result, rows=[*result.rows, *bench.rows], judged=every, choice=choice)


def _write(bench: Bench) -> None:
    """Write the rows so far; raise what failed."""
    with waiting(60), lock(bench.folder):
        bench.write()
    bench.failures.raise_any(bench.folder)


@dataclass(frozen=True)
class Trials:
    """What was measured: the base, and every trial; and which of them the first half lets pass."""

    measured: list[Measured]
    kept: list[bool]


def _run(
    study: optuna.Study,
    settings: SearchSettings,
    space: Space,
    bench: Bench,
    base: Point,
    tuned_on: Sequence[str],
    seed: int,
    workers: Workers,
) -> Trials:
    """Measure the base and all trials; equal ones once."""
    measured: list[Measured] = []
    kept: list[bool] = []
    known: dict[str, Judged | None] = {}

    def judge(drawn: Mapping[int, dict[str, Any]]) -> list[Outcome]:
        keys = {number: json_digest(one) for number, one in drawn.items()}
        new = {key: number for number, key in reversed(keys.items()) if key not in known}
        points = [space.point(drawn[n], f"trial {n}") for n in sorted(new.values())]
        first_round = [] if measured else [base]
        found = bench.measure_together([*first_round, *points], workers, test=False)
        if first_round:
            measured.append(found.pop(0))
            kept.append(True)
            if not measured[0].items:
                bench.failures.raise_any(bench.folder)
                raise DataError(f"the base could not be evaluated; see {bench.folder}")
        for number, one in zip(sorted(new.values()), found, strict=True):
            own = None
            if set(one.items) == set(measured[0].items):
                own = _first_half(measured[0], one, tuned_on, settings.sweep.rule, seed)
                measured.append(one)
                kept.append(own.within)
            known[keys[number]] = own
        judges = [known[key] for key in keys.values()]
        return [None if one is None else (one.gain or 0.0, one.within) for one in judges]

    for alpha in settings.sweep.alphas[: settings.trials]:
        study.enqueue_trial(space.even(alpha))
    play(study, settings.trials, space.suggest, judge)
    return Trials(measured, kept)


Outcome = tuple[float, bool] | None
"""What a trial gains, and whether it keeps to the rule; None where it could not be measured."""


def play(
    study: optuna.Study,
    trials: int,
    suggest: Callable[[optuna.Trial], dict[str, Any]],
    judge: Callable[[Mapping[int, dict[str, Any]]], Sequence[Outcome]],
) -> None:
    """Draw trials in rounds: those that no result decides at once, then one by one.

    What is drawn is what `optuna.Study.optimize` draws.

    Args:
        study: Whose sampler draws.
        trials: How many.
        suggest: Draws one.
        judge: Measures a round, drawn by number.
    """
    from optuna.trial import TrialState

    done = 0
    while done < trials:
        asked = [study.ask() for _ in range(min(max(FIRST - done, 1), trials - done))]
        outcomes = judge({trial.number: suggest(trial) for trial in asked})
        for trial, outcome in zip(asked, outcomes, strict=True):
            gain, within = outcome or (0.0, False)
            if outcome is not None:
                trial.report(gain, step=0)
            if within:
                study.tell(trial, gain)
            else:
                study.tell(trial, state=TrialState.PRUNED)
        done += len(asked)


def _first_half(
    first: Measured, one: Measured, tuned_on: Sequence[str], rule: Rule, seed: int
) -> Judged:
    pair = [(m.point, m.digest, half_of(m.items, seed, second=False)) for m in (first, one)]
    return judged(pair, tuned_on, rule)[1]


def half_of(items: Items, seed: int, *, second: bool) -> dict[str, list[list[Item]]]:
    """Return the items of one half of dev, the same half for every encoder.

    Groups of items, such as speakers, stay together and take turns in a seeded order, so that the
    halves are as even as they can be.

    Args:
        items: By task and probe seed.
        seed: Of the halves.
        second: The half that the choice is made on; else that which guides the search.

    Raises:
        DataError: A task has a single group of items, or item.
    """
    return {
        task: [_half(part, seed, second, task) for part in by_seed]
        for task, by_seed in items.items()
    }


def _half(items: Sequence[Item], seed: int, second: bool, task: str) -> list[Item]:
    units = sorted({_unit(item) for item in items}, key=lambda name: json_digest([seed, name]))
    if len(units) < 2:
        raise DataError(
            f"dev of task {task} holds a single {'speaker' if items else 'item'}: it has no halves",
            hint="a search needs two on dev at least",
        )
    kept = set(units[int(second) :: 2])
    return [item for item in items if _unit(item) in kept]


def _unit(item: Item) -> str:
    return item.group or f"item {item.id}"


def _study(seed: int) -> optuna.Study:
    with needs("search", "a search"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=FIRST)
    return optuna.create_study(direction="maximize", sampler=sampler)


def merge_yaml(asked: SweepSettings, settings: MergeSettings) -> str:
    """Return the merge as ``merge --config`` takes it."""
    content: dict[str, Any] = {
        "base": str(asked.base),
        "tuned": [str(one) for one in asked.tuned],
        "alpha": settings.coefficient,
        "method": settings.method,
    }
    for name in ("rules", "options"):
        if value := getattr(settings, name):
            content[name] = dict(value)
    if settings.allow:
        content["allow"] = list(settings.allow)
    content |= {"weight_norm": settings.weight_norm, "dtype": settings.dtype}
    return yaml.safe_dump(content, sort_keys=False)


def _as_json(settings: SearchSettings, result: Search, trials: Trials) -> dict[str, Any]:
    asked = settings.sweep
    points = [
        {**one.as_dict(), "pruned": not kept}
        for one, kept in zip(result.judged, trials.kept, strict=True)
    ]
    command = merge_command(asked.base, asked.tuned, result.choice.point.settings)
    return {
        "base": str(asked.base),
        "tuned": [str(one) for one in asked.tuned],
        "tuned_on": list(result.tuned_on),
        "rule": {"keep_within": asked.rule.keep_within, "text": upper_bound_text(asked.rule)},
        "halves": "trials are guided and pruned on one half of dev; these figures and the choice "
        "are of the other",
        "said": in_words(result.judged, result.choice, result.tuned_on),
        "points": points,
        "choice": result.choice.point.name,
        "command": command if result.choice is not result.judged[0] else None,
        "results": RESULTS_FILE,
    }
