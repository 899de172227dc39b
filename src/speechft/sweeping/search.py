"""Search coefficients by layer group and method on one half of dev, and choose on the other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from speechft.console import log
from speechft.data.manifest import Corpus
from speechft.errors import ConfigError, DataError
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.encoders import open_tasks
from speechft.extras import needs
from speechft.files import json_digest
from speechft.merging.coefficients import last_layer
from speechft.merging.config import MergeSettings
from speechft.merging.methods import find_method
from speechft.merging.repeated import Merger
from speechft.outputs import put_text
from speechft.results import ResultRow
from speechft.runs import lock
from speechft.sweeping.drawing import FRONT, draw_front
from speechft.sweeping.judging import Items, Judged, chosen, in_words, judged
from speechft.sweeping.merged import merge_command
from speechft.sweeping.settings import Point, Rule, SweepSettings, upper_bound_text
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
STEP = 0.05
"""Of the coefficients that are tried."""


@dataclass(frozen=True)
class SearchSettings:
    """What is searched."""

    sweep: SweepSettings
    """Encoders, tuned tasks and rule; its coefficients are the first that are tried."""
    methods: tuple[str, ...] = ("linear",)
    """Merge methods to choose from."""
    groups: int = 3
    """Groups of neighbouring layers with a coefficient each."""
    trials: int = 30
    """Merges to measure."""

    def __post_init__(self) -> None:
        """Check what can be checked without the models.

        Raises:
            ConfigError: A method takes no coefficients by layer, or there is nothing to search.
        """
        for name, value in (("groups", self.groups), ("trials", self.trials)):
            if value < 1:
                raise ConfigError(f"{name} is {value}, expected a whole number from 1 on")
        if not self.methods:
            raise ConfigError("no method to search", hint="give --methods linear")
        for name in self.methods:
            kind = find_method(name)
            if not (kind.takes_alpha and kind.takes_rules):
                raise ConfigError(
                    f"method {name!r} sets alpha per tensor itself: there is nothing to search",
                    hint="take methods such as linear, ties or dare-ties",
                )


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
    corpus: str | Sequence[str],
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

    Args:
        settings: What is searched.
        corpus: As `find_corpus` takes it.
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
    with lock(folder):
        check_place(folder, SEARCH_FILE, CHOSEN_FILE, FRONT)
        merger = Merger(asked.base, asked.tuned)
        space = Space.of(settings, merger.names)
        even = asked.merge.only(alpha=0.0, method="linear", options={}, rules={})
        base = Point(0.0, None, even, "base")
        shared = shares_downsampler(merger, space.point(space.even(1.0), "trial"))
        tasks, corpora = open_tasks(corpus, config, folder, test=False)
        bench = Bench(asked, merger, shared, tasks, corpora, config, folder, seed)
        tuned_on = tasks_tuned_on(asked, [task.name for task in tasks])
        if not set(tuned_on) & {task.name for task in tasks}:
            raise ConfigError(
                f"tuned on {', '.join(tuned_on)}, of which nothing is measured",
                hint="add it to --tasks, or say --tuned-on",
            )
        trials = _run(study, settings, space, bench, base, tuned_on, seed)
        bench.write()
        bench.failures.raise_any(folder)
        second = [(m.point, m.digest, half_of(m.items, seed, second=True)) for m in trials.measured]
        found = judged(second, tuned_on, asked.rule)
        able = [one for one, kept in zip(found, trials.kept, strict=True) if kept]
        choice = chosen(able)
        assert choice is not None  # the base is within every rule
        put_text(folder / CHOSEN_FILE, merge_yaml(asked, choice.point.settings))
        result = Search(bench.rows, found, tuned_on, choice, folder / CHOSEN_FILE)

        def put() -> None:
            told = {**_as_json(settings, result, trials), "forced": list(merger.forced)}
            put_json(folder / SEARCH_FILE, told, asked.places)
            draw_front(told, folder)

        put()
        if test:
            result = _tested(result, settings, merger, shared, corpus, config, folder, seed, base)
            put()
        log(f"choice: {choice.point.name}, {CHOSEN_FILE}")
    return result


def _tested(
    result: Search,
    settings: SearchSettings,
    merger: Merger,
    shared: bool,
    corpus: str | Sequence[str],
    config: EvaluationConfig,
    folder: Path,
    seed: int,
    base: Point,
) -> Search:
    """Report base and choice on test, which is opened here."""
    opened: tuple[list[Task], dict[str, Corpus]] = open_tasks(corpus, config, folder)
    bench = Bench(settings.sweep, merger, shared, *opened, config, folder, seed)
    first = bench.measure(base, test=True)
    own = first if result.choice.point == base else bench.measure(result.choice.point, test=True)
    bench.write()
    bench.failures.raise_any(folder)
    choice = replace(result.choice, further=further(own.tested, first.tested))
    every = [choice if one is result.choice else one for one in result.judged]
    return replace(result, rows=[*result.rows, *bench.rows], judged=every, choice=choice)


@dataclass(frozen=True)
class Trials:
    """What was measured: the base, and every trial; and which of them the first half lets pass."""

    measured: list[Measured]
    kept: list[bool]


@dataclass(frozen=True)
class Space:
    """Coefficients by group of tensors, and methods."""

    settings: SearchSettings
    groups: dict[str, tuple[str, ...]]
    """Selectors by name of the group."""

    @classmethod
    def of(cls, settings: SearchSettings, names: Sequence[str]) -> Space:
        """Return the space of an encoder with such names of tensors.

        Raises:
            ConfigError: It has fewer layers than groups are asked for.
        """
        count, groups = last_layer(names) + 1, settings.groups
        if count < groups:
            raise ConfigError(
                f"{groups} groups of layers were asked for; the encoder has {count} layers",
                hint=f"--groups {count}" if count else "its names are not known",
            )
        ends = [count * n // groups for n in range(groups + 1)]
        made = {
            f"layers.{a}-{b - 1}": (f"layers.{a}-{b - 1}",) for a, b in itertools.pairwise(ends)
        }
        return cls(settings, {"rest": (), **made})

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw a trial."""
        methods = list(self.settings.methods)
        drawn: dict[str, Any] = {
            name: trial.suggest_float(name, 0.0, 1.0, step=STEP) for name in self.groups
        }
        drawn["method"] = trial.suggest_categorical("method", methods)
        return drawn

    def even(self, alpha: float) -> dict[str, Any]:
        """Return the trial with one coefficient for all."""
        return {**dict.fromkeys(self.groups, alpha), "method": self.settings.methods[0]}

    def point(self, drawn: Mapping[str, Any], name: str) -> Point:
        """Return the merge of a trial; what is not in a layer has the coefficient of ``rest``."""
        numbers = {n: round(float(drawn[n]), 4) for n in self.groups}
        rules = {s: numbers[n] for n, selectors in self.groups.items() for s in selectors}
        method, merge = str(drawn["method"]), self.settings.sweep.merge
        options = merge.options if method == merge.method else {}
        made = merge.only(method=method, options=options, alpha=numbers["rest"], rules=rules)
        return Point(numbers["rest"], None, made, name)


