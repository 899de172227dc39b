"""The stages of a run in order: corpus, fine-tuning, merging, frozen evaluation, report."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechft.analysis.settings import read_settings
from speechft.commands import typed_command
from speechft.compositions import Composer, Models, check_recipe
from speechft.console import log, print_table, say
from speechft.devices import peak_memory
from speechft.encoders.load import digest_of
from speechft.evaluation.miniature_score import scores
from speechft.exposure import mark_overlap
from speechft.finetuning.config import Strategy
from speechft.naming import masked, public_name
from speechft.pipeline.evaluating import alphas_of, evaluate_between, evaluate_on_test
from speechft.pipeline.opening import open_corpora, open_run
from speechft.pipeline.state import Run
from speechft.progress import RECIPE_NAME, RUN_NAME
from speechft.recipe import Recipe
from speechft.reporting.analysis import analysis_stage
from speechft.reporting.folder import (
    REPORT_NAME,
    RESULTS_NAME,
    curve_of,
    write_report,
)
from speechft.results import ResultRow, of_all_layers, write_rows
from speechft.runs import has_stage, lock, publish
from speechft.storage.files import write_json, write_text
from speechft.storage.outputs import RECORD_NAME, check_own, replacing
from speechft.version import __version__

_FILES = (RECIPE_NAME, RESULTS_NAME, RUN_NAME, REPORT_NAME)


@dataclass(frozen=True)
class Summary:
    """What a run ends with."""

    rows: list[ResultRow]
    """Test figures, encoders in the order of the table."""
    curve: list[ResultRow]
    """Dev figures over alpha."""
    verdict: tuple[str, ...]
    report: Path

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "report": str(self.report),
            "verdict": list(self.verdict),
            "rows": [row.as_dict() for row in self.rows],
            "curve": [row.as_dict() for row in self.curve],
        }


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
        for name in (*_FILES, "tuned", "merged"):
            check_own(folder / name, earlier=lambda: _is_earlier(folder))
        state = open_run(recipe, folder)
        with _replacing(folder, RECIPE_NAME) as hidden:
            write_text(hidden, masked(recipe.as_yaml()))
        models = _compose(state)
        main = models[recipe.finetuning.strategy]
        _export(main.tuned, folder / "tuned")
        _export(main.merged[recipe.merging.alpha], folder / "merged")
        rows = mark_overlap(
            evaluate_on_test(state, models),
            recipe,
            state.corpora,
            state.tasks,
            state.evaluated,
            folder,
            state.pretrained,
        )
        between = evaluate_between(state, rows, main)
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
        composer = Composer(recipe, open_corpora(recipe, folder), folder)
        if recipe.composition.kind != "single":
            _export(composer.compose(config.strategy).tuned, folder / "encoder")
            return folder / "encoder"
    return composer.tune(config, recipe.encoder, folder)


def _compose(state: Run) -> dict[Strategy, Models]:
    """Make the encoders of the recipe's strategy and of the baselines, and merge them."""
    recipe = state.recipe
    models: dict[Strategy, Models] = {}
    composer = Composer(recipe, state.corpora, state.folder, state.cache)
    for strategy in recipe.merged_at():
        with state.timed(f"{strategy} fine-tuning"):
            models[strategy] = composer.compose(strategy, alphas_of(recipe, strategy))
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
    print_table(f"{report.title}: tuned on {' and '.join(report.tuned_on)}", header, cells)
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
