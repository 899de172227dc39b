"""The one way to an encoder's checkpoint: find it by path, name or hub id and open it; no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from speechft.commands import command
from speechft.console import log
from speechft.encoders.conversion.adapters import ADAPTER_NAME
from speechft.encoders.conversion.checkpoints import Checkpoint, open_checkpoint
from speechft.errors import CheckpointError
from speechft.files import (
    CONFIG_NAME,
    INDEX_NAME,
    NESTED_PROCESSOR_NAME,
    PROCESSOR_NAME,
    WEIGHTS_NAME,
)

FEATURES: dict[str, dict[str, Any]] = {"mfcc": {}, "mfcc-cmvn": {"cmvn": True}}
"""Encoders without weights, by name: arguments of `speechft.encoders.mfcc.MfccEncoder`."""

CODE = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)\Z")
"""Names of code, ``FILE.py:NAME``; see `speechft.encoders.user_code`."""

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""Endings of files of weights; a name with one is no hub id."""


def open_encoder(source: Any, role: str = "checkpoint") -> Checkpoint:
    """Open an encoder's checkpoint; every verb that reads one does it here.

    Args:
        source: What `resolve_encoder` takes, a state dict, or a live module.
        role: What it is called in messages when it has no path: ``base`` or ``tuned``.

    Raises:
        CheckpointError: There is none, it is an adapter, or it cannot be read safely.
    """
    if not isinstance(source, str | Path):
        return open_checkpoint(source, role)
    opened = open_checkpoint(resolve_encoder(source), role)
    for what, names in (
        ("further encoders", opened.others),
        ("tensors of no head that is known", opened.not_understood()),
    ):
        if names:
            _say_once(f"{opened.source}: {what} are left out: {_some(names)}")
    return opened


@cache
def _say_once(text: str) -> None:
    log(text)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def packaged_encoders() -> dict[str, Path]:
    """Return the encoders that come with the package, by name."""
    root = Path(str(resources.files("speechft") / "assets"))
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{CONFIG_NAME}"))}


def resolve_encoder(name: str | Path, *, download: bool = True) -> Path:
    """Return where an encoder lies; a hub id is downloaded into the Hugging Face cache.

    Args:
        name: A folder, a checkpoint file, the name of a packaged encoder, or a hub id such as
            ``facebook/hubert-base-ls960``, with a revision as ``owner/name@revision``.
        download: False takes a hub id from the cache alone: where a result names it, not the user.

    Raises:
        CheckpointError: There is no such encoder.
    """
    path = Path(os.path.expanduser(name))
    packaged = packaged_encoders()
    if CODE.match(str(name)) and not path.exists():
        raise CheckpointError(
            f"{name} is code, which runs only where you type its name: on the command line of "
            "evaluate, or in Python",
            hint=f"{command('evaluate', name, out='OUT')}, or speechft.evaluate([encoder], "
            "out=...)",
        )
    is_there = path.exists() or path.is_symlink()  # a broken link is told as one
    if path.is_dir() or (is_there and str(name) not in packaged):
        return path
    if str(name) in packaged:
        return packaged[str(name)]
    if str(name) in FEATURES:
        raise CheckpointError(
            f"{name} has no weights: it can be evaluated and extracted, not inspected, converted, "
            "tuned or merged",
            hint=f"encoders with weights are files, folders, hub ids and: {', '.join(packaged)}",
        )
    is_path = path.suffix in WEIGHT_SUFFIXES or str(name).startswith((".", "/", "~"))
    if is_path or str(name).partition("@")[0].count("/") != 1:
        raise CheckpointError(
            f"no encoder at {name}",
            hint=f"give a folder, a checkpoint file, a hub id such as facebook/hubert-base-ls960, "
            f"or one of: {', '.join([*packaged, *FEATURES])}",
        )
    return _download(str(name), download)


def _download(name: str, download: bool) -> Path:
    from huggingface_hub import snapshot_download

    hub_id, _, revision = name.partition("@")

    def fetch(*weights: str) -> Path:
        settings = [CONFIG_NAME, PROCESSOR_NAME, NESTED_PROCESSOR_NAME, ADAPTER_NAME]
        patterns = [*settings, *weights]
        return Path(
            snapshot_download(
                hub_id,
                revision=revision or None,
                allow_patterns=patterns,
                local_files_only=not download,
            )
        )

    try:  # not *.safetensors: MMS has an adapter for every language beside its weights
        folder = fetch(WEIGHTS_NAME, "model-*.safetensors", INDEX_NAME)
        if not any(folder.glob("model*.safetensors")):  # the first HuBERT and WavLM are pickles
            folder = fetch("pytorch_model*.bin", "pytorch_model.bin.index.json")
    except Exception as error:  # the hub client raises many kinds, most of them network errors
        if not download:
            raise CheckpointError(
                f"encoder {name} is a hub id that is not in the cache; nothing is downloaded "
                "because a file names it",
                hint="type the name yourself, or give its folder",
            ) from None
        raise CheckpointError(
            f"encoder {name} is neither a folder nor could it be downloaded: "
            f"{type(error).__name__}",
            hint="check the name and the network, or download it elsewhere and give its folder",
        ) from None
    return folder
