"""From a path, a packaged name or a hub id to an encoder that computes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from speechft.encoders.base import MODES, Encoder, Mode
from speechft.encoders.build import build_encoder, random_like
from speechft.encoders.conversion.adapters import ADAPTER_NAME, ADAPTER_WEIGHTS
from speechft.encoders.conversion.settings import (
    implied_normalisation,
    sidecar,
    takes_normalized,
)
from speechft.encoders.mfcc import MfccEncoder
from speechft.encoders.opening import (
    FEATURES,
    open_encoder,
    packaged_encoders,
    resolve_encoder,
)
from speechft.errors import unknown_choice
from speechft.storage.files import (
    CONFIG_NAME,
    INDEX_NAME,
    WEIGHTS_NAME,
    encoder_digest,
    file_digest,
    json_digest,
    json_text,
    read_json,
    read_processor,
)

__all__ = [
    "FEATURES",
    "digest_if_written",
    "digest_of",
    "load_encoder",
    "packaged_encoders",
    "random_encoder",
    "resolve_encoder",
    "settings_digest",
]


def load_encoder(
    name: str | Path,
    mode: Mode = "exact",
    *,
    config: str | Path | None = None,
    allow_nonfinite: bool = False,
) -> Encoder:
    """Load an encoder in evaluation mode, computing in float32.

    Nothing that a file holds is executed: safetensors, or ``torch.load(weights_only=True)``.

    Args:
        name: An encoder folder, a checkpoint of s3prl, fairseq or SPIN, bare weights, a packaged
            name, a hub id, or ``mfcc``.
        mode: ``exact`` or ``s3prl``, see `HuggingFaceEncoder`.
        config: Where the configuration comes from when the checkpoint does not tell it: a JSON
            file, an encoder folder or another checkpoint. See `complete_settings`.
        allow_nonfinite: Accept weights that are NaN or infinite.

    Raises:
        CheckpointError: There is no such encoder, its family is not supported, or its weights do
            not fit its configuration or hold NaN.
        ConfigError: Unknown mode.
    """
    if mode not in MODES:
        raise unknown_choice("mode", mode, MODES)
    if str(name) in FEATURES:
        return MfccEncoder(**FEATURES[str(name)]).eval()
    checkpoint = open_encoder(name)
    return build_encoder(checkpoint, mode=mode, config=config, allow_nonfinite=allow_nonfinite)


def random_encoder(like: str | Path, seed: int, mode: Mode = "exact") -> Encoder:
    """Return an encoder of the same configuration with freshly drawn weights.

    Args:
        like: Where the configuration comes from.
        seed: Seed of the weights.
        mode: See `load_encoder`.
    """
    checkpoint = open_encoder(like)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return random_like(checkpoint, mode)


def digest_of(name: str | Path) -> str:
    """Return the digest of an encoder by the same names that `load_encoder` takes.

    It covers the weights, the configuration in their folder or beside their file, and whether
    waveforms are normalised, where ``preprocessor_config.json`` says other than the configuration.
    """
    if str(name) in FEATURES:
        return json_digest(["features", str(name)])
    path = resolve_encoder(name)
    if path.is_file() and path.name not in ADAPTER_WEIGHTS:
        digest, beside = file_digest(path), sidecar(path)
        if beside is None or open_encoder(path).config is not None:
            return digest
        return _with_normalisation(_joined([digest, file_digest(beside)]), beside)
    is_adapter = (path / ADAPTER_NAME).is_file()
    if not is_adapter and any((path / name).is_file() for name in (WEIGHTS_NAME, INDEX_NAME)):
        return _with_normalisation(encoder_digest(path), path / CONFIG_NAME)
    opened = open_encoder(path)
    parts, folder = [file_digest(file) for file in opened.files], opened.folder or path
    if (folder / CONFIG_NAME).is_file():
        parts.insert(0, file_digest(folder / CONFIG_NAME))
    return _with_normalisation(_joined(parts), folder / CONFIG_NAME)


def settings_digest(encoder: Encoder) -> str:
    """Return the digest of how an encoder computes, wherever its configuration came from."""
    config = getattr(getattr(encoder, "model", None), "config", None)
    settings = {} if config is None else config.to_dict()
    for name in ("transformers_version", "_name_or_path"):
        settings.pop(name, None)
    return json_digest([settings, getattr(encoder, "normalize", None)])


def _joined(parts: list[str]) -> str:
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def digest_if_written(
    weights: Sequence[str], settings: Mapping[str, Any], processor: Mapping[str, Any] | None
) -> str:
    """Return the digest that `digest_of` has for a folder that nobody need write.

    Args:
        weights: Digests of its files of weights.
        settings: What ``config.json`` would hold.
        processor: What ``preprocessor_config.json`` would hold, if anything.
    """
    config = hashlib.sha256(json_text(settings).encode()).hexdigest()
    return _normalisation_added(_joined([config, *weights]), settings, processor)


def _with_normalisation(digest: str, config: Path) -> str:
    """Add what the file beside a configuration says about waveforms, where it changes something.

    Where it does not, the digest stays that of configuration and weights.
    """
    settings = read_json(config) if config.is_file() else None
    return _normalisation_added(digest, settings, read_processor(config.parent))


def _normalisation_added(digest: str, settings: Any, processor: Mapping[str, Any] | None) -> str:
    if processor is None or not isinstance(settings, Mapping):
        return digest
    family = settings.get("model_type")
    if family is None or not takes_normalized(family):
        return digest
    implied = implied_normalisation(settings)
    told = [s.get("do_normalize") for s in (settings, processor)]
    before, after = (implied if value is None else bool(value) for value in told)
    return digest if before == after else _joined([digest, f"do_normalize={after}"])
