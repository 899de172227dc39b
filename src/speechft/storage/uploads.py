"""Outputs at an address: written on this machine, moved up when the command has ended well.

A command that is given ``--out s3://bucket/x`` works in a folder of the cache, with locks, records
and resuming as in any other. At its end every file that it published is put where it belongs, and
last ``.speechft-output.json``, which names all of them with their SHA-256: what bears it is whole.
Each object bears the SHA-256 that it was written with, so that an interrupted upload is completed
by the same command, and what somebody else put there is never replaced.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from speechft.arguments import folder_of
from speechft.commands import command
from speechft.console import is_main_process, log
from speechft.errors import AbsentError, ConfigError, RemoteError
from speechft.naming import masked, stands_for
from speechft.storage.disk import remove as remove_here
from speechft.storage.documents import MAX_DOCUMENT, is_plain, parse_json
from speechft.storage.files import (
    cache_folder,
    file_digest,
    json_digest,
    json_text,
    read_json,
    write_json,
    write_text,
)
from speechft.storage.locks import LOCK_NAME, lock, waiting
from speechft.storage.outputs import RECORD_NAME, overwriting, refuse
from speechft.storage.remote import (
    Told,
    address_of,
    download,
    joined,
    name_here,
    names_below,
    notes_of,
    read,
    remove,
    scheme_of,
    stat,
    upload,
)

P = ParamSpec("P")
T = TypeVar("T")

MARK_NAME = ".speechft-output.json"
"""What a folder of ours at an address has."""
_STATE = "state.json"
_DIGEST = "speechft-sha256"
_CACHE = "cache"
"""Folder of features in an output: it stays on this machine."""
_MAX_FILE = 1 << 40
_LOOKED_AT = 100
"""Files of a place without record that are asked whose they are, before any work."""


def moved_up(*options: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a verb write to addresses, see the module.

    Args:
        options: Its arguments that say where it writes.
    """

    def wrapped(verb: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(verb)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            bound = inspect.signature(verb).bind(*args, **kwargs)
            given = {name: address_of(bound.arguments.get(name)) for name in options}
            with ExitStack() as held:
                held.enter_context(overwriting(bool(bound.arguments.get("overwrite"))))
                trial = bool(bound.arguments.get("dry_run"))
                for name, address in given.items():
                    if address is not None:
                        bound.arguments[name] = held.enter_context(output_at(address, trial=trial))
                return verb(*bound.args, **bound.kwargs)

        return call

    return wrapped


@contextmanager
def output_at(address: str, *, trial: bool = False) -> Iterator[Path]:
    """Give the path on this machine to write an output to that belongs at an address.

    Work that is complete there is brought here first, so that it is not done again. On an error
    nothing is moved up; the work stays here for the same command.

    Args:
        address: Where it belongs.
        trial: Nothing will be written.

    Raises:
        ConfigError: Nothing can be written there.
        RemoteError: The store refuses.
        RunError: Something is there that no command of ours wrote.
    """
    _check(address)
    out = path_here(address)
    if is_main_process() and not trial:
        with waiting(), lock(out.parent):
            _bring(address, out)
            if not _mark(address):
                there = names_below(address)[:_LOOKED_AT]
                refuse([_at(address, name) for name in _foreign(address, there)])
            _try_writing(address)
    yield out
    if is_main_process() and out.exists():
        with waiting(), lock(out.parent):
            _move_up(address, out)


def at_hand(place: str | Path) -> Path:
    """Return a folder of this machine: of what lies at an address a copy that is up to date.

    Raises:
        RemoteError: It cannot be read.
        AbsentError: No output of ours is there.
    """
    out, address = path_here(place), address_of(place)
    if address is None:
        return out
    with waiting(), lock(out.parent):
        _bring(address, out)
    if not out.exists():
        raise AbsentError(f"{address} holds no output of speechft that is complete")
    return out


@dataclass(frozen=True)
class Standing:
    """What is known of an output by its address."""

    whole: bool
    """Whether all of it is there."""
    files: tuple[str, ...] = ()
    """What it has when it is whole; an empty name for a file that is the output; none where nothing
    of ours is there."""
    there: int | None = None
    """How many of them are there; None where a server does not tell."""


def standing(address: str) -> Standing:
    """Return what of an output is at its address, as the store has it now.

    Raises:
        RemoteError: It cannot be asked.
    """
    mark = _mark(address)
    if mark:
        files = tuple(mark["files"])
        if mark["whole"]:
            return Standing(True, files, len(files))
        lists = scheme_of(address) not in ("http", "https")
        return Standing(False, files, len({*names_below(address)} & {*files}) if lists else None)
    if scheme_of(address) == "s3" and _DIGEST in notes_of(address):
        return Standing(True, ("",), 1)
    return Standing(False)


def path_here(place: str | Path) -> Path:
    """Return where on this machine an output is written that belongs at a path or an address."""
    address = address_of(place)
    if address is None:
        return folder_of(place)
    digest = hashlib.sha256(masked(address).encode()).hexdigest()[:16]
    out = cache_folder() / "outputs" / digest / name_here(address)
    stands_for(out, address)
    return out


def _check(address: str) -> None:
    if scheme_of(address) == "s3" and address.count("/") > 2 and name_here(address) != "_":
        return
    hint = "give a folder, or s3://bucket/name"
    if scheme_of(address) == "hf":
        hint = f"write to a folder, then: {command('publish', 'DIR', repo_id='owner/name')}"
    raise ConfigError(f"nothing is written to {address}", hint=hint)


def _mark(address: str) -> dict[str, Any]:
    """Return the record of an output at an address; empty where there is none."""
    try:
        data = read(joined(address, MARK_NAME), most=MAX_DOCUMENT)
        content = parse_json(data, unique=True)
    except AbsentError:
        return {}
    except ValueError as error:
        raise RemoteError(f"{joined(address, MARK_NAME)} cannot be read: {error}") from None
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not all(_is_entry(*item) for item in files.items()):
        raise RemoteError(
            f"{joined(address, MARK_NAME)} is no record of ours",
            hint="look what is there, remove it, or choose another --out",
        )
    return {"whole": content.get("whole") is True, "files": files}


def _is_entry(name: str, digest: Any) -> bool:
    inside = not name.startswith("/") and not {"", ".", ".."} & set(name.split("/"))
    return isinstance(digest, str) and len(digest) == 64 and inside and is_plain(name)


def _state(out: Path) -> dict[str, Any]:
    """Return what this machine knows: the record that it saw last, and whether it is on its way."""
    path = out.parent / _STATE
    content = read_json(path) if path.is_file() else None
    return content if isinstance(content, dict) else {}


def _bring(address: str, out: Path) -> None:
    """Have here what is complete at an address, unless it was here before."""
    mark, state = _mark(address), _state(out)
    if not mark.get("whole") or state.get("moving") or state.get("seen") == json_digest(mark):
        return
    log(f"bringing {len(mark['files'])} files of {masked(address)}")
    for name in published(out):
        if name not in mark["files"]:
            remove_here(out / name)
    for name, digest in mark["files"].items():
        if not (out / name).is_file() or file_digest(out / name) != digest:
            _bring_file(joined(address, name), out / name, digest)
    write_json(out.parent / _STATE, {"address": masked(address), "seen": json_digest(mark)})


def _bring_file(address: str, out: Path, digest: str) -> None:
    told = stat(address)
    if told is None:
        raise RemoteError(
            f"{address} is gone, which {MARK_NAME} names", hint="choose another --out"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    hidden = out.with_name(f".{out.name}.part")
    download(address, hidden, Told(told.size, told.tag), most=_MAX_FILE)
    if file_digest(hidden) != digest:
        remove_here(hidden)
        raise RemoteError(
            f"{address} is not what speechft wrote there",
            hint="look who changed it, remove it, or choose another --out",
        )
    hidden.replace(out)


def published(out: Path) -> list[str]:
    """Return the files of an output by their path in it: neither notes, work nor caches."""
    if out.is_file():
        return [""]
    names = [path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file()]
    return [
        name.as_posix()
        for name in names
        if _CACHE not in name.parts[:-1]
        and name.name != LOCK_NAME
        and not any(part.startswith(".") and part != RECORD_NAME for part in name.parts)
    ]


def _foreign(address: str, names: list[str]) -> list[str]:
    """Return those files at an address that no command of ours wrote."""
    return [name for name in names if _DIGEST not in notes_of(_at(address, name))]


def _at(address: str, name: str) -> str:
    return joined(address, name) if name else address


def _move_up(address: str, out: Path) -> None:
    digests = {name: file_digest(out / name) for name in published(out)}
    before = {} if out.is_file() else _mark(address)
    mark = {"whole": True, "files": digests}
    if before == mark:
        return
    there = {*names_below(address)}
    known = {name: notes_of(_at(address, name)).get(_DIGEST) for name in there & digests.keys()}
    refuse(sorted(_at(address, name) for name, digest in known.items() if digest is None))
    write_json(out.parent / _STATE, {**_state(out), "moving": True})
    if not out.is_file():
        _put_mark(address, {"whole": False, "files": {**before.get("files", {}), **digests}})
    new = [name for name, digest in digests.items() if known.get(name) != digest]
    for name in sorted(new, key=_order):
        upload(out / name, _at(address, name), {_DIGEST: digests[name]})
    stale = sorted(there & before.get("files", {}).keys() - digests.keys())
    for name in set(stale) - set(_foreign(address, stale)):
        remove(_at(address, name))
    if not out.is_file():
        _put_mark(address, mark)
    seen = {"address": masked(address), "seen": json_digest(mark)}
    write_json(out.parent / _STATE, seen)
    log(f"{len(new)} of {len(digests)} files moved up to {masked(address)}")


def _order(name: str) -> tuple[int, str]:
    """Return the place of a file in an upload: what readers look for first comes last."""
    return -name.count("/"), name


def _put_mark(address: str, mark: dict[str, Any]) -> None:
    _put_text(joined(address, MARK_NAME), json_text(mark))


def _try_writing(address: str) -> None:
    """Find out before days of work whether one may write there."""
    _put_text(f"{address}.speechft-trial", "")
    remove(f"{address}.speechft-trial")


def _put_text(address: str, text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_text(file := Path(folder, "text"), text)
        upload(file, address, {_DIGEST: hashlib.sha256(text.encode()).hexdigest()})
