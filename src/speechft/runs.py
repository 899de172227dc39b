"""A stage's folder: locked while in use, skipped when its inputs are unchanged, published at once.

A stage works in ``FOLDER/.partial/<key>`` where an interrupted run finds what it had done, and
moves its outputs to ``FOLDER`` when all of them are complete. ``stage.json`` goes first when older
outputs are replaced and comes last with the new ones: a folder that holds it is whole. Between the
two ``.moving.json`` says what is on its way; whoever opens the folder next brings it to its end.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechft.console import warn
from speechft.errors import CheckpointError, RunError
from speechft.naming import public
from speechft.storage.disk import disk_refusal, remove, swap, sweep, sync_folder
from speechft.storage.files import json_digest, read_json, write_error, write_json
from speechft.storage.headers import is_whole
from speechft.storage.locks import is_unwritable, lock_over, make_scratch
from speechft.storage.locks import lock as lock
from speechft.storage.outputs import fingerprints, foreign, listed, refuse, written_at
from speechft.storage.outputs import publish as publish

STAGE_FILE = "stage.json"
_MOVING_FILE = ".moving.json"
_SCHEMA = 1
_KEY = re.compile(r"[0-9a-f]{16}")
_REPLACED = "replaced"
_LOOKED_AT = 100
"""Files of an output that are looked at to tell whether it is whole."""
_TOLD = 3
"""Settings that are named where they have changed."""


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
    folder: Path,
    *,
    name: str,
    config: Any,
    inputs: Mapping[str, str] | None = None,
    outputs: tuple[str, ...] = (),
    costly: bool = False,
    over_sleeper: bool = False,
) -> Iterator[Stage]:
    """Open the folder of a stage.

    Inside the ``with`` block, write outputs into ``stage.scratch`` unless ``stage.done``. A clean
    end publishes them to ``folder``; an exception leaves them where the next run resumes. A folder
    that is complete needs no permission to write.

    Args:
        folder: Where the outputs go.
        name: Name of the stage.
        config: Resolved configuration of the stage, plain JSON types.
        inputs: Digest of every input by name.
        outputs: Names that it will surely write; whether somebody else's files are in their place
            is then seen before the work. All others are seen before they are published.
        costly: Say it before outputs of other settings are replaced: they took a training.
        over_sleeper: Take the folder over from a process that is known to sleep, and work apart
            from what that one may go on to write.

    Raises:
        RunError: The folder is in use by another process, cannot be written, or holds what no
            command wrote where an output is to go.
    """
    content = _content(name, config, inputs)
    key = json_digest(content)
    scratch = _scratch(folder, secrets.token_hex(8) if over_sleeper else key)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock_over(folder) if over_sleeper else lock(folder))
        except RunError as error:
            if is_unwritable(error) and _is_complete(folder, key):
                yield Stage(folder, scratch, key, True)
                return
            raise
        _finish_moving(folder)
        done = _is_complete(folder, key)
        if not done:
            damaged = _mention_damaged(folder, key)
            check_free(folder, [*outputs, *damaged])
            if not over_sleeper:
                _mention_others(scratch)
            if costly and not damaged:
                _mention_replaced(folder, public(content))
            make_scratch_of(scratch)
            sweep(scratch, deep=True)
        try:
            yield Stage(folder, scratch, key, done)
        except Exception as error:
            if not done and _is_complete(folder, key):  # by another process, while this one slept
                _remove_scratch(folder, scratch.name)
            if (refused := disk_refusal(error, folder)) is not None:
                raise write_error(folder, refused) from error
            raise
        if not done:
            _publish(folder, scratch, {"key": key, **public(content)})


def check_free(folder: Path, outputs: Sequence[str]) -> None:
    """Refuse a folder where somebody else's files are in the place of outputs, before any work.

    Raises:
        RunError: They are.
    """
    refuse([n for name in outputs for n in _foreign(folder, name)])


def is_done(
    folder: Path, *, name: str, config: Any, inputs: Mapping[str, str] | None = None
) -> bool:
    """Return whether a folder holds the outputs of exactly this stage; arguments as for `stage`."""
    return _is_complete(folder, json_digest(_content(name, config, inputs)))


def is_moving(
    folder: Path, *, name: str, config: Any, inputs: Mapping[str, str] | None = None
) -> bool:
    """Return whether the outputs of exactly this stage, all of them made, are being put in place.

    Arguments as for `stage`. Whoever does not find a part where it is made asks this, then
    `is_done`.
    """
    key = json_digest(_content(name, config, inputs))
    return bool(_record(folder / _MOVING_FILE)["key"] == key)


def scratch_of(
    folder: Path, *, name: str, config: Any, inputs: Mapping[str, str] | None = None
) -> Path:
    """Return where a stage works, for parts of it that are made before it is opened.

    Arguments as for `stage`. What is not whole yet must lie in a hidden folder there.
    """
    return _scratch(folder, json_digest(_content(name, config, inputs)))


def make_scratch_of(scratch: Path) -> None:
    """Make the scratch folder of a stage, see `scratch_of`.

    Raises:
        RunError: It cannot be made.
    """
    make_scratch(scratch.parent)
    make_scratch(scratch)


def _content(name: str, config: Any, inputs: Mapping[str, str] | None) -> dict[str, Any]:
    return {"schema": _SCHEMA, "stage": name, "config": config, "inputs": dict(inputs or {})}


def _scratch(folder: Path, key: str) -> Path:
    return folder / ".partial" / key[:16]


def invalidate(folder: Path) -> None:
    """Have a folder no longer count as whole; what lies there stays known as ours."""
    record = _record(folder / STAGE_FILE)
    if record["key"] is not None:
        write_json(folder / STAGE_FILE, {**record, "key": None})


def has_stage(folder: Path) -> bool:
    """Return whether a stage of ours has been published in a folder or one below it."""
    return next(folder.rglob(STAGE_FILE), None) is not None if folder.is_dir() else False


def complete_stage(folder: Path) -> str | None:
    """Return the name of the stage whose outputs a folder holds whole; None where it is none."""
    record = _record(folder / STAGE_FILE)
    whole = record["key"] is not None and _is_complete(folder, record["key"])
    return str(record.get("stage")) if whole else None


def outputs_of(folder: Path) -> list[str]:
    """Return the names of what a stage has published in a folder."""
    return list(_record(folder / STAGE_FILE)["outputs"])


def unfinished(folder: Path) -> list[Path]:
    """Return where work on stages of a folder lies that has not come to its end."""
    scratch = folder / ".partial"
    found = [folder / _MOVING_FILE] if os.path.lexists(folder / _MOVING_FILE) else []
    if scratch.is_dir() and not scratch.is_symlink():
        begun = [p for p in scratch.iterdir() if _KEY.fullmatch(p.name) and p.is_dir()]
        found += [path for path in begun if any(path.iterdir())]
    return found


def is_output(path: Path) -> bool:
    """Return whether a stage of ours wrote what lies there."""
    return path.name in _record(path.parent / STAGE_FILE)["outputs"]


def _record(path: Path) -> dict[str, Any]:
    """Return what a record says; one that is missing or damaged says that there is nothing."""
    nothing: dict[str, Any] = {"key": None, "outputs": [], "written": {}}
    with contextlib.suppress(CheckpointError):
        content = read_json(path)
        if isinstance(content, dict) and isinstance(content.get("outputs"), list):
            names = [n for n in content["outputs"] if isinstance(n, str) and _is_name(n)]
            return {**nothing, **content, "outputs": names}
    return nothing


def _is_name(name: str) -> bool:
    """Return whether it is the name of a thing in this folder, not a way out of it."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _is_complete(folder: Path, key: str) -> bool:
    if os.path.lexists(folder / _MOVING_FILE):
        return False  # until who holds the folder has brought that to its end
    record = _record(folder / STAGE_FILE)
    return record["key"] == key and _damaged(folder, record) is None


