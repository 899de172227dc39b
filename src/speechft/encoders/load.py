"""From a path, a packaged name or a hub id to an encoder."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import torch

from speechft.checkpoint import (
    CONFIG_NAME,
    PROCESSOR_NAME,
    encoder_digest,
    json_digest,
    read_header,
    read_json,
    weight_files,
)
from speechft.encoders.base import MODES, Encoder, Mode
from speechft.encoders.hugging_face import FAMILIES, HuggingFaceEncoder
from speechft.encoders.mfcc import MfccEncoder
from speechft.errors import CheckpointError, unknown_choice

FEATURES = {"mfcc": lambda: MfccEncoder(), "mfcc-cmvn": lambda: MfccEncoder(cmvn=True)}
"""Encoders without weights, by name."""


def packaged_encoders() -> dict[str, Path]:
    """Return the encoders that come with the package, by name."""
    root = Path(str(resources.files("speechft") / "assets"))
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{CONFIG_NAME}"))}


def resolve_encoder(name: str | Path) -> Path:
    """Return the folder of an encoder; a hub id is downloaded into the Hugging Face cache.

    Args:
        name: A folder, the name of a packaged encoder, or a hub id such as
            ``facebook/hubert-base-ls960``.

    Raises:
        CheckpointError: There is no such encoder.
    """
    path = Path(name)
    if path.is_dir():
        return path
    packaged = packaged_encoders()
    if str(name) in packaged:
        return packaged[str(name)]
    if path.exists():
        raise CheckpointError(
            f"{name} is a file, expected a folder with {CONFIG_NAME} and model.safetensors"
        )
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise CheckpointError(
            f"no encoder at {name}",
            hint=f"give a folder, a hub id such as facebook/hubert-base-ls960, or one of: "
            f"{', '.join([*packaged, *FEATURES])}",
        )
    return _download(str(name))


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [CONFIG_NAME, PROCESSOR_NAME, "*.safetensors", "*.safetensors.index.json"]
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=patterns))
    except Exception as error:  # the hub client raises many kinds, most of them network errors
        raise CheckpointError(
            f"encoder {hub_id} is neither a folder nor could it be downloaded: "
            f"{type(error).__name__}",
            hint="check the name and the network, or download it elsewhere and give its folder",
        ) from None
    return folder


def load_encoder(name: str | Path, mode: Mode = "exact") -> Encoder:
    """Load an encoder in evaluation mode, computing in float32.

    Args:
        name: A folder, a packaged name, a hub id, or ``mfcc``.
        mode: ``exact`` or ``s3prl``, see `HuggingFaceEncoder`.

    Raises:
        CheckpointError: There is no such encoder, its family is not supported, or its weights do
            not fit its configuration or hold NaN.
        ConfigError: Unknown mode.
    """
    if mode not in MODES:
        raise unknown_choice("mode", mode, MODES)
    if str(name) in FEATURES:
        return FEATURES[str(name)]().eval()
    folder = resolve_encoder(name)
    config = read_config(folder)
    for path in weight_files(folder):
        read_header(path)
    return HuggingFaceEncoder(
        _load_model(folder, config), normalize=_wants_normalization(folder), mode=mode
    ).eval()


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of an encoder of a supported family.

    Raises:
        CheckpointError: It is missing, unreadable, or of another family.
    """
    config = _read_mapping(folder / CONFIG_NAME)
    family = config.get("model_type")
    if family not in FAMILIES:
        raise CheckpointError(
            f"{folder} is a model of type {family!r}; supported are: {', '.join(FAMILIES)}",
            hint="speechft needs an encoder that takes waveforms and gives one frame every 20 ms",
        )
    return config


def random_encoder(like: str | Path, seed: int, mode: Mode = "exact") -> Encoder:
    """Return an encoder of the same configuration with freshly drawn weights.

    Args:
        like: Where the configuration comes from.
        seed: Seed of the weights.
        mode: See `load_encoder`.
    """
    from transformers import AutoConfig, AutoModel

    folder = resolve_encoder(like)
    read_config(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    return HuggingFaceEncoder(model, normalize=_wants_normalization(folder), mode=mode).eval()


def digest_of(name: str | Path) -> str:
    """Return the digest of an encoder by the same names that `load_encoder` takes."""
    if str(name) in FEATURES:
        return json_digest(["features", str(name)])
    return encoder_digest(resolve_encoder(name))


def _wants_normalization(folder: Path) -> bool:
    path = folder / PROCESSOR_NAME
    return bool(_read_mapping(path).get("do_normalize", False)) if path.is_file() else False


def _read_mapping(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}, expected a mapping of keys")
    return content


def _load_model(folder: Path, config: dict[str, Any]) -> Any:
    """Load the bare encoder, out of a task model too, and refuse what does not fit."""
    from transformers import AutoModel
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are reported, and refused below
        )
    except Exception as error:  # a wrong configuration or file raises many kinds
        raise CheckpointError(
            f"{folder} cannot be loaded as {config['model_type']}: {type(error).__name__}: {error}"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
    missing = sorted(set(report["missing_keys"]) - {"masked_spec_embed"})
    mismatched = sorted(str(item) for item in report["mismatched_keys"])
    if missing or mismatched:
        raise CheckpointError(
            f"{folder}: the weights do not fit the configuration; missing: {missing[:5]}, "
            f"of another shape: {mismatched[:5]}"
        )
    broken = [name for name, tensor in model.named_parameters() if not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(f"{folder}: NaN or infinite weights in {', '.join(broken[:5])}")
    return model
