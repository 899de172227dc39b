"""A report from the files of a folder, whoever wrote them: run, finetune, evaluate, analyze, sweep.

What is missing is left out; what cannot be read is said in the report's warnings. A report leaves
the machine: it holds no paths and no secrets.
"""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from speechft.analysis.rows import AnalysisRow, read_analysis
from speechft.analysis.sentences import sentences
from speechft.belonging import side_by_side
from speechft.commands import command
from speechft.config import as_yaml, build
from speechft.errors import ConfigError, DataError, SpeechftError
from speechft.evaluation.superb_table import scored_table
from speechft.naming import distinct_names, public, public_command, public_text
from speechft.progress import RECIPE_NAME, RUN_NAME
from speechft.recipe import Recipe, VerdictConfig
from speechft.reporting.examples import examples_of
from speechft.reporting.notes import costs_of, warnings_of
from speechft.reporting.report import Report, render
from speechft.reporting.sweeps import Swept, read_suggestion, read_swept
from speechft.results import (
    ResultRow,
    Role,
    check_number,
    mean_over_seeds,
    of_all_layers,
    of_part,
    read_rows,
)
from speechft.runs import STAGE_FILE
from speechft.storage.documents import read_limited
from speechft.storage.files import read_json, read_yaml, write_text
from speechft.storage.locks import lock
from speechft.storage.outputs import RECORD_NAME, check_own, replacing
from speechft.verdict import colours, judge, verdict

REPORT_NAME = "report.html"
RESULTS_NAME = "results.jsonl"
_HISTORY = "history.json"


def write_report(folders: Sequence[Path], path: Path) -> list[Report]:
    """Write one self-contained page on one or several folders, atomically.

    The same files give the same bytes with the same versions of matplotlib and jinja2.

    Args:
        folders: Of runs, fine-tunings, evaluations, analyses or sweeps.
        path: The file to write.

    Raises:
        RunError: jinja2 or matplotlib is missing, or the file cannot be written.
        DataError: A folder holds nothing of these.
    """
    reports = _told_apart([read_report(folder) for folder in folders], folders)
    write_text(path, render(*reports))
    return reports


def _told_apart(reports: Sequence[Report], folders: Sequence[Path]) -> list[Report]:
    """Return reports whose titles are distinct: by as much of their folders as that takes."""
    titles = Counter(report.title for report in reports)
    places = [folder.resolve() for folder in folders]
    names = distinct_names([str(place) for place in places])
    return [
        report
        if titles[report.title] == 1
        else replace(
            report, title=name if report.title == place.name else f"{report.title}, {name}"
        )
        for report, place, name in zip(reports, places, names, strict=True)
    ]


