"""What became of the work in a folder: who is at it, what is left of it, what is complete.

Processes that share work keep notes of it (`speechft.parallel.claims`); all others hold locks, and
leave what they have not brought to its end in hidden folders. Both are asked here, since the one
says nothing of the other.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator
from pathlib import Path

from speechft.errors import RunError
from speechft.parallel.claims import FOLDER, Seen, look
from speechft.runs import complete_stage, outputs_of, unfinished
from speechft.storage.locks import LOCK_NAME, is_held
from speechft.storage.outputs import written_at
from speechft.storage.remote import address_of
from speechft.storage.uploads import path_here, standing

CHECKPOINTS = "step-*.pt"
"""Names of the checkpoints of a training, see `step_of`."""
RECIPE_NAME = "recipe.yaml"
"""What a run writes first, resolved."""
RUN_NAME = "run.json"
"""What it records last beside its figures: facts, seconds, memory_gb, scores, dev_splits, failed.
"""
FIGURES = ("results.jsonl", "analysis.jsonl", "extract.json", "corpus.json")
"""What work ends with: evaluations, sweeps and searches; an analysis; features; a corpus."""
_DEPTH = 5
"""Folders below an output in which stages lie: ``merging/STRATEGY/TASK/ALPHA``, and one more."""


def step_of(checkpoint: Path) -> int:
    """Return the update that a checkpoint is of."""
    return int(checkpoint.stem.split("-")[1])


def status(out: str | Path) -> list[Seen]:
    """Return what is running, failed or left of the work in a folder, and of shared work the rest.

    Args:
        out: The folder that the command writes to, or the address: of that, what processes of this
            machine are at.

    Returns:
        The units of shared work in their order, those done among them; else folders in which a
        process is at work or work is unfinished, ``.`` for ``out`` itself. None where all of it is
        done and no process is at it.

    Raises:
        RunError: There is no such output, or nothing of ours in it.
    """
    folder, address = path_here(out), address_of(out)
    found = look(folder) or [*_beside(folder), *_below(folder)]
    if found or (address is not None and standing(address).files):
        return found
    if complete(out) or written(out) or any((folder / name).is_file() for name in FIGURES):
        return []
    what = "is no folder" if address is None else "holds no output of speechft"
    if folder.is_dir() and address is None:
        what = "holds nothing that speechft wrote or is at"
    raise RunError(f"{address or folder} {what}", hint="give the --out of the command that works")


def complete(out: str | Path) -> dict[str, str]:
    """Return the names of the stages that are complete in an output, by folder in it."""
    folder = path_here(out)
    found = {str(p.relative_to(folder)): complete_stage(p) for p in _folders(folder)}
    return {place: name for place, name in found.items() if name is not None}


def written(out: str | Path) -> list[str]:
    """Return the files that were written to an output, or the output if it is a file."""
    folder = path_here(out)
    return [name or folder.name for name in written_at(folder) if (folder / name).exists()]


def _folders(out: Path) -> Iterator[Path]:
    """Yield a folder and those below it, but for hidden ones and outputs of stages."""
    for place, folders, _ in os.walk(out):
        folder = Path(place)
        yield folder
        deep = len(folder.relative_to(out).parts) >= _DEPTH
        passed = outputs_of(folder)
        folders[:] = sorted(
            n for n in folders if not deep and not n.startswith(".") and n not in passed
        )


def _below(out: Path) -> list[Seen]:
    """Return the folders of an output in which a process is at work or work is unfinished."""
    found: dict[str, Seen] = {}
    for folder in _folders(out):
        name, left = str(folder.relative_to(out)), unfinished(folder)
        if is_held(folder):
            found[name] = Seen(name, "running", step=_step(left))
        elif left:
            found[name] = Seen(name, "left", step=_step(left))
        for hidden in sorted(folder.glob(f".*/{LOCK_NAME}")):
            if hidden.parent.name != FOLDER:
                found |= _of_hidden(hidden.parent, str((folder / _shown(hidden)).relative_to(out)))
    if "." in found and any(seen.state == "running" for n, seen in found.items() if n != "."):
        del found["."]  # whose process is at that part
    began_run = (out / RECIPE_NAME).is_file() and RECIPE_NAME in written_at(out)
    if not found and began_run and not (out / RUN_NAME).exists():
        found["."] = Seen(".", "left")  # between two of its stages
    return list(found.values())


def _beside(out: Path) -> list[Seen]:
    """Return what is known of an output that is written beside its place."""
    names = sorted(out.parent.glob(f".{glob.escape(out.name)}.*/{LOCK_NAME}"))
    return [seen for lock in names for seen in _of_hidden(lock.parent, ".").values()]


def _of_hidden(folder: Path, name: str) -> dict[str, Seen]:
    if is_held(folder):
        return {name: Seen(name, "running")}
    if any(path.name != LOCK_NAME for path in folder.iterdir()):
        return {name: Seen(name, "left")}
    return {}


def _shown(lock: Path) -> str:
    """Return the name of what is written in the hidden folder of a lock."""
    return lock.parent.name[1:].removesuffix(".partial").removesuffix(".answers")


def _step(places: list[Path]) -> int | None:
    """Return the update of the checkpoint that was written last below some folders."""
    found: list[tuple[float, int]] = []
    for path in (path for place in places for path in place.rglob(CHECKPOINTS)):
        with contextlib.suppress(OSError, ValueError):  # gone by now, or no checkpoint of ours
            found.append((path.stat().st_mtime, step_of(path)))
    return max(found)[1] if found else None