def _run(
    study: optuna.Study,
    settings: SearchSettings,
    space: Space,
    bench: Bench,
    base: Point,
    tuned_on: Sequence[str],
    seed: int,
) -> Trials:
    """Measure the base and all trials; equal ones once."""
    import optuna

    first = bench.measure(base, test=False)
    if not first.items:
        bench.failures.raise_any(bench.folder)
        raise DataError(f"the base could not be evaluated; see {bench.folder}")
    measured, kept = [first], [True]
    known: dict[str, Judged] = {}
    for alpha in settings.sweep.alphas[: settings.trials]:
        study.enqueue_trial(space.even(alpha))

    def objective(trial: optuna.Trial) -> float:
        drawn = space.suggest(trial)
        key = json_digest(drawn)
        if key not in known:
            one = bench.measure(space.point(drawn, f"trial {trial.number}"), test=False)
            bench.write()
            if set(one.items) != set(first.items):
                raise optuna.TrialPruned
            known[key] = _first_half(first, one, tuned_on, settings.sweep.rule, seed)
            measured.append(one)
            kept.append(known[key].within)
        gain = known[key].gain or 0.0
        trial.report(gain, step=0)
        if not known[key].within:
            raise optuna.TrialPruned
        return gain

    study.optimize(objective, n_trials=settings.trials)
    return Trials(measured, kept)


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
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))


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
        "command": merge_command(asked.base, asked.tuned, result.choice.point.settings),
        "results": RESULTS_FILE,
    }
