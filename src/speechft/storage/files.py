"""Files: atomic writing, JSON and YAML, digests, the files of an encoder folder."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from speechft.errors import CheckpointError, ConfigError, RunError
from speechft.storage.disk import reading, remove, swap, sync_folder, sync_tree, system_refusal
from speechft.storage.documents import MAX_YAML, parse_json, parse_yaml, read_limited, text_of

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""Endings of files of weights; a name with one is no hub id."""
INDEX_NAME = "model.safetensors.index.json"
PROCESSOR_NAME = "preprocessor_config.json"
MAX_NAME = 255
"""Bytes of a file's name, in all usual file systems."""
NESTED_PROCESSOR_NAME = "processor_config.json"
"""Where a ``Wav2Vec2Processor`` of transformers 5 puts the same, under ``feature_extractor``."""


def cache_folder() -> Path:
    """Return where generated corpora and copies are kept.

    ``$SPEECHFT_CACHE``, by default ``~/.cache/speechft``.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "speechft"
    return Path(os.environ.get("SPEECHFT_CACHE", default))


@contextlib.contextmanager
def write_beside(out: Path, hidden: Path) -> Iterator[None]:
    """Have a file or a folder written to ``hidden``, and put it in the place of ``out`` at the end.

    On any error, including Ctrl-C, ``hidden`` is removed and ``out`` is as it was.

    Args:
        out: The final name.
        hidden: Another name in the same file system; the block writes what it holds.

    Raises:
        RunError: The disk is full, or ``out`` cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove(hidden)
        yield
        sync_tree(hidden)
        swap(hidden, out, hidden.with_name(f"{hidden.name}.old"))
        sync_folder(out.parent)
    except Exception as error:
        refused = system_refusal(error, out.parent)
        if refused is None:
            raise
        raise write_error(out, refused) from error
    finally:
        with contextlib.suppress(OSError):
            remove(hidden)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its place at the end, see `write_beside`.

    Raises:
        RunError: The disk is full, or the folder cannot be written.
    """
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with write_beside(path, hidden), open(hidden, "xb") as file:
        yield cast(BinaryIO, file)


def write_error(path: Path, error: OSError) -> RunError:
    """Turn the operating system's refusal to write ``path`` into an error with a hint."""
    here = cache_folder()
    first = f"it is written in {here} first, or where SPEECHFT_CACHE says"
    where = first if path.is_relative_to(here) else None  # messages may call it by its address
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space and run it again" + (f"; {where}" if where else "")
        return RunError(f"no space left to write {path}", hint=hint)
    return RunError(f"cannot write {path}: {error.strerror or error}", hint=where)


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What a file system says that has no hard links."""


def create_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a file that is not there yet: of all processes that try at once, one succeeds.

    Args:
        path: The file.
        text: What it holds.
        durable: Have it outlive the machine.

    Raises:
        FileExistsError: It is there.
        OSError: It cannot be written.
    """
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}.tmp")
    try:
        with open(hidden, "xb") as held:
            held.write(text.encode())
            held.flush()
            if durable:
                os.fsync(held.fileno())
        try:
            os.link(hidden, path)  # whole as soon as it is there
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with open(path, "xb") as file:
                file.write(text.encode())
        if durable:
            sync_folder(path.parent)
    finally:
        hidden.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, indented, keys in the given order."""
    write_text(path, json_text(content))


def write_packed(path: Path, items: Iterable[Any]) -> None:
    """Write JSON, an item a line, packed by gzip: the same bytes whenever and under any name.

    Args:
        path: In a folder that nobody else reads yet.
        items: What the lines hold.
    """
    with open(path, "wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        for item in items:
            packed.write(f"{json.dumps(item, ensure_ascii=False)}\n".encode())


def json_text(content: Any) -> str:
    """Return what `write_json` writes."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        CheckpointError: The file is missing, too large, or is not JSON.
    """
    try:
        return parse_json(read_limited(path), unique=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping by the rules of YAML 1.2; tags for Python objects are refused.

    ``yes``, ``on``, dates, ``010`` and ``1:30`` are text, which a field of another type turns into
    what it is; ``1e-4`` is a number.

    Raises:
        ConfigError: The file is missing, is not YAML, or holds something else than a mapping.
    """
    import yaml

    try:
        content = parse_yaml(text_of(read_limited(os.path.expanduser(path), MAX_YAML)))
    except FileNotFoundError:
        raise ConfigError(f"configuration file {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"configuration file {path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}, expected a mapping of keys")
    return content


def read_processor(folder: Path) -> dict[str, Any] | None:
    """Return what an encoder folder says about the audio it takes; None where it does not say.

    Args:
        folder: It may hold ``preprocessor_config.json``, or ``processor_config.json`` with the
            same under ``feature_extractor``.

    Raises:
        CheckpointError: The file is not JSON.
    """
    content = None
    if (folder / PROCESSOR_NAME).is_file():
        content = read_json(folder / PROCESSOR_NAME)
    elif (folder / NESTED_PROCESSOR_NAME).is_file():
        whole = read_json(folder / NESTED_PROCESSOR_NAME)
        content = whole.get("feature_extractor") if isinstance(whole, dict) else None
    return content if isinstance(content, dict) else None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with reading(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(content: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def list_digest(items: Iterable[Any]) -> str:
    """Return what `json_digest` says of the list of some items, which are not held together."""
    digest = hashlib.sha256(b"[")
    for number, item in enumerate(items):
        text = json.dumps(item, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        digest.update(("," * (number > 0) + text).encode())
    digest.update(b"]")
    return digest.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of an encoder folder, sharded or not, in order.

    Raises:
        CheckpointError: The folder holds no safetensors weights, or its index is damaged.
    """
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    if (folder / INDEX_NAME).is_file():
        return indexed_files(folder / INDEX_NAME)
    raise CheckpointError(
        f"{folder} holds no {WEIGHTS_NAME}",
        hint="an encoder is a folder with config.json and model.safetensors",
    )


def indexed_files(index: Path) -> list[Path]:
    """Return the files that an index of shards names; all lie in its own folder.

    Raises:
        CheckpointError: It has no ``weight_map``, or that names something else than such files.
    """
    content = read_json(index)
    where = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(where, dict) or not where:
        raise CheckpointError(f"{index} has no weight_map from names of tensors to files")
    for tensor, name in where.items():
        if (
            not isinstance(name, str)
            or name in ("", ".", "..")
            or set(name) & set("/\\\0")
            or (len(os.fsencode(name)) > MAX_NAME)
        ):
            raise CheckpointError(
                f"{index}: weight_map puts {tensor!r} into {str(name)[:80]!r}, expected the name "
                "of a file beside it",
                hint="shards lie in the folder of their index; nothing else is read",
            )
    return [index.parent / name for name in sorted(set(where.values()))]


def encoder_digest(folder: Path) -> str:
    """Return one SHA-256 over weights and, where it is there, configuration of an encoder folder.

    A single file of weights without a configuration has the digest of that file.
    """
    parts = [file_digest(path) for path in weight_files(folder)]
    if (folder / CONFIG_NAME).is_file():
        parts.insert(0, file_digest(folder / CONFIG_NAME))
    elif len(parts) == 1:
        return parts[0]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
