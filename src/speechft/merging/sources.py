"""The inputs of a merge: open them, and keep them from being written over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechft.console import warn
from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.encoders.conversion.settings import told_settings
from speechft.encoders.families import find_family
from speechft.encoders.opening import open_encoder
from speechft.errors import CheckpointError, ConfigError
from speechft.merging.checks import Objection

MAX_MODELS = 200
"""Tuned models of a merge; each is an open file, or several."""


def open_models(base: Any, tuned: Sequence[Any]) -> tuple[Checkpoint, list[Checkpoint]]:
    """Open a base and the models tuned from it; what is an adapter is put on the base.

    Raises:
        CheckpointError: There is no tuned model, there are too many, or one cannot be read.
    """
    if not tuned:
        raise CheckpointError("no tuned model was given", hint="give at least one beside the base")
    if len(tuned) > MAX_MODELS:
        raise CheckpointError(
            f"{len(tuned)} tuned models were given, of which at most {MAX_MODELS} are open at once",
            hint="merge them in parts, and the parts with each other",
        )
    opened = open_base(base)
    models = [open_encoder(model, "tuned", base=opened) for model in tuned]
    _warn_of_twice(tuned, models)
    for model in (opened, *models):
        _check_whole(model)
    return opened, models


def _warn_of_twice(given: Sequence[Any], models: Sequence[Checkpoint]) -> None:
    """Say of tuned models that are one and the same that it counts as often as it was given."""
    seen: list[Any] = []
    for one, model in zip(given, models, strict=True):
        key = [file.resolve() for file in model.files] or id(one)
        if key in seen:
            warn(f"{model.source} is given more than once, and counts as often")
        seen.append(key)


def _check_whole(model: Checkpoint) -> None:
    """Refuse a checkpoint that lacks tensors of the model that its configuration describes.

    Raises:
        CheckpointError: It does; merged, it would be half a model.
    """
    settings = model.settings()
    family = find_family(None if settings is None else settings.get("model_type"))
    if settings is None or family is None or model.format == "delta":
        return
    lacking = family.lacking(settings, set(model.names.values()))
    if lacking:
        raise CheckpointError(
            f"{model.source} lacks {len(lacking)} tensors of the {family.name} model that its "
            f"configuration describes: {', '.join(lacking[:4])}",
            hint="a shard or a part of the file may be missing; copy or download it again",
        )


def open_base(base: Any) -> Checkpoint:
    """Open a base, with the configuration that lies beside a file that does not tell its own.

    That goes into the output. What a tuned model does not tell itself is not looked for: s3prl and
    the hub disagree about the normalisation of the audio for one and the same model.

    Raises:
        CheckpointError: It cannot be read, or is a delta file.
    """
    opened = open_encoder(base, "base")
    if opened.format == "delta":
        raise CheckpointError(
            f"{opened.source} is a delta file, not a base",
            hint="the base comes first, then what was tuned from it: BASE DELTA",
        )
    return opened if opened.config else replace(opened, config=told_settings(opened))


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
    base: Checkpoint, models: Sequence[Checkpoint], base_digest: str | None
) -> list[Objection]:
    """Return an objection for every delta file that was made for another base."""
    found = []
    for model in models:
        if model.format != "delta" or base_digest is None:
            continue
        wanted = model.content.get("base_digest")
        if wanted is not None and wanted != base_digest:
            text = (
                f"{model.source} was made for a base with SHA-256 {wanted[:12]}..., "
                f"{base.source} has {base_digest[:12]}..."
            )
            found.append(Objection("base", text))
    return found
