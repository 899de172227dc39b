"""The one way to an encoder's checkpoint: find it by path, name or hub id and open it; no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from speechft.cards.card import CARD_NAME
from speechft.commands import command
from speechft.console import log
from speechft.encoders.conversion.adapted import with_adapter
from speechft.encoders.conversion.adapters import (
    ADAPTER_NAME,
    ADAPTER_WEIGHTS,
    Adapter,
    find_adapter,
)
from speechft.encoders.conversion.checkpoints import Checkpoint, open_checkpoint
from speechft.errors import AbsentError, CheckpointError
from speechft.naming import is_hub_id, public_name
from speechft.storage.copies import copied_file, copied_folder, latest_copy
from speechft.storage.files import (
    CONFIG_NAME,
    INDEX_NAME,
    NESTED_PROCESSOR_NAME,
    PROCESSOR_NAME,
    WEIGHT_SUFFIXES,
    WEIGHTS_NAME,
)
from speechft.storage.remote import address_of, parted

FEATURES: dict[str, dict[str, Any]] = {"mfcc": {}, "mfcc-cmvn": {"cmvn": True}}
"""Encoders without weights, by name: arguments of `speechft.encoders.mfcc.MfccEncoder`."""

CODE = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)\Z")
"""Names of code, ``FILE.py:NAME``; see `speechft.encoders.user_code`."""

_SETTINGS = (CONFIG_NAME, PROCESSOR_NAME, NESTED_PROCESSOR_NAME, ADAPTER_NAME, CARD_NAME)
"""What is fetched beside weights, where it is there."""
_WEIGHTS = (
    WEIGHTS_NAME,
    INDEX_NAME,
    *ADAPTER_WEIGHTS,
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Of a folder at an address the first that is there is fetched."""

BESIDE = "+"
"""Between a base and an adapter for it: ``BASE+ADAPTER``."""

_DEEPEST = 8
"""Adapters on one another."""


def open_encoder(
    source: Any, role: str = "checkpoint", *, base: Checkpoint | None = None
) -> Checkpoint:
    """Open an encoder's checkpoint; every verb that reads one does it here.

    Args:
        source: What `resolve_encoder` takes, a state dict, or a live module.
        role: What it is called in messages when it has no path: ``base`` or ``tuned``.
        base: What an adapter is put on that names no base beside it; None takes the base that its
            own configuration names: a folder or file, a packaged name, a hub id in the cache.

    Raises:
        CheckpointError: There is none, it cannot be read safely, or it is an adapter whose base is
            not at hand.
    """
    if not isinstance(source, str | Path):
        return open_checkpoint(source, role)
    opened = _opened(resolve_encoder(source), role, base)
    for what, names in (
        ("further encoders", opened.others),
        ("tensors of no head that is known", opened.not_understood()),
    ):
        if names:
            say_once(f"{opened.source}: {what} are left out: {_some(names)}")
    return opened


def _opened(path: Path, role: str, base: Checkpoint | None, depth: int = 0) -> Checkpoint:
    before, path = _parted(path)
    adapter = find_adapter(path)
    if adapter is None:
        return open_checkpoint(path, role)
    if adapter.weights is None:
        raise adapter.refusal("and no file adapter_model.safetensors with its weights")
    if before is not None:
        below = _opened(before, role, base, depth)
    elif base is not None:
        below = base
        if adapter.base and public_name(adapter.base) != public_name(base.source):
            say_once(
                f"{adapter.source} was made for {public_name(adapter.base)}, and is put on "
                f"{public_name(base.source)}"
            )
    elif depth >= _DEEPEST:
        raise adapter.lacks_base(f"the last of {depth} that lie on one another")
    else:
        below = _opened(_base_of(adapter), role, None, depth + 1)
    return with_adapter(below, adapter)


def _parted(path: Path) -> tuple[Path | None, Path]:
    """Return the base and the adapter of ``BASE+ADAPTER``; any other path is whole."""
    if BESIDE in str(path) and not os.path.lexists(path):
        before, _, after = str(path).rpartition(BESIDE)
        if before and find_adapter(Path(after)) is not None:
            return Path(before), Path(after)
    return None, path