def _damaged(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """Return an output that is gone or cut off, as far as a look tells; None where all are there.

    Of a folder with many files, such as recordings, the look is at the folder alone.
    """
    for name in record["outputs"]:
        output: Path = folder / name
        if not output.exists():
            return output
        written = record["written"].get(name) if isinstance(record["written"], dict) else None
        if not isinstance(written, dict) or len(written) > _LOOKED_AT:
            continue
        for file, prints in written.items():
            path = output / file if file else output
            needed = path.exists() or path.suffix == ".safetensors"  # logs may be cleared away
            was_empty = str(listed(prints)[-1]).startswith("0-")
            if needed and not was_empty and not is_whole(path):
                return path
    return None


def _mention_damaged(folder: Path, key: str) -> list[str]:
    """Say that outputs of exactly this stage are damaged; return the names of all of them."""
    record = _record(folder / STAGE_FILE)
    if record["key"] != key or (path := _damaged(folder, record)) is None:
        return []
    warn(f"{path} is gone or cut off since it was written; it is made again")
    return list(record["outputs"])


def _mention_others(scratch: Path) -> None:
    """Say that work of other settings lies there: it is kept until this stage is complete."""
    folder = scratch.parent.parent
    if not scratch.is_dir() and any(p.parent == scratch.parent for p in unfinished(folder)):
        warn(
            f"{folder} was begun with other settings; with them it would go on, with these it "
            "starts anew"
        )


def _mention_replaced(folder: Path, content: Mapping[str, Any]) -> None:
    """Say that a finished stage of other settings lies there, and in which they differ."""
    record = _record(folder / STAGE_FILE)
    if record["key"] is None or not any((folder / name).exists() for name in record["outputs"]):
        return
    old, new = (
        dict(_leaves({k: one.get(k) for k in ("config", "inputs")})) for one in (record, content)
    )
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    told = [
        f"{'.'.join(key[1:])} {old.get(key, 'not given')} -> {new.get(key, 'not given')}"
        if key[0] == "config"
        else f"another {key[-1]}"
        for key in changed[:_TOLD]
    ]
    more = f" and {len(changed) - _TOLD} more" * (len(changed) > _TOLD)
    warn(
        f"{folder} holds what other settings made ({', '.join(told)}{more}); it is replaced "
        "when this is complete, another folder would keep it"
    )


def _leaves(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the values of nested mappings with the keys that lead there."""
    if isinstance(content, Mapping) and content:
        for key, value in content.items():
            yield from _leaves(value, (*place, str(key)))
    else:
        yield place, content


def _foreign(folder: Path, name: str, new: Path | None = None) -> list[str]:
    """Return what lies in the place of an output and was not written by a stage here.

    What an older version wrote is known by its name alone; see `STAGE_FILE`.
    """
    beside = written_at(folder / name)
    for record in (_record(folder / STAGE_FILE), _record(folder / _MOVING_FILE)):
        if name in record["outputs"]:
            written = record["written"].get(name) if isinstance(record["written"], dict) else None
            if not isinstance(written, dict):
                return []
            known = {n: [*listed(written.get(n)), *listed(beside.get(n))] for n in written}
            return foreign(folder / name, known, new)
    return foreign(folder / name, beside, new)


def _publish(folder: Path, scratch: Path, record: dict[str, Any]) -> None:
    """Move outputs to their place, see the module; from the journal on it cannot get lost."""
    try:
        outputs = sorted(path.name for path in scratch.iterdir() if not path.name.startswith("."))
        old = [_record(path)["outputs"] for path in (folder / STAGE_FILE, folder / _MOVING_FILE)]
        stale = sorted({*old[0], *old[1]} - {*outputs})
        refuse([n for name in outputs for n in _foreign(folder, name, scratch / name)])
        refuse([n for name in stale for n in _foreign(folder, name)])
        written = {name: fingerprints(scratch / name) for name in outputs}
        there = [name for name in (*outputs, *stale) if os.path.lexists(folder / name)]
        before = {name: fingerprints(folder / name) for name in there}
        journal = {
            **record,
            "scratch": scratch.name,
            "outputs": outputs,
            "written": written,
            "stale": stale,
            "before": before,
        }
        for name in outputs:
            _sync_names(scratch / name)
        sync_folder(scratch)
        write_json(folder / _MOVING_FILE, journal)
        _move(folder, journal)
    except OSError as error:
        raise write_error(folder, error) from error


def _sync_names(path: Path) -> None:
    """Make the folders of an output durable; files were made so as they were written."""
    if path.is_dir():
        for item in path.rglob("*"):
            if item.is_dir() and not item.is_symlink():
                sync_folder(item)
        sync_folder(path)


def _finish_moving(folder: Path) -> None:
    """Bring the publication of a killed process to its end, or have its stage done again."""
    moving = folder / _MOVING_FILE
    if not os.path.lexists(moving):
        return
    journal = _record(moving)
    key, stale, written = journal["key"], journal.get("stale"), journal["written"]
    journal.setdefault("scratch", str(key)[:16])
    try:
        if not (
            isinstance(key, str)
            and _KEY.fullmatch(str(journal["scratch"]))
            and isinstance(stale, list)
            and isinstance(written, dict)
        ):  # of a version up to 2026-11, or not ours:
            _remove_scratch(folder)  # what it had not yet moved is half of its work
            return
        journal["written"] = {n: written.get(n) for n in journal["outputs"]}
        journal["stale"] = [n for n in stale if isinstance(n, str) and _is_name(n)]
        _check_journal(folder, journal)
        scratch = _scratch(folder, journal["scratch"])
        if not scratch.parent.is_symlink() and all(
            (scratch / n).exists() or (folder / n).exists() for n in journal["outputs"]
        ):
            _move(folder, journal)
    except OSError as error:
        raise write_error(folder, error) from error


def _check_journal(folder: Path, journal: Mapping[str, Any]) -> None:
    """Refuse to move away what a journal does not know: it may be somebody's who planted it.

    Raises:
        RunError: What lies in the place of an output is neither what was to be replaced nor new.
    """
    before, strange = journal.get("before"), []
    for name in {*journal["outputs"], *journal["stale"]}:
        known: dict[str, list[Any]] = {}
        for prints in (before, journal["written"]):
            told = prints.get(name) if isinstance(prints, dict) else None
            for file, value in told.items() if isinstance(told, dict) else ():
                known[file] = [*known.get(file, ()), *listed(value)]
        strange += foreign(folder / name, known)
    refuse(sorted(strange), folder)


def _move(folder: Path, journal: Mapping[str, Any]) -> None:
    """Do what a journal says; begun again after a kill it goes on."""
    scratch = _scratch(folder, journal["scratch"])
    replaced = scratch.parent / _REPLACED
    outputs, stale = journal["outputs"], journal["stale"]
    (folder / STAGE_FILE).unlink(missing_ok=True)
    sync_folder(folder)
    remove(replaced)
    if scratch.is_dir():  # renamed, not removed: nothing half-removed has a final name
        replaced.mkdir()
        for name in stale:
            with contextlib.suppress(FileNotFoundError):
                os.replace(folder / name, replaced / name)
        for name in outputs:
            new, out = scratch / name, folder / name
            if not os.path.lexists(new) or fingerprints(new) != journal["written"][name]:
                continue  # moved before the kill: what is there, if anything, is what it replaced
            if os.path.lexists(out) and new.is_dir() != (out.is_dir() and not out.is_symlink()):
                os.replace(out, replaced / name)
            swap(new, out, replaced / name)
    sync_folder(folder)
    ends = ("outputs", "written")  # in one order, whether the journal was just made or is read
    own = (*ends, "stale", "before", "scratch")
    record = {name: value for name, value in journal.items() if name not in own}
    write_json(folder / STAGE_FILE, record | {name: journal[name] for name in ends})
    (folder / _MOVING_FILE).unlink()
    _remove_scratch(folder)


def _remove_scratch(folder: Path, only: str | None = None) -> None:
    """Remove unfinished work of stages, all or one, and nothing else that lies under that name."""
    partial = folder / ".partial"
    if partial.is_symlink() or not partial.is_dir():
        return
    for path in partial.iterdir():
        known = path.name == _REPLACED or _KEY.fullmatch(path.name)
        if known and only in (None, path.name):
            remove(path)
    with contextlib.suppress(OSError):
        partial.rmdir()
