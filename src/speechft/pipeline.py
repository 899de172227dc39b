"""The stages of a run in order: corpus, fine-tuning, merging, frozen evaluation, report."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from speechft.analysis.settings import read_settings
from speechft.commands import typed_command
from speechft.compositions import Composer, Models, check_recipe
from speechft.console import log, print_table, say
from speechft.data.corpora import find_corpus
from speechft.data.manifest import Corpus
from speechft.devices import peak_memory
from speechft.encoders.load import FEATURES, digest_of
from speechft.errors import ConfigError, DataError
from speechft.evaluation.candidates import Candidate
from speechft.evaluation.config import RANDOM
from speechft.evaluation.encoders import evaluate as evaluate
from speechft.evaluation.failures import Failures
from speechft.evaluation.miniature_score import scores
from speechft.evaluation.suite import assign_tasks, evaluate_encoder, tasks_of
from speechft.exposure import estimate, mark_overlap
from speechft.features.downsampler import DownsamplerCache
from speechft.files import write_json, write_text
from speechft.finetuning.config import Strategy
from speechft.naming import masked, public_name
from speechft.outputs import RECORD_NAME, check_own, replacing
from speechft.recipe import Recipe
from speechft.reporting.analysis import analysis_stage
from speechft.reporting.folder import (
    RECIPE_NAME,
    REPORT_NAME,
    RESULTS_NAME,
    RUN_NAME,
    curve_of,
    write_report,
)
from speechft.results import ResultRow, Role, of_all_layers, write_rows
from speechft.runs import has_stage, lock, publish
from speechft.tasks.base import Task, file_name
from speechft.version import __version__

_FILES = (RECIPE_NAME, RESULTS_NAME, RUN_NAME, REPORT_NAME)


@dataclass
class Run:
    """A run in progress: its recipe, folder, and what the stages share."""

    recipe: Recipe
    folder: Path
    corpus: Corpus
    corpora: dict[str, Corpus]
    tasks: list[Task]
    evaluated: dict[str, Corpus]
    """The corpus that each task is evaluated on."""
    pretrained: tuple[Corpus, ...] = ()
    """Heard by the encoder before."""
    cache: DownsamplerCache = field(default_factory=DownsamplerCache)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: Failures = field(default_factory=Failures)
    """What could not be evaluated."""

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Record how long a stage takes."""
        started = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


@dataclass(frozen=True)
class Summary:
    """What a run ends with."""

    rows: list[ResultRow]
    """Test figures, encoders in the order of the table."""
    curve: list[ResultRow]
    """Dev figures over alpha."""
    verdict: tuple[str, ...]
    report: Path


def run(recipe: Recipe, folder: Path, *, command: str = "speechft run") -> Summary:
    """Run a recipe; what is done already and unchanged is skipped.

    Writes ``tuned/``, ``merged/``, ``results.jsonl``, ``run.json`` and ``report.html`` into
    ``folder``, and each stage into a folder of its own below it.

    Args:
        recipe: What to do.
        folder: Where everything goes.
        command: What made it, for the report, where no command line did.

    Raises:
        SpeechftError: Whatever a stage cannot do, with what to do about it. Where single tasks
            cannot be evaluated, all others are, and reported, before it is raised.
    """
    with lock(folder):
        started = time.monotonic()
        for name in (*_FILES, "tuned", "merged"):
            check_own(folder / name, earlier=lambda: _is_earlier(folder))
        state = _open(recipe, folder, started)
        models = _compose(state)
        main = models[recipe.finetuning.strategy]
        _export(main.tuned, folder / "tuned")
        _export(main.merged[recipe.merging.alpha], folder / "merged")
        rows = mark_overlap(
            _evaluate(state, models),
            recipe,
            state.corpora,
            state.tasks,
            state.evaluated,
            folder,
            state.pretrained,
        )
        between = _between(state, rows, main)
        said = _analyse(state, main)
        with _replacing(folder, RESULTS_NAME) as hidden:
            write_rows(hidden, [*rows, *between])
        failed = state.failures.tasks
        rows, between = ([r for r in part if r.task not in failed] for part in (rows, between))
        if not rows:
            state.failures.raise_any(folder)
        record = _record(state, rows, typed_command() or command)
        with _replacing(folder, RUN_NAME) as hidden:
            write_json(hidden, record)
        verdict = _report(state)
        rows, between = of_all_layers(rows), of_all_layers(between)
        curve = curve_of([*rows, *between], recipe, record["dev_splits"])
        summary = Summary(rows, curve, verdict, folder / REPORT_NAME)
        if said:
            say("\n".join(said))
        state.failures.raise_any(folder)
        return summary


