"""Which encoders a run evaluates: floors, pre-trained, tuned, merged; and those between on dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from speechft.compositions import Models
from speechft.encoders.load import FEATURES
from speechft.errors import ConfigError
from speechft.evaluation.candidates import Candidate
from speechft.evaluation.config import RANDOM
from speechft.evaluation.suite import evaluate_encoder
from speechft.finetuning.config import Strategy
from speechft.pipeline.state import Run
from speechft.recipe import Recipe
from speechft.results import ResultRow, Role
from speechft.tasks.base import Task


def alphas_of(recipe: Recipe, strategy: Strategy) -> list[float | None]:
    """Return the coefficients that a strategy is merged at."""
    further = recipe.merged_at()[strategy]
    if strategy != recipe.finetuning.strategy:
        return list(further)
    own = recipe.merging.alpha
    return [own, *sorted({*recipe.merging.curve, *further} - {own})]


def evaluate_on_test(state: Run, models: Mapping[Strategy, Models]) -> list[ResultRow]:
    """Evaluate floors, pre-trained, every strategy and the merged encoders on test.

    The encoder that the recipe merges comes before merged baselines: verdict and report are about
    the first merged one.
    """
    recipe, strategy = state.recipe, state.recipe.finetuning.strategy
    alpha, further = recipe.merging.alpha, recipe.merged_at()
    candidates = [floor(name, recipe) for name in recipe.evaluation.floors]
    candidates.append(Candidate("pre-trained", recipe.encoder, role=Role.PRE_TRAINED))
    candidates += [
        Candidate(f"{s} fine-tuning", str(models[s].tuned), role=Role.TUNED, strategy=s)
        for s in (*(s for s in further if s != strategy), strategy)
    ]
    merged = [(f"Speech-FT ({recipe.merging.label})", strategy, alpha)]
    merged += [
        (f"{s} merged ({recipe.merging.label_at(a)})", s, a)
        for s, alphas in further.items()
        for a in alphas
    ]
    candidates += [
        Candidate(name, str(models[s].merged[a]), alpha=a, role=Role.MERGED, strategy=s)
        for name, s, a in merged
    ]
    rows: list[ResultRow] = []
    for candidate in candidates:
        with state.timed("evaluation"):
            rows += _evaluate_one(state, candidate, state.tasks, test=True)
    return rows


def _evaluate_one(
    state: Run, candidate: Candidate, tasks: Sequence[Task], *, test: bool
) -> list[ResultRow]:
    return evaluate_encoder(
        candidate,
        tasks,
        state.evaluated,
        state.recipe.evaluation,
        state.folder,
        seed=state.recipe.seed,
        test=test,
        cache=state.cache,
        failures=state.failures,
    )


def floor(name: str, recipe: Recipe) -> Candidate:
    """Return what an encoder has to be better than.

    Raises:
        ConfigError: There is no such floor.
    """
    if name == RANDOM:
        drawn = Candidate("random weights", RANDOM, like=recipe.encoder, seed=recipe.seed)
        return replace(drawn, role=Role.FLOOR)
    if name not in FEATURES:
        choices = ", ".join([RANDOM, *FEATURES])
        raise ConfigError(f"unknown floor {name!r}; choices are: {choices}")
    return Candidate(name.upper(), name, role=Role.FLOOR)


def evaluate_between(state: Run, rows: Sequence[ResultRow], models: Models) -> list[ResultRow]:
    """Return dev figures of the curve's encoders that were not tested.

    Test rows of the others lend theirs, see `curve_of`; the base of the last task of a sequence is
    no pre-trained encoder and is evaluated here.
    """
    recipe = state.recipe
    if not recipe.merging.curve:
        return []
    chosen = [task for task in state.tasks if task.name in recipe.merging.curve_tasks]
    strategy, base = recipe.finetuning.strategy, str(models.base)
    known = {row.alpha for row in rows if row.strategy == strategy} | {1.0}
    between = {a: str(models.merged[a]) for a in recipe.merging.curve if a not in known}
    if base == recipe.encoder:
        between.pop(0.0, None)
    else:
        between[0.0] = base
    found = []
    for alpha, source in sorted(between.items()):
        candidate = Candidate(
            f"alpha {alpha:g}", source, alpha=alpha, role=Role.MERGED, strategy=strategy
        )
        with state.timed("alpha curve"):
            found += _evaluate_one(state, candidate, chosen or state.tasks, test=False)
    return found
