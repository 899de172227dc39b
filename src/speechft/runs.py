"""A stage's folder: locked while in use, skipped when its inputs are unchanged, published at once.

A stage works in ``FOLDER/.partial/<key>`` where an interrupted run finds what it had done, and
moves its outputs to ``FOLDER`` when all of them are complete. ``stage.json`` is moved last: a
folder that holds it is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechft.checkpoint import json_digest, read_json, sync_folder, write_error, write_json
from speechft.errors import CheckpointError, RunError

STAGE_FILE = "stage.json"
_SCHEMA = 1


@dataclass(frozen=True)
class Stage:
    """One stage of a run: where it works and whether there is anything left to do."""

    folder: Path
    scratch: Path
    key: str
    done: bool
    """True when the folder already holds the outputs of exactly this stage."""


@contextlib.contextmanager
def stage(
    folder: Path, *, name: str, config: Any, inputs: Mapping[str, str] | None = None
) -> Iterator[Stage]:
    """Open the folder of a stage.

    Inside the ``with`` block, write outputs into ``stage.scratch`` unless ``stage.done``. A clean
    end publishes them to ``folder``; an exception leaves them where the next run resumes.

    Args:
        folder: Where the outputs go.
        name: Name of the stage.
        config: Resolved configuration of the stage, plain JSON types.
        inputs: Digest of every input by name.

    Raises:
        RunError: The folder is in use by another process, or cannot be written.
    """
    content = {"schema": _SCHEMA, "stage": name, "config": config, "inputs": dict(inputs or {})}
    key = json_digest(content)
    with lock(folder):
        done = _is_complete(folder, key)
        scratch = folder / ".partial" / key[:16]
        if not done:
            _discard_others(scratch)
            scratch.mkdir(parents=True, exist_ok=True)
        yield Stage(folder, scratch, key, done)
        if not done:
            _publish(folder, scratch, {"key": key, **content})


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock ends with the process, however it ends.

    Raises:
        RunError: Another process holds it, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115 - closed below, in the finally clause
    except OSError as error:
        raise write_error(folder, error) from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(
                f"folder {folder} is in use by another process",
                hint="wait for it to end, or choose another folder with --out",
            ) from None
        yield
    finally:
        file.close()


def _is_complete(folder: Path, key: str) -> bool:
    try:
        record = read_json(folder / STAGE_FILE)
    except CheckpointError:
        return False
    return record.get("key") == key and all((folder / n).exists() for n in record["outputs"])


def _discard_others(scratch: Path) -> None:
    if scratch.parent.is_dir():
        for other in scratch.parent.iterdir():
            if other != scratch:
                shutil.rmtree(other, ignore_errors=True)


def _publish(folder: Path, scratch: Path, record: dict[str, Any]) -> None:
    try:
        with contextlib.suppress(CheckpointError):
            for name in read_json(folder / STAGE_FILE)["outputs"]:
                _remove(folder / name)
        (folder / STAGE_FILE).unlink(missing_ok=True)
        outputs = sorted(path.name for path in scratch.iterdir() if not path.name.startswith("."))
        for name in outputs:
            _remove(folder / name)
            os.replace(scratch / name, folder / name)
        sync_folder(folder)
        write_json(folder / STAGE_FILE, {**record, "outputs": outputs})
        shutil.rmtree(scratch.parent, ignore_errors=True)
    except OSError as error:
        raise write_error(folder, error) from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
