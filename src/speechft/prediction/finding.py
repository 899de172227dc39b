"""Where a trained head lies: the ``pipeline.json`` that a folder of any verb means."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from speechft.commands import command
from speechft.console import log
from speechft.errors import CheckpointError, DataError
from speechft.naming import public_name
from speechft.results import ResultRow, Role, read_rows
from speechft.runs import STAGE_FILE
from speechft.tasks import find_task
from speechft.tasks.saved import PIPELINE_FILE, read_record

RESULTS_FILE = "results.jsonl"


@dataclass(frozen=True)
class Choice:
    """A head below a folder."""

    name: str
    """Of its encoder in the results, or the folder of a tuned head."""
    task: str
    folder: Path
    file: Path | None = None
    """Its description; None where the task has none, as it trains no head."""
    role: Role = Role.FURTHER


def find_pipeline(folder: Path, name: str | None, task: str | None) -> Path:
    """Return the description of the head that is meant.

    Args:
        folder: Of a head; of one task of an evaluation; OUT of finetune, evaluate or run.
        name: Name of the encoder in the results, or folder of a tuned head below.
        task: Key of the task.

    Raises:
        CheckpointError: There is none, or several that fit.
        DataError: The task that is meant trains no head.
    """
    for place in (folder, folder / "probe"):
        if (place / PIPELINE_FILE).is_file():
            if task is not None and (other := read_record(place / PIPELINE_FILE).task) != task:
                raise CheckpointError(f"{folder} holds a head of task {other}, not of {task}")
            return place / PIPELINE_FILE
    if task is not None and not (about := find_task(task)).predicts_files:
        raise DataError(f"task {about.name} does not predict on a file: {about.no_files}")
    found = list(_choices(folder))
    if not found:
        raise _none(folder)
    fit = [c for c in found if name in (None, c.name) and task in (None, c.task)]
    fit = [c for c in fit if c.file is not None] or fit
    if name is None:  # the merged encoder is what a run is for
        merged = {c.task: c.name for c in reversed(fit) if c.role is Role.MERGED}
        fit = [c for c in fit if merged.get(c.task, c.name) == c.name]
    kept = {(choice.name, choice.task): choice for choice in fit}
    if len(kept) != 1:
        raise _not_one(folder, kept, found)
    [choice] = kept.values()
    if choice.file is None:
        about = find_task(choice.task)
        if about.predicts_files:
            raise _none(choice.folder)
        raise DataError(f"task {about.name} does not predict on a file: {about.no_files}")
    if len(files := {c.file for c in fit}) > 1:
        log(f"{choice.name}, {choice.task}: of {len(files)} heads the newest, {choice.folder}")
    return choice.file


def _choices(folder: Path) -> Iterator[Choice]:
    """Yield the heads below OUT of any verb; of evaluations of the same, the latest comes last."""
    for file in sorted(folder.glob("pipeline-*.json")):
        yield Choice(public_name(folder), read_record(file).task, folder, file)
    for file in sorted((folder / "finetuning").glob("**/pipeline*.json")):
        if not any(part.startswith(".") for part in file.relative_to(folder).parts):
            name = str(file.parent.relative_to(folder))
            yield Choice(name, read_record(file).task, file.parent, file)
    if (folder / RESULTS_FILE).is_file():
        rows = read_rows(folder / RESULTS_FILE)
        yield from (_of_row(row, folder) for row in rows if row.predictions is not None)


def _of_row(row: ResultRow, folder: Path) -> Choice:
    place = (folder / str(row.predictions)).parent
    # of one task in its own folder, the results lie beside the probe
    places = [p / "probe" / PIPELINE_FILE for p in (place, folder)]
    file = next((p for p in places if p.is_file()), None)
    return Choice(row.encoder, row.task, place, file, row.role)


def _none(folder: Path) -> CheckpointError:
    if (folder / STAGE_FILE).is_file() and (folder / "head.safetensors").is_file():
        return CheckpointError(
            f"{folder} holds a head that an earlier version wrote, without {PIPELINE_FILE}",
            hint="fine-tune into a new folder with this version, or evaluate its encoder",
        )
    return CheckpointError(
        f"{folder} holds no trained head",
        hint=f"give OUT of {command('evaluate', 'ENCODER', out='OUT')}, of run or of finetune, "
        "with name and task where it holds several",
    )


def _not_one(
    folder: Path, fit: dict[tuple[str, str], Choice], every: list[Choice]
) -> CheckpointError:
    choices = sorted(fit or {(choice.name, choice.task): choice for choice in every})
    listed = "; ".join(f"--name {shlex.quote(name)} --task {task}" for name, task in choices)
    many = f"{len(fit)} heads that fit" if fit else "no head that fits"
    return CheckpointError(f"{folder} holds {many}", hint=f"choose from: {listed}")
