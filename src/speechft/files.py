"""Files: atomic writing, JSON and YAML, digests, safetensors headers without torch."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from speechft.disk import reading, remove, swap, sync_folder, sync_tree, system_refusal
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
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"no space left to write {path}", hint="free some space and run it again")
    return RunError(f"cannot write {path}: {error.strerror or error}")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, indented, keys in the given order."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        CheckpointError: The file is missing or is not JSON.
    """
    try:
        with reading(path) as file:
            return json.loads(file.read().decode())
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
        with reading(path.expanduser()) as file:
            content = parse_yaml(file.read().decode())
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
    with reading(path) as file:
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
        with reading(path) as file:
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