def _base_of(adapter: Adapter) -> Path:
    """Return where the base of an adapter lies, by what its configuration says; no network.

    Raises:
        CheckpointError: It does not say, or the base is not at hand.
    """
    if adapter.base is None:
        raise adapter.lacks_base("and does not say which encoder it is for")
    path = Path(os.path.expanduser(adapter.base))
    if path.exists():
        return path
    if adapter.base in packaged_encoders():
        return packaged_encoders()[adapter.base]
    if adapter.base.partition("@")[0].count("/") != 1 or adapter.base.startswith((".", "/")):
        raise adapter.lacks_base("which is not there")
    try:
        return _download(adapter.base, download=False)
    except CheckpointError:
        raise adapter.lacks_base(
            f"which is not in the Hugging Face cache ({command('inspect', adapter.base)} puts it "
            "there)"
        ) from None


@cache
def say_once(text: str) -> None:
    """Log what is found anew whenever the same file is opened, once a process."""
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
            ``facebook/hubert-base-ls960``, with a revision as ``owner/name@revision``; or any of
            these and a folder with an adapter for it, as ``BASE+ADAPTER``; or the address of a
            folder or file: ``s3://bucket/encoder``, ``https://host/best.ckpt``.
        download: False takes a hub id or an address from the cache alone: where a file names it,
            not the user.

    Raises:
        CheckpointError: There is no such encoder.
    """
    path = Path(os.path.expanduser(name))
    packaged = packaged_encoders()
    before, _, after = str(name).rpartition(BESIDE)
    if before and not os.path.lexists(path):
        adapter = Path(os.path.expanduser(after))
        if adapter.exists() and find_adapter(adapter) is not None:
            return Path(f"{resolve_encoder(before)}{BESIDE}{adapter}")
    if (address := address_of(name)) is not None:
        return _copied(address, download)
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


def _copied(address: str, download: bool) -> Path:
    """Return the copy of an encoder's folder or file that lies at an address.

    Raises:
        CheckpointError: There is no encoder.
        RemoteError: It cannot be read.
    """
    scheme, _, rest = address.partition("://")
    if scheme.lower() == "hf" and is_hub_id(rest.partition("@")[0]):
        return _download(rest, download)
    folder, name = parted(address)
    is_file = Path(name).suffix in WEIGHT_SUFFIXES
    if not download:
        found = latest_copy(folder if is_file else address)
        if found is None or not (found / name if is_file else found).exists():
            raise CheckpointError(
                f"encoder {address} was not copied before; nothing is fetched because a file "
                "names it",
                hint="type the address yourself",
            )
        return found / name if is_file else found
    try:
        if is_file:
            return copied_file(address, (f"{Path(name).stem}.config.json", *_SETTINGS))
        return copied_folder(address, (_WEIGHTS, *((setting,) for setting in _SETTINGS)))
    except AbsentError as error:
        raise CheckpointError(f"there is no encoder: {error.message}", hint=error.hint) from None


def _download(name: str, download: bool = True) -> Path:
    """Return the folder of a hub id in the cache; what is not there is downloaded unless barred."""
    from huggingface_hub import snapshot_download

    from speechft.storage.hub_files import bars_like_ours

    hub_id, _, revision = name.partition("@")

    def fetch(*weights: str) -> Path:
        patterns = [*_SETTINGS, *weights]
        barred: dict[str, Any] = {} if download else {"local_files_only": True}
        wanted: Any = {"revision": revision or None, "allow_patterns": patterns, **barred}
        with bars_like_ours():
            return Path(snapshot_download(hub_id, **wanted))

    try:  # not *.safetensors: MMS has an adapter for every language beside its weights
        folder = fetch(WEIGHTS_NAME, "model-*.safetensors", INDEX_NAME)
        if (folder / ADAPTER_NAME).is_file():
            return fetch(*ADAPTER_WEIGHTS)
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
