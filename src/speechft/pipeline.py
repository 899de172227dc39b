"""The stages of a run in order: corpus, fine-tuning, merging, frozen evaluation, report."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from speechft.analysis.settings import read_settings
from speechft.compositions import Composer, Models, check_recipe
from speechft.config import as_yaml
from speechft.console import log, print_table, say
from speechft.data.corpora import find_corpus
from speechft.data.manifest import Corpus
from speechft.encoders.load import FEATURES, digest_of
from speechft.errors import ConfigError, DataError
from speechft.evaluation.candidates import Candidate
from speechft.evaluation.config import RANDOM
from speechft.evaluation.encoders import evaluate as evaluate
from speechft.evaluation.failures import Failures
from speechft.evaluation.miniature_score import scores
from speechft.evaluation.suite import assign_tasks, evaluate_encoder, tasks_of
from speechft.evaluation.superb_table import scored_table
from speechft.exposure import estimate, mark_overlap
from speechft.features.extract import DownsamplerCache
from speechft.files import write_text
from speechft.finetuning.config import Strategy
from speechft.naming import masked, public, public_name
from speechft.outputs import RECORD_NAME, check_own, replacing
from speechft.recipe import Recipe
from speechft.reporting.analysis import analysis_stage
from speechft.results import ResultRow, Role, mean_over_seeds, of_all_layers, write_rows
from speechft.runs import has_stage, lock, publish
from speechft.tasks.base import Task, file_name
from speechft.verdict import colours, judge, verdict
from speechft.version import __version__

_FILES = ("recipe.yaml", "results.jsonl", "report.html")


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

    Writes ``tuned/``, ``merged/``, ``results.jsonl`` and ``report.html`` into ``folder``, and each
    stage into a folder of its own below it.

    Args:
        recipe: What to do.
        folder: Where everything goes.
        command: Command line, for the report.

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
        curve = _curve(state, rows, main)
        said = _analyse(state, main)
        with _replacing(folder, "results.jsonl") as hidden:
            write_rows(hidden, [*rows, *_between(rows, curve)])
        failed = state.failures.tasks
        rows, curve = ([r for r in part if r.task not in failed] for part in (rows, curve))
        if not rows:
            state.failures.raise_any(folder)
        with state.timed("report"):
            summary = _report(state, rows, curve, models, command)
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
    with _replacing(folder, "recipe.yaml") as hidden:
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


def _curve(state: Run, rows: Sequence[ResultRow], models: Models) -> list[ResultRow]:
    """Return dev figures over alpha, from the base of the merge to the tuned encoder.

    Test rows of encoders that were evaluated already lend their figures on dev; the base of the
    last task of a sequence is no pre-trained encoder and is evaluated here.
    """
    recipe = state.recipe
    if not recipe.merging.curve:
        return []
    chosen = [task for task in state.tasks if task.name in recipe.merging.curve_tasks]
    tasks = chosen or state.tasks
    wanted = {task.name for task in tasks}
    strategy, base = recipe.finetuning.strategy, str(models.base)
    curve, known = [], set()
    for row in rows:
        alpha = row.alpha if row.strategy == strategy else None
        if row.role is Role.TUNED and row.strategy == strategy:
            alpha = 1.0
        elif row.role is Role.PRE_TRAINED and base == recipe.encoder:
            alpha = 0.0
        if alpha is not None:
            known.add(alpha)
            if row.task in wanted:
                curve.append(_as_dev(row, alpha, state.evaluated[row.task]))
    between = {a: str(models.merged[a]) for a in recipe.merging.curve if a not in known}
    if 0.0 not in known:
        between[0.0] = base
    for alpha, source in sorted(between.items()):
        candidate = Candidate(
            f"alpha {alpha:g}", source, alpha=alpha, role=Role.MERGED, strategy=strategy
        )
        with state.timed("alpha curve"):
            curve += _evaluate_one(state, candidate, tasks, test=False)
    return sorted(curve, key=lambda row: (row.task, row.alpha))


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


def _as_dev(row: ResultRow, alpha: float, corpus: Corpus) -> ResultRow:
    split = corpus.task_splits(row.task)[1]
    changes = {
        "value": row.details["dev"],
        "split": split,
        "n": row.details["dev_n"],
        "interval": None,
        "alpha": alpha,
        "predictions": None,
    }
    return row.model_copy(update=changes)


def _between(rows: Sequence[ResultRow], curve: Sequence[ResultRow]) -> list[ResultRow]:
    """Return the rows of the curve whose encoders have no test rows."""
    tested = {row.encoder for row in rows}
    return [row for row in curve if row.encoder not in tested]


def _report(
    state: Run,
    rows: list[ResultRow],
    curve: list[ResultRow],
    models: Mapping[Strategy, Models],
    command: str,
) -> Summary:
    from speechft.reporting.report import Report, table, write_report

    recipe, folder = state.recipe, state.folder
    rows, curve = of_all_layers(rows), of_all_layers(curve)
    judgements = judge(rows, folder, recipe.verdict)
    said = verdict(rows, judgements, recipe.tuned_on)
    by_encoder, shown = scores(rows, state.evaluated), mean_over_seeds(rows)
    superb = scored_table(rows)
    histories = {
        name: {"strategy": strategy, **history}
        for strategy, made in models.items()
        for name, history in made.histories.items()
    }
    report = Report(
        title=recipe.title,
        tuned_on=recipe.tuned_on,
        verdict=said,
        rows=tuple(shown),
        curve=tuple(mean_over_seeds(curve)),
        scores=by_encoder,
        histories=histories,
        recipe=as_yaml(public(recipe.as_dict())),
        facts=_facts(state, command),
        superb=superb,
        colours=colours(judgements),
    )
    with _replacing(folder, "report.html") as hidden:
        write_report(report, hidden)
    header, cells = table(shown, by_encoder)
    print_table(f"{recipe.title}: tuned on {recipe.tuned_on}", header, cells)
    if superb is not None:
        print_table("SUPERB_S beside published rows", *superb.cells(brief=True))
        say("\n".join(superb.notes))
    say("\n".join(said))
    log(f"report: {folder / 'report.html'}")
    return Summary(rows, curve, said, folder / "report.html")


def _facts(state: Run, command: str) -> dict[str, str]:
    import torch
    import transformers

    corpus, base = state.corpus, state.recipe.encoder
    sizes = ", ".join(f"{n} {s['utterances']}" for n, s in corpus.statistics.items())
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in state.seconds.items())
    versions = f"speechft {__version__}, torch {torch.__version__}"
    others = {c.name: c.digest[:12] for c in state.evaluated.values() if c is not corpus}
    evaluated = ", ".join(f"{name}, digest {digest}" for name, digest in others.items())
    return {
        "command": command,
        "corpus": f"{corpus.name}, digest {corpus.digest[:12]}; utterances: {sizes}",
        **({"corpora of the evaluation": evaluated} if evaluated else {}),
        "licence of the data": str(corpus.info.get("licence", "not known")),
        "encoder": f"{public_name(base)}, sha256 {digest_of(base)[:12]}",
        "time of this run": times,
        "versions": f"{versions}, transformers {transformers.__version__}",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, "
        f"{'GPU' if torch.cuda.is_available() else 'CPU'}",
    }