def publish_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page on folders where users look for it, and return its place.

    Args:
        folders: As for `write_report`; one that is given twice counts once.
        out: Folder for the page; None takes that of a single folder.

    Raises:
        ConfigError: There are several folders and no place for the page.
        DataError: A folder does not exist, or holds nothing to report.
        RunError: The page cannot be written, or something of somebody else is in its place.
    """
    folders = list(dict.fromkeys(folders))
    if out is None and len(folders) != 1:
        raise ConfigError(
            f"{len(folders)} folders need a place for their report",
            hint="give it with --out DIR",
        )
    for folder in folders:
        if not folder.is_dir():
            raise DataError(
                f"{folder} is no folder", hint="give one that run, evaluate or analyze wrote"
            )
    place = folders[0] if out is None else out
    page = place / REPORT_NAME
    with lock(place):
        check_own(page, earlier=lambda: _is_report(page))
        with replacing(page, earlier=lambda: _is_report(page)) as hidden:
            write_report(folders, hidden)
    return page


def _is_report(page: Path) -> bool:
    """Return whether a version that kept no record of its files wrote a page."""
    if (page.parent / RECORD_NAME).exists():
        return False
    with contextlib.suppress(OSError):
        return b'<p class="eyebrow">speechft report</p>' in read_limited(page)
    return False


def read_report(folder: Path) -> Report:
    """Return what the files of a folder say.

    Raises:
        DataError: There is nothing of ours, or too much of it.
    """
    files = _Files(folder)
    recipe, text = _recipe(files)
    record = files.record
    failed = {str(task) for task in _listed(record.get("failed"))}
    written = [row for row in files.read(RESULTS_NAME, read_rows) or () if row.task not in failed]
    check_number(written)
    together, swept = side_by_side(written), _swept(files)
    every = together.rows
    if swept is not None:  # several sweeps into one folder stand there one after the other
        every = sorted(every, key=lambda row: (row.alpha is not None, row.alpha or 0.0))
    rows = of_all_layers(of_part(every, "test"))
    histories = _histories(files, recipe)
    tuned_on = _tuned_on(recipe, swept, histories)
    curve = (
        []
        if recipe is None
        else curve_of(of_all_layers(every), recipe, _texts(record.get("dev_splits")))
    )
    between = of_all_layers(of_part(every, "dev"))
    said, coloured = _judged(files, rows, recipe, tuned_on)
    analysis = _analysis(files)
    suggestion = files.parse("suggestion.json", read_suggestion)
    examples = files.guarded("examples", lambda: examples_of(rows or between, folder)) or []
    if not (every or histories or analysis or swept or suggestion or recipe):
        if files.problems:
            raise DataError(
                f"{folder} holds nothing that can be reported: {' '.join(files.problems)}",
                hint="mend these files or move them away, or evaluate again into another folder",
            )
        raise DataError(
            f"{folder} holds nothing to report",
            hint=f"give a folder that run, finetune, evaluate, analyze or sweep wrote: "
            f"{command('run', 'demo', out='DIR')}",
        )
    few = VerdictConfig().min_items if recipe is None else recipe.verdict.min_items
    about = [f"Task {task} could not be evaluated in full; it is left out." for task in failed]
    about += together.notes
    about += warnings_of(mean_over_seeds(every), histories, few)
    costs = costs_of(histories, _mapping(record.get("seconds")), _mapping(record.get("memory_gb")))
    return Report(
        title=folder.resolve().name if recipe is None else recipe.title,
        tuned_on=tuned_on,
        verdict=said,
        rows=tuple(mean_over_seeds(rows or between)),
        curve=tuple(mean_over_seeds(curve)),
        scores=_scores(record.get("scores")),
        histories=histories,
        recipe=text,
        facts=_texts(public(record.get("facts"))),
        superb=files.guarded("SUPERB table", lambda: scored_table(of_part(written, "test"))),
        colours=coloured,
        by_layer=tuple(mean_over_seeds(row for row in every if row.layer is not None)),
        analysis=tuple(analysis),
        swept=swept,
        suggestion=suggestion,
        examples=tuple(examples),
        costs=tuple(costs),
        warnings=(*about, *files.problems),
        on_dev=not rows and bool(between),
    )


@dataclass
class _Files:
    """The files of a folder, and what was wrong with them."""

    folder: Path
    problems: list[str] = field(default_factory=list)

    @property
    def record(self) -> Mapping[str, Any]:
        """What a run recorded."""
        return _mapping(self.parse(RUN_NAME, _mapping))

    def guarded(self, what: str, action: Any) -> Any:
        """Return what an action returns; None where it fails, which is said."""
        try:
            return action()
        except (SpeechftError, ValueError, TypeError, KeyError, OSError) as error:
            message = getattr(error, "message", None) or f"it says something else ({error})"
            problem = public_text(f"No {what}: {message}.", [str(self.folder)])
            if problem not in self.problems:
                self.problems.append(problem)
            return None

    def read(self, name: str, reader: Any) -> Any:
        """Return what a reader makes of a file; None where there is none, or no such thing."""
        path = self.folder / name
        return self.guarded(name, lambda: reader(path)) if path.is_file() else None

    def parse(self, name: str, parser: Any) -> Any:
        """Return what a parser makes of the JSON of a file; None as for `read`."""
        return self.read(name, lambda path: parser(read_json(path)))


def _recipe(files: _Files) -> tuple[Recipe | None, str]:
    """Return the recipe of a run and its text."""
    content = files.read(RECIPE_NAME, read_yaml)
    if content is None:
        return None, ""
    recipe = files.guarded(RECIPE_NAME, lambda: build(Recipe, content, "the recipe"))
    return recipe, as_yaml(public(content))


def curve_of(
    rows: Sequence[ResultRow], recipe: Recipe, splits: Mapping[str, str]
) -> list[ResultRow]:
    """Return dev figures of a run over alpha, from the base of the merge to the tuned encoder.

    Test rows of the recipe's own strategy lend their figures on dev; so does the pre-trained
    encoder, unless alpha 0 was measured apart: the base of the last task of a sequence.

    Args:
        rows: On test, and on dev those of encoders in between.
        recipe: What was run.
        splits: Names of development splits by task, where they are known.
    """
    if not recipe.merging.curve:
        return []
    tasks = {row.task for row in rows}
    wanted = tasks & {*recipe.merging.curve_tasks} or tasks
    between = [row for row in of_part(rows, "dev") if row.alpha is not None]
    apart = {row.task for row in between if row.alpha == 0.0}
    named = {**{row.task: row.split for row in between}, **splits}
    curve = list(between)
    for row in of_part(rows, "test"):
        measured = isinstance(row.details.get("dev"), int | float)
        if row.task not in wanted or not measured:
            continue
        own = row.strategy == recipe.finetuning.strategy
        alpha = row.alpha if own else None
        if row.role is Role.TUNED and own:
            alpha = 1.0
        elif row.role is Role.PRE_TRAINED and row.task not in apart:
            alpha = 0.0
        if alpha is not None:
            curve.append(_as_dev(row, alpha, named.get(row.task, "dev")))
    return sorted(curve, key=lambda row: (row.task, row.alpha))


def _as_dev(row: ResultRow, alpha: float, split: str) -> ResultRow:
    changes = {
        "value": row.details["dev"],
        "split": split,
        "part": "dev",
        "n": row.details.get("dev_n", 0),
        "interval": None,
        "alpha": alpha,
        "predictions": None,
    }
    return row.model_copy(update=changes)


def _judged(
    files: _Files, rows: Sequence[ResultRow], recipe: Recipe | None, tuned_on: Sequence[str]
) -> tuple[tuple[str, ...], Mapping[tuple[str, str, str], str]]:
    """Return the verdict in sentences and the colours of the table, where there is a baseline."""
    roles = {row.role for row in rows}
    config = VerdictConfig() if recipe is None else recipe.verdict
    if Role.PRE_TRAINED not in roles:
        return (), {}
    judgements = files.guarded("verdict", lambda: judge(rows, files.folder, config))
    if not judgements:
        return (), {}
    merged = next((row.strategy for row in rows if row.role is Role.MERGED), "")
    if not any(row.role is Role.TUNED and row.strategy == merged for row in rows):
        return (), colours(judgements)
    said = files.guarded("verdict", lambda: verdict(rows, judgements, tuned_on))
    return said or (), colours(judgements)


def _histories(files: _Files, recipe: Recipe | None) -> dict[str, Mapping[str, Any]]:
    """Return what fine-tunings of the folder recorded, by strategy and task, in a run's order."""
    places = [files.folder / _HISTORY, *sorted(files.folder.glob(f"finetuning/**/{_HISTORY}"))]
    found: dict[str, Mapping[str, Any]] = {}
    for path in places:
        if not path.is_file():
            continue
        history = files.parse(str(path.relative_to(files.folder)), _mapping)
        if not history:
            continue
        config = _mapping(_mapping(_stage(path.parent)).get("config"))
        inner = path.relative_to(files.folder).parts[1:-1]
        strategy = str(config.get("strategy") or (inner[0] if inner else "fine-tuning"))
        task = str(config.get("task") or inner[-1]) if len(inner) > 1 else ""
        name = f"{strategy} on {task}" if task else strategy
        tasks = [*_mapping(config.get("tasks"))] or [str(config.get("task") or "")]
        found[name] = {"tasks": tasks, "strategy": strategy, **_checked(history)}
    own = None if recipe is None else recipe.finetuning.strategy
    return dict(sorted(found.items(), key=lambda pair: pair[1]["strategy"] != own))


