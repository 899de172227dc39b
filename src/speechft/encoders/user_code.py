"""Finds an encoder of the user's own: a class in a file that they name, or an entry point.

Code from a file runs only where the user typed its name, on the command line or in Python: nothing
here is called with a name that stands in a recipe, a manifest, a result or a checkpoint.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from speechft.encoders.opening import CODE, FEATURES, packaged_encoders
from speechft.errors import CheckpointError, unknown_choice

GROUP = "speechft.encoders"
"""Group of the entry points of installed packages that give an encoder."""


def installed_encoders() -> dict[str, EntryPoint]:
    """Return the entry points of `GROUP` by name; nothing of them is loaded."""
    return {point.name: point for point in entry_points(group=GROUP)}


def typed_encoder(name: str) -> Any:
    """Return the object that a name typed by the user stands for; None where it is no such name.

    Args:
        name: ``FILE.py:NAME``, where NAME is a class or function without arguments, or an object;
            or an entry point. Names of encoders that come with speechft, and of files and folders
            that exist, are theirs.

    Raises:
        CheckpointError: There is no such file, or it fails.
        ConfigError: The file has no such name.
    """
    if match := CODE.match(name):
        return _made(_from_file(Path(os.path.expanduser(match["file"])), match["name"]), name)
    known = (
        name in FEATURES or name in packaged_encoders() or Path(os.path.expanduser(name)).exists()
    )
    point = None if known else installed_encoders().get(name)
    if point is None:
        return None
    try:
        found = point.load()
    except Exception as error:  # the user's code may raise anything
        raise _failed(f"entry point {name} ({point.value})", error) from error
    return _made(found, name)


def _from_file(file: Path, name: str) -> Any:
    if not file.is_file():
        raise CheckpointError(f"there is no file {file}", hint="write FILE.py:NAME")
    spec = importlib.util.spec_from_file_location(f"speechft_own_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        raise _failed(str(file), error) from error
    if not hasattr(module, name):
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == spec.name]
        raise unknown_choice(f"encoder in {file}", name, own)
    return getattr(module, name)


def _made(found: Any, name: str) -> Any:
    """Return the encoder itself where a class or a function makes it."""
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        return found
    try:
        return found()
    except Exception as error:  # the user's code may raise anything
        raise _failed(f"{name}()", error) from error


def _failed(what: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{what} fails: {type(error).__name__}: {error}",
        hint="an encoder of your own is made without arguments, see docs/encoders.md",
    )


def own_digest(encoder: Any) -> str | None:
    """Return the digest of an encoder of the user's own; None where it cannot be known again.

    It is its own ``digest`` (text, or a function that returns it), else that of its state dict and
    of the file that its class is written in.
    """
    told = getattr(encoder, "digest", None)
    told = told() if callable(told) else told
    if told is not None:
        return hashlib.sha256(f"own {told}".encode()).hexdigest()
    source = _source(type(encoder))
    if source is None or not hasattr(encoder, "state_dict"):
        return None
    digest = hashlib.sha256(source)
    config: Any = getattr(getattr(encoder, "model", None), "config", None)  # speechft's own
    if hasattr(config, "to_dict"):
        digest.update(repr((config.to_dict(), getattr(encoder, "normalize", None))).encode())
    for name, tensor in encoder.state_dict().items():
        if not hasattr(tensor, "numpy"):
            return None
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}".encode())
        digest.update(data.flatten().view(_bytes_type()).numpy().tobytes())
    return digest.hexdigest()


def _bytes_type() -> Any:
    import torch

    return torch.uint8


def _source(kind: type) -> bytes | None:
    """Return the file that a class is written in; None for one that was typed in."""
    module = inspect.getmodule(kind)
    file = getattr(module, "__file__", None) or _file_of_code(kind)
    return Path(file).read_bytes() if file is not None and Path(file).is_file() else None


def _file_of_code(kind: type) -> str | None:
    """Return the file of a class whose module is not registered, as of a file that was typed."""
    functions = [v for v in vars(kind).values() if inspect.isfunction(v)]
    return functions[0].__code__.co_filename if functions else None
