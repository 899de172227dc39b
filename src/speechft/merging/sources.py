"""The inputs of a merge: open them, find named ones, keep them from being written over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechft.encoders.conversion.checkpoints import Checkpoint, open_checkpoint
from speechft.errors import CheckpointError, ConfigError, LineageError

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")


def open_models(base: Any, tuned: Sequence[Any]) -> tuple[Checkpoint, list[Checkpoint]]:
    """Open a base and the models tuned from it.

    Raises:
        CheckpointError: There is no tuned model, or one cannot be read.
    """
    if not tuned:
        raise CheckpointError("no tuned model was given", hint="give at least one beside the base")
    return open_base(base), [_open(model, "tuned") for model in tuned]


def open_base(base: Any) -> Checkpoint:
    """Open a base.

    Raises:
        CheckpointError: It cannot be read, or is a delta file.
    """
    opened = _open(base, "base")
    if opened.format == "delta":
        raise CheckpointError(
            f"{opened.source} is a delta file, not a base",
            hint="the base comes first, then what was tuned from it: BASE DELTA",
        )
    return opened


def _open(source: Any, role: str) -> Checkpoint:
    found = locate(source)
    if isinstance(found, str | Path) and (Path(found) / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{found} holds an adapter (LoRA or the like), not an encoder",
            hint="merge the adapter into its model first: PEFT's merge_and_unload, save_pretrained",
        )
    return open_checkpoint(found, role)


def locate(source: Any) -> Any:
    """Return the folder of a packaged encoder or hub id; everything else as it is."""
    if not isinstance(source, str) or Path(source).exists():
        return source
    if Path(source).suffix in WEIGHT_SUFFIXES or source.startswith(("/", ".", "~")):
        return source
    from speechft.encoders.load import resolve_encoder  # imports torch, which files do not need

    return resolve_encoder(source)


def check_not_input(out: Path, models: Sequence[Checkpoint]) -> None:
    """Refuse an output that is one of the inputs, or a folder that holds one.

    Raises:
        ConfigError: It is.
    """
    for model in models:
        places = {f.resolve() for f in model.files}
        if model.folder is not None:
            places.add(model.folder.resolve())
        inside = {parent for place in places for parent in place.parents} if out.is_dir() else set()
        if out.resolve() in places | inside:
            raise ConfigError(f"{out} is an input or holds one", hint="choose another --out")


def check_base_digest(
    base: Checkpoint, models: Sequence[Checkpoint], base_digest: str | None, force: bool
) -> list[str]:
    """Return an objection for every delta file that was made for another base.

    Raises:
        LineageError: There is one, and ``force`` is off.
    """
    found = []
    for model in models:
        if model.format != "delta" or base_digest is None:
            continue
        wanted = model.content.get("base_digest")
        if wanted is not None and wanted != base_digest:
            found.append(
                f"{model.source} was made for a base with SHA-256 {wanted[:12]}..., "
                f"{base.source} has {base_digest[:12]}..."
            )
    if found and not force:
        raise LineageError(
            "; ".join(found),
            hint="use the base that the delta names; --force adds it to this one nevertheless",
        )
    return found