def _checked(history: Mapping[str, Any]) -> dict[str, Any]:
    """Return a history in which lists are lists, of numbers and of evaluations."""
    lists = {name: _listed(history.get(name)) for name in ("losses", "evaluations")}
    lists["evaluations"] = [one for one in lists["evaluations"] if isinstance(one, dict)]
    return {**history, **lists}


def _stage(folder: Path) -> Any:
    with contextlib.suppress(SpeechftError):
        return read_json(folder / STAGE_FILE)
    return {}


def _tuned_on(
    recipe: Recipe | None, swept: Swept | None, histories: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ...]:
    """Return the tasks that were tuned on; nothing where no file tells it."""
    if recipe is not None:
        return recipe.tuned_on
    if swept is not None and swept.tuned_on:
        return swept.tuned_on
    told = [task for history in histories.values() for task in history["tasks"]]
    return tuple(dict.fromkeys(str(task) for task in told if task))


def _swept(files: _Files) -> Swept | None:
    found: Swept | None = files.parse("sweep.json", read_swept)
    if found is None:
        found = files.parse("search.json", lambda content: read_swept(content, searched=True))
    if found is None or not found.command:
        return found
    words = files.guarded("command", lambda: shlex.split(found.command))
    return replace(found, command=public_command(words or ()))


def _analysis(files: _Files) -> list[AnalysisRow]:
    def read(path: Path) -> list[AnalysisRow]:
        rows = read_analysis(path)
        sentences(rows)  # refuses rows without what they are said by
        return rows

    names = ("analysis.jsonl", "analysis/analysis.jsonl")
    return next((rows for name in names if (rows := files.read(name, read))), [])


def _mapping(content: Any) -> Mapping[str, Any]:
    return content if isinstance(content, dict) else {}


def _listed(content: Any) -> Sequence[Any]:
    return content if isinstance(content, list) else []


def _texts(content: Any) -> dict[str, str]:
    return {key: value for key, value in _mapping(content).items() if isinstance(value, str)}


def _scores(content: Any) -> dict[str, float | None]:
    return {
        name: float(value)
        for name, value in _mapping(content).items()
        if isinstance(value, int | float)
    }
