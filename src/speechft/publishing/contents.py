"""What a folder holds that is published: every file of a kind that is known, and read as that."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from speechft.cards.card import CARD_NAME
from speechft.commands import command
from speechft.encoders.conversion.tensors import is_finite, safetensors_tensors
from speechft.errors import CheckpointError
from speechft.naming import public, public_text
from speechft.storage.documents import is_plain, read_limited, text_of
from speechft.storage.files import (
    CONFIG_NAME,
    INDEX_NAME,
    WEIGHTS_NAME,
    file_digest,
    indexed_files,
    read_json,
)
from speechft.storage.headers import read_header

KNOWN = ("*.safetensors", "*.json", "*.md", "results.jsonl", "vocab.txt", "merges.txt")
"""Names of files that are published, at any depth; and `_LEGAL`, whatever stands behind."""
_LEGAL = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "CITATION.cff")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_PLACES = re.compile(r"(?:path|dir|folder|file)$")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")
_WORDS = ("vocab", "tokenizer", "added_tokens", "merges")
_NAMED = 6


@dataclass(frozen=True)
class File:
    """A file as it is published."""

    name: str
    """Its path within the folder, parts separated by ``/``."""
    path: Path
    size: int
    sha256: str


def read_contents(folder: Path) -> tuple[list[File], list[str]]:
    """Return what is published of a folder, sorted by name, and the hidden names that are not.

    Raises:
        CheckpointError: The folder holds no model, a link, a file of a kind that is not known, one
            that is not what its name says, weights that are NaN, or what must not leave the
            machine: a path or a secret.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder", hint="give the folder of an encoder")
    found: list[File] = []
    hidden: list[str] = []
    problems: list[str] = []
    for name, status in _walk(folder, hidden):
        path = folder / name
        if problem := _kind_problem(name, status):
            problems.append(f"{name} {problem}")
        else:
            found.append(File(name, path, status.st_size, ""))
    _check_model(folder, {file.name for file in found})
    _refuse(folder, problems)
    for file in found:
        problems += [f"{file.name} {problem}" for problem in _problems(file)]
    _refuse(folder, problems)
    digested = [File(f.name, f.path, f.size, file_digest(f.path)) for f in found]
    return sorted(digested, key=lambda file: file.name), sorted(hidden)


