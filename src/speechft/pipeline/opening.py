"""What a recipe needs before any work: its corpora opened, and what can be refused refused."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from speechft.compositions import check_recipe
from speechft.console import log
from speechft.data.corpora import find_corpus
from speechft.data.manifest import Corpus
from speechft.encoders.load import digest_of
from speechft.errors import ConfigError, DataError
from speechft.evaluation.suite import assign_tasks, check_names, tasks_of
from speechft.exposure import estimate
from speechft.pipeline.evaluating import floor
from speechft.pipeline.state import Run
from speechft.recipe import Recipe
from speechft.tasks.base import file_name


def open_run(recipe: Recipe, folder: Path) -> Run:
    """Check what can be checked before any work, and open the corpus."""
    started = time.monotonic()
    log(f"encoder: {recipe.encoder} (sha256 {digest_of(recipe.encoder)[:12]})")
    check_recipe(recipe)
    for name in recipe.evaluation.floors:
        floor(name, recipe)
    names = _evaluation_corpora(recipe)
    by_name = isinstance(recipe.data.evaluation, dict)
    check_names(recipe.evaluation, tuple(names) if by_name else None)
    corpora = open_corpora(recipe, folder)
    corpus = corpora["*"]
    further = {
        name: find_corpus(name, folder / f"corpus-evaluation-{number}")
        for number, name in enumerate(dict.fromkeys(names.values()), 1)
    }
    for one in (corpus, *further.values()):
        log(f"corpus: {one.told}")
    if by_name:
        by_task = {task: further[name] for task, name in names.items()}
        tasks, evaluated = tasks_of(recipe.evaluation, by_task), by_task
    else:
        tasks, evaluated = assign_tasks(recipe.evaluation, list(further.values()) or [corpus])
    heard = _pretraining(recipe, further, folder)
    state = Run(recipe, folder, corpus, corpora, tasks, evaluated, heard)
    log(f"estimate: {estimate(recipe, corpora, tasks, evaluated)}")
    state.seconds["corpus"] = time.monotonic() - started
    return state


def open_corpora(recipe: Recipe, folder: Path) -> dict[str, Corpus]:
    """Open the corpus of the run, and those that belong to a task."""
    corpora = {"*": find_corpus(recipe.data.corpus, folder / "corpus")}
    for task, name in recipe.data.corpora.items():
        corpora[task] = find_corpus(name, folder / f"corpus-{file_name(task)}")
    return corpora


def _pretraining(recipe: Recipe, opened: Mapping[str, Corpus], folder: Path) -> tuple[Corpus, ...]:
    """Open what pre-training heard; what is not prepared is said, and counted nowhere."""
    found = []
    for number, name in enumerate(dict.fromkeys(recipe.data.pretraining), 1):
        try:
            found.append(opened.get(name) or find_corpus(name, folder / f"corpus-heard-{number}"))
        except DataError as error:
            log(f"pre-training heard {name}, which is not prepared: not compared ({error})")
    return tuple(found)


def _evaluation_corpora(recipe: Recipe) -> dict[str, str]:
    """Return the corpora that the evaluation needs: by task where the recipe says so.

    Raises:
        ConfigError: A task has none.
    """
    named, tasks = recipe.data.evaluation, recipe.evaluation.tasks
    if not isinstance(named, dict):
        return {str(number): name for number, name in enumerate(named)}
    wanted = tuple(named) if tasks == "available" else tasks
    for task in wanted:
        if task not in named:
            raise ConfigError(
                f"data.evaluation names no corpus for task {task}; it has: {', '.join(named)}",
                hint=f"--set data.evaluation.{task}=FOLDER, or leave the task out",
            )
    return {task: named[task] for task in wanted}