def finetune_recipe(recipe: Recipe, folder: Path) -> Path:
    """Run the fine-tuning of a recipe alone; returns the folder of the tuned encoder."""
    check_recipe(recipe)
    config = recipe.finetuning
    with lock(folder):
        if recipe.composition.kind != "single":
            check_own(folder / "encoder", earlier=lambda: _is_earlier(folder))
        digest_of(recipe.encoder)
        composer = Composer(recipe, _corpora(recipe, folder), folder)
        if recipe.composition.kind != "single":
            _export(composer.compose(config.strategy).tuned, folder / "encoder")
            return folder / "encoder"
    return composer.tune(config, recipe.encoder, folder)


def _corpora(recipe: Recipe, folder: Path) -> dict[str, Corpus]:
    """Open the corpus of the run, and those that belong to a task."""
    corpora = {"*": find_corpus(recipe.data.corpus, folder / "corpus")}
    for task, name in recipe.data.corpora.items():
        corpora[task] = find_corpus(name, folder / f"corpus-{file_name(task)}")
    return corpora


def _open(recipe: Recipe, folder: Path, started: float) -> Run:
    """Check what can be checked before any work, and open the corpus."""
    log(f"encoder: {recipe.encoder} (sha256 {digest_of(recipe.encoder)[:12]})")
    check_recipe(recipe)
    for name in recipe.evaluation.floors:
        _floor(name, recipe)
    corpora = _corpora(recipe, folder)
    corpus = corpora["*"]
    names = _evaluation_corpora(recipe)
    further = {
        name: find_corpus(name, folder / f"corpus-evaluation-{number}")
        for number, name in enumerate(dict.fromkeys(names.values()), 1)
    }
    for one in (corpus, *further.values()):
        log(f"corpus: {one.name} (digest {one.digest[:12]}) in {one.place}")
    if isinstance(recipe.data.evaluation, dict):
        by_task = {task: further[name] for task, name in names.items()}
        tasks, evaluated = tasks_of(recipe.evaluation, by_task), by_task
    else:
        tasks, evaluated = assign_tasks(recipe.evaluation, list(further.values()) or [corpus])
    heard = _pretraining(recipe, further, folder)
    state = Run(recipe, folder, corpus, corpora, tasks, evaluated, heard)
    log(f"estimate: {estimate(recipe, corpora, tasks, evaluated)}")
    state.seconds["corpus"] = time.monotonic() - started
    with _replacing(folder, RECIPE_NAME) as hidden:
        write_text(hidden, masked(recipe.as_yaml()))
    return state


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


def _alphas(recipe: Recipe, strategy: Strategy) -> list[float | None]:
    """Return the coefficients that a strategy is merged at."""
    further = recipe.merged_at()[strategy]
    if strategy != recipe.finetuning.strategy:
        return list(further)
    own = recipe.merging.alpha
    return [own, *sorted({*recipe.merging.curve, *further} - {own})]


def _compose(state: Run) -> dict[Strategy, Models]:
    """Make the encoders of the recipe's strategy and of the baselines, and merge them."""
    recipe = state.recipe
    models: dict[Strategy, Models] = {}
    composer = Composer(recipe, state.corpora, state.folder, state.cache)
    for strategy in recipe.merged_at():
        with state.timed(f"{strategy} fine-tuning"):
            models[strategy] = composer.compose(strategy, _alphas(recipe, strategy))
    return models


def _export(source: Path, target: Path) -> None:
    """Put an encoder where users look for it, as links to the stage's files where possible."""
    with publish(target, earlier=lambda: _is_earlier(target.parent)) as hidden:
        shutil.copytree(source, hidden, copy_function=_link)


def _replacing(folder: Path, name: str) -> AbstractContextManager[Path]:
    return replacing(folder / name, earlier=lambda: _is_earlier(folder))