def _walk(
    folder: Path, hidden: list[str], inside: str = ""
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what lies in a folder and below, links as such and never followed."""
    with os.scandir(folder / inside) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        name = f"{inside}/{entry.name}" if inside else entry.name
        if entry.name.startswith("."):
            hidden.append(name)
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(folder, hidden, name)
        else:
            yield name, entry.stat(follow_symlinks=False)


def _kind_problem(name: str, status: os.stat_result) -> str:
    """Say why a file is not published by what it is; empty where it may be."""
    last = name.rpartition("/")[2]
    if not is_plain(name) or not name.isprintable() or "\\" in name:
        return "has a name that not every system takes"
    if stat.S_ISLNK(status.st_mode):
        return "is a link; put the file itself there, if it is to leave the machine"
    if not stat.S_ISREG(status.st_mode):
        return "is no regular file"
    if any(fnmatchcase(last, pattern) for pattern in KNOWN) or last.startswith(_LEGAL):
        return ""
    if last.endswith(_PICKLES):
        return "may be a pickle, which runs code where it is loaded; only safetensors are published"
    return f"is of no kind that is published ({', '.join(KNOWN)}, {', '.join(_LEGAL)})"


def _check_model(folder: Path, names: set[str]) -> None:
    """Refuse a folder that transformers or peft would load nothing from."""
    if names.issuperset(_ADAPTER):
        return
    lacking = [CONFIG_NAME] if CONFIG_NAME not in names else []
    if not names & {WEIGHTS_NAME, INDEX_NAME}:
        lacking.append(WEIGHTS_NAME)
    if lacking:
        below = sorted(p.parent.name for p in folder.glob(f"*/{CONFIG_NAME}"))
        raise CheckpointError(
            f"{folder} holds no model: it lacks {' and '.join(lacking)}",
            hint=f"below it lie: {', '.join(below)}; give one of them"
            if below
            else f"make one of a checkpoint: {command('convert', 'CHECKPOINT', 'FOLDER')}",
        )
    config = read_json(folder / CONFIG_NAME)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{folder / CONFIG_NAME} names no model_type: it is of no model")
    if config.get("auto_map"):
        raise CheckpointError(
            f"{folder / CONFIG_NAME} names code that transformers would run (auto_map)",
            hint="take the key out; what is published here loads without code",
        )
    if WEIGHTS_NAME not in names:
        _check_index(folder)


def _check_index(folder: Path) -> None:
    """Refuse shards that are missing, or that hold other tensors than their index says."""
    shards = indexed_files(folder / INDEX_NAME)
    if gone := [path.name for path in shards if not path.is_file()]:
        raise CheckpointError(f"{folder / INDEX_NAME} names {', '.join(gone)}, which is missing")
    held = {(name, path.name) for path in shards for name in read_header(path)[0]}
    if held != set(read_json(folder / INDEX_NAME)["weight_map"].items()):
        raise CheckpointError(
            f"{folder / INDEX_NAME} names other tensors than its shards hold",
            hint="a shard may be of another model; write the folder again",
        )


def _problems(file: File) -> list[str]:
    """Return why the content of a file is not published."""
    last = file.path.name
    try:
        if last.endswith(".safetensors"):
            return _of_weights(file.path)
        if last.endswith(".json"):
            return _of_json(read_json(file.path), words=last.startswith(_WORDS))
        text = text_of(read_limited(file.path))
    except (OSError, ValueError) as error:
        return [f"cannot be read as text: {error}"]
    except CheckpointError as error:
        return [f"is not what its name says: {error.message}"]
    return (
        private_things(text.splitlines())
        if is_plain(text)
        else ["holds zero bytes, so it is no text"]
    )


def _of_weights(path: Path) -> list[str]:
    _, metadata = read_header(path)
    tensors = safetensors_tensors([path])
    broken = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    told = private_things([*metadata, *metadata.values(), *tensors])
    if broken:
        more = f" and {len(broken) - 3} more tensors" if len(broken) > 3 else ""
        told.append(f"holds NaN or infinite weights in {', '.join(broken[:3])}{more}")
    return told


def _of_json(content: Any, words: bool) -> list[str]:
    texts = list(_texts(content))
    named = [] if words else [text for key, text in texts if _PLACES.search(key)]
    placed = [f"tells a path: {text}" for text in named if public(text) != text]
    return placed or private_things(text for _, text in texts)


def _texts(content: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in plain JSON types with the key that it stands under; keys too."""
    if isinstance(content, str):
        yield key, content
    elif isinstance(content, dict):
        for name, value in content.items():
            yield "", name
            yield from _texts(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _texts(value, key)


def private_things(texts: Iterable[str]) -> list[str]:
    """Return what in some texts must not leave the machine: the first of them, in words."""
    for text in texts:
        if _TOKEN.search(text):
            return ["holds an access token of the hub"]
        if public_text(text) != text:
            return [f"tells a path or a secret: {_around(text, public_text)}"]
    return []


def _around(text: str, change: Callable[[str], str]) -> str:
    """Return the words that a change of a text touches, as they are after it."""
    kept = text.split()
    touched = [word for word in kept if change(word) != word] or kept
    return f"{change(' '.join(touched[:3]))[:80]} (shown without it)"


def _refuse(folder: Path, problems: list[str]) -> None:
    if problems:
        more = f"; and {len(problems) - _NAMED} more files" if len(problems) > _NAMED else ""
        raise CheckpointError(
            f"{folder} cannot be published: {'; '.join(problems[:_NAMED])}{more}",
            hint=f"move away or mend what is named; {CARD_NAME} and JSON may be edited",
        )
