"""A stage's folder: locked while in use, skipped when its inputs are unchanged, published at once.

A stage works in ``FOLDER/.partial/<key>`` where an interrupted run finds what it had done, and
moves its outputs to ``FOLDER`` when all of them are complete. ``stage.json`` goes first when older
outputs are replaced and comes last with the new ones: a folder that holds it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from speechft.console import warn
from speechft.errors import CheckpointError, RunError
from speechft.files import (
    aside_of,
    json_digest,
    read_json,
    remove,
    swap,
    sync_folder,
    write_beside,
    write_error,
    write_json,
)
from speechft.naming import public

STAGE_FILE = "stage.json"
_MOVING_FILE = ".moving.json"
"""Names that a publication is about to replace, so that the next one clears up after a crash."""
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
            _mention_others(scratch)
            _make(scratch)
        try:
            yield Stage(folder, scratch, key, done)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise write_error(folder, error) from error
            raise
        except SafetensorError as error:  # it wraps errors of the file system in text
            if f"os error {errno.ENOSPC}" not in str(error):
                raise
            raise write_error(folder, OSError(errno.ENOSPC, str(error))) from error
        if not done:
            _publish(folder, scratch, {"key": key, **public(content)})


def is_done(
    folder: Path, *, name: str, config: Any, inputs: Mapping[str, str] | None = None
) -> bool:
    """Return whether a folder holds the outputs of exactly this stage; arguments as for `stage`."""
    content = {"schema": _SCHEMA, "stage": name, "config": config, "inputs": dict(inputs or {})}
    return _is_complete(folder, json_digest(content))


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock ends with the process, however it ends.

    A folder that is made here and into which nothing is written is gone again afterwards.

    Raises:
        RunError: Another process holds it, or the folder cannot be made.
    """
    made = not folder.exists()
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
        with contextlib.suppress(OSError):
            if made and [path.name for path in folder.iterdir()] == [".lock"]:
                (folder / ".lock").unlink()
                folder.rmdir()
        file.close()


@contextlib.contextmanager
def publish(out: Path) -> Iterator[Path]:
    """Give a hidden path to write a file or a folder to; at the end it takes the place of ``out``.

    It lies in a folder beside ``out`` that is locked meanwhile, so that two processes cannot mix
    their work, and the next one clears away what a killed one left and puts back what that one had
    moved out of the way, see `write_beside`.

    Raises:
        RunError: ``out`` is being written by another process, or cannot be written.
    """
    out = Path(os.path.abspath(out))
    place = out.with_name(f".{out.name}.partial")
    with lock(place):
        try:
            for path in place.iterdir():
                if path.name != ".lock":
                    remove(path)
            if aside_of(out).is_dir() and not os.path.lexists(out):
                os.replace(aside_of(out), out)
            hidden = place / out.name
            with write_beside(out, hidden):
                yield hidden
        finally:
            remove(place)


def _record(path: Path) -> dict[str, Any]:
    """Return what a record says; one that is missing or damaged says that there is nothing."""
    nothing: dict[str, Any] = {"key": None, "outputs": []}
    with contextlib.suppress(CheckpointError):
        content = read_json(path)
        if isinstance(content, dict) and isinstance(content.get("outputs"), list):
            return {**nothing, **content}
    return nothing


def _is_complete(folder: Path, key: str) -> bool:
    record = _record(folder / STAGE_FILE)
    return record["key"] == key and all((folder / name).exists() for name in record["outputs"])


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from None


def _mention_others(scratch: Path) -> None:
    """Say that work of other settings lies there: it is kept until this stage is complete."""
    if scratch.is_dir() or not scratch.parent.is_dir():
        return
    for other in scratch.parent.iterdir():
        if other.name != "replaced" and any(other.iterdir()):
            warn(
                f"{scratch.parent.parent} was begun with other settings; with them it would go on, "
                "with these it starts anew"
            )
            return


def _publish(folder: Path, scratch: Path, record: dict[str, Any]) -> None:
    moving, replaced = folder / _MOVING_FILE, scratch.parent / "replaced"
    try:
        outputs = sorted(path.name for path in scratch.iterdir() if not path.name.startswith("."))
        old = [_record(path)["outputs"] for path in (folder / STAGE_FILE, moving)]
        stale = sorted({*outputs, *old[0], *old[1]})
        write_json(moving, {"outputs": stale})
        (folder / STAGE_FILE).unlink(missing_ok=True)
        sync_folder(folder)
        remove(replaced)
        replaced.mkdir()
        for name in stale:  # renamed, not removed: nothing half-removed has a final name
            if name not in outputs or (scratch / name).is_dir() != (folder / name).is_dir():
                with contextlib.suppress(FileNotFoundError):
                    os.replace(folder / name, replaced / name)
        for name in outputs:
            swap(scratch / name, folder / name, replaced / name)
        sync_folder(folder)
        write_json(folder / STAGE_FILE, {**record, "outputs": outputs})
        moving.unlink()
        remove(scratch.parent)
    except OSError as error:
        raise write_error(folder, error) from error