def _is_earlier(folder: Path) -> bool:
    """Return whether a version that kept no record of its files ran a recipe here."""
    return not (folder / RECORD_NAME).exists() and has_stage(folder / "finetuning")


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _evaluate(state: Run, models: Mapping[Strategy, Models]) -> list[ResultRow]:
    """Evaluate floors, pre-trained, every strategy and the merged encoders on test.

    The encoder that the recipe merges comes before merged baselines: verdict and report are about
    the first merged one.
    """
    recipe, strategy = state.recipe, state.recipe.finetuning.strategy
    alpha, further = recipe.merging.alpha, recipe.merged_at()
    candidates = [_floor(name, recipe) for name in recipe.evaluation.floors]
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


def _floor(name: str, recipe: Recipe) -> Candidate:
    if name == RANDOM:
        drawn = Candidate("random weights", RANDOM, like=recipe.encoder, seed=recipe.seed)
        return replace(drawn, role=Role.FLOOR)
    if name not in FEATURES:
        choices = ", ".join([RANDOM, *FEATURES])
        raise ConfigError(f"unknown floor {name!r}; choices are: {choices}")
    return Candidate(name.upper(), name, role=Role.FLOOR)


def _between(state: Run, rows: Sequence[ResultRow], models: Models) -> list[ResultRow]:
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


def _analyse(state: Run, models: Models) -> list[str]:
    """Return what fine-tuning did to the layers of the tuned and the merged encoder."""
    wanted = state.recipe.analysis
    if not wanted.measures:
        return []
    settings = read_settings(wanted.measures, limit=wanted.limit, seed=state.recipe.seed)
    encoders = [state.folder / name for name in ("tuned", "merged")]
    with state.timed("analysis"):
        place = state.folder / "analysis"
        return analysis_stage(str(models.base), encoders, state.corpus, place, settings)


def _record(state: Run, rows: Sequence[ResultRow], command: str) -> dict[str, Any]:
    """Return what reports are told of a run beside its figures, plain JSON types."""
    return {
        "facts": _facts(state, command),
        "seconds": {name: round(seconds, 1) for name, seconds in state.seconds.items()},
        "memory_gb": peak_memory(),
        "scores": scores(of_all_layers(rows), state.evaluated),
        "dev_splits": {
            task.name: state.evaluated[task.name].task_splits(task.name)[1] for task in state.tasks
        },
        "failed": sorted(state.failures.tasks),
    }


def _report(state: Run) -> tuple[str, ...]:
    """Write and print what the files of the run say; return the verdict."""
    from speechft.reporting.report import table

    folder = state.folder
    with _replacing(folder, REPORT_NAME) as hidden:
        (report,) = write_report([folder], hidden)
    header, cells = table(report.rows, report.scores)
    print_table(f"{report.title}: tuned on {report.tuned_on}", header, cells)
    if report.superb is not None:
        print_table("SUPERB_S beside published rows", *report.superb.cells(brief=True))
        say("\n".join(report.superb.notes))
    say("\n".join(report.verdict))
    log(f"report: {folder / REPORT_NAME}")
    return report.verdict


def _facts(state: Run, command: str) -> dict[str, str]:
    import torch
    import transformers

    corpus, base = state.corpus, state.recipe.encoder
    sizes = ", ".join(f"{n} {s['utterances']}" for n, s in corpus.statistics.items())
    versions = f"speechft {__version__}, torch {torch.__version__}"
    others = {c.name: c.digest[:12] for c in state.evaluated.values() if c is not corpus}
    evaluated = ", ".join(f"{name}, digest {digest}" for name, digest in others.items())
    return {
        "command": command,
        "corpus": f"{corpus.name}, digest {corpus.digest[:12]}; utterances: {sizes}",
        **({"corpora of the evaluation": evaluated} if evaluated else {}),
        "licence of the data": str(corpus.info.get("licence", "not known")),
        "encoder": f"{public_name(base)}, sha256 {digest_of(base)[:12]}",
        "versions": f"{versions}, transformers {transformers.__version__}",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, "
        f"{'GPU' if torch.cuda.is_available() else 'CPU'}",
    }
