"""Files: atomic writing, JSON and YAML, digests, safetensors headers without torch."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from speechft.errors import CheckpointError, ConfigError, RunError

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
PROCESSOR_NAME = "preprocessor_config.json"
NESTED_PROCESSOR_NAME = "processor_config.json"
"""Where a ``Wav2Vec2Processor`` of transformers 5 puts the same, under ``feature_extractor``."""

MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies in a safetensors file."""

    name: str
    dtype: str
    """Safetensors name of the type: F32, F16, BF16, I64, ..."""
    shape: tuple[int, ...]
    start: int
    """Offset of the first byte from the beginning of the file."""
    nbytes: int


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
        _sync_tree(hidden)
        swap(hidden, out, aside_of(out))
        sync_folder(out.parent)
    except OSError as error:
        raise write_error(out, error) from error
    finally:
        with contextlib.suppress(OSError):
            remove(hidden)


def swap(new: Path, out: Path, aside: Path) -> None:
    """Put a file or a folder in the place of another, which is gone afterwards.

    A file, or an empty folder, is replaced in one step. A folder that holds something is renamed to
    ``aside`` first and removed from there, so that the final name is never absent longer than a
    rename takes, and nothing half-removed ever bears it. A file never replaces a folder.

    Args:
        new: Complete, and on the disk.
        out: The final name.
        aside: Where the old folder goes meanwhile; what is there is removed.
    """
    try:
        os.replace(new, out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        remove(aside)
        os.replace(out, aside)
        try:
            os.replace(new, out)
        except BaseException:
            os.replace(aside, out)
            raise
        remove(aside)


def aside_of(out: Path) -> Path:
    """Return where a folder goes while another takes its place."""
    return out.with_name(f".{out.name}.old")


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with what it holds; nothing where there is nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its place at the end, see `write_beside`.

    Raises:
        RunError: The disk is full, or the folder cannot be written.
    """
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with write_beside(path, hidden), open(hidden, "wb") as file:
        yield cast(BinaryIO, file)


def _sync_tree(path: Path) -> None:
    """Make a file, or a folder with what it holds, durable."""
    for item in sorted(path.rglob("*"), reverse=True) if path.is_dir() else ():
        if not item.is_symlink():
            sync_folder(item)
    sync_folder(path)


def write_error(path: Path, error: OSError) -> RunError:
    """Turn the operating system's refusal to write ``path`` into an error with a hint."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"no space left to write {path}", hint="free some space and run it again")
    return RunError(f"cannot write {path}: {error.strerror or error}")


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable, or the content of a file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, indented, keys in the given order."""
    write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """Return what `write_json` writes."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        CheckpointError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from None


def parse_yaml(text: str) -> Any:
    """Return what a text is by the core schema of YAML 1.2, which has no dates and no octals.

    Raises:
        YAMLError: It is no YAML.
    """
    import yaml

    return yaml.load(text, Loader=_core_loader())


@cache
def _core_loader() -> Any:
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML has it: 10 times
    loader: Any = type("CoreLoader", (base,), {"yaml_implicit_resolvers": {}})
    signs = list("-+0123456789")
    for tag, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?(0|[1-9][0-9]*)", signs),
        (
            "float",
            r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)"
            r"|\.(nan|NaN|NAN)",
            [*signs, "."],
        ),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("merge", r"<<", ["<"]),
    ):
        whole = re.compile(f"^(?:{pattern})$")
        loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", whole, first)
    return loader


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping by the rules of YAML 1.2; tags for Python objects are refused.

    ``yes``, ``on``, dates, ``010`` and ``1:30`` are text, which a field of another type turns into
    what it is; ``1e-4`` is a number.

    Raises:
        ConfigError: The file is missing, is not YAML, or holds something else than a mapping.
    """
    import yaml

    try:
        content = parse_yaml(path.expanduser().read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"configuration file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
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
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(content: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_header(path: Path) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Read the header of a safetensors file: its tensors by name, and its metadata.

    Raises:
        CheckpointError: The file is missing, truncated, or not a safetensors file.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
            if not 0 < length <= min(size - 8, MAX_HEADER_BYTES):
                raise ValueError("the header is incomplete")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        entries = {}
        for name, item in header.items():
            start, end = item["data_offsets"]
            if not 0 <= start <= end <= size - 8 - length:
                raise ValueError(f"tensor {name!r} reaches past the end of the file")
            shape = tuple(int(n) for n in item["shape"])
            entries[name] = TensorEntry(name, item["dtype"], shape, 8 + length + start, end - start)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file: {error}",
            hint="it may be truncated; copy or download it again",
        ) from None
    return entries, metadata


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of an encoder folder, sharded or not, in order.

    Raises:
        CheckpointError: The folder holds no safetensors weights.
    """
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    if (folder / INDEX_NAME).is_file():
        names = sorted(set(read_json(folder / INDEX_NAME)["weight_map"].values()))
        return [folder / name for name in names]
    raise CheckpointError(
        f"{folder} holds no {WEIGHTS_NAME}",
        hint="an encoder is a folder with config.json and model.safetensors",
    )


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
