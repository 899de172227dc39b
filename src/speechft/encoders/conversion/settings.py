"""The whole configuration of a checkpoint: its own, given, found beside it, or as published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechft.console import log
from speechft.encoders.conversion import configs
from speechft.encoders.conversion.checkpoints import BIN_NAME, Checkpoint, open_checkpoint
from speechft.encoders.conversion.keys import CONV, WEIGHT_V
from speechft.encoders.conversion.tensors import Tensor
from speechft.errors import CheckpointError
from speechft.files import CONFIG_NAME, WEIGHTS_NAME, read_json, read_processor

PUBLISHED_HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}
"""Attention heads by hidden size in all published HuBERT, wav2vec 2.0 and WavLM models."""

PUBLISHED_CNN = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
"""Kernel and stride of each convolution in the same models."""

_HINT = (
    "give its configuration with --config (config=... in Python): a config.json, an encoder folder,"
    " or the s3prl or fairseq checkpoint that it was tuned from"
)


def complete_settings(
    checkpoint: Checkpoint, given: str | Path | Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the configuration in Hugging Face terms, ``do_normalize`` included.

    s3prl's downstream checkpoints, SPIN's, DeCoAR 2.0's and bare weights do not tell it. Then it
    comes from ``given``, from a file beside the weights (``NAME.config.json``, or ``config.json``
    for ``model.safetensors``), from the upstream checkpoint that s3prl's arguments name, or sizes
    are read off the tensors and the rest is taken as published, which is said.

    Args:
        checkpoint: The open checkpoint.
        given: A configuration, its file, an encoder folder or a checkpoint; overrides all others.

    Raises:
        CheckpointError: There is no configuration, or it is not of this checkpoint's family.
    """
    if isinstance(given, Mapping):
        settings = dict(given)
    elif given is not None:
        settings = _read(Path(given).expanduser(), checkpoint)
    else:
        settings = told_settings(checkpoint) or published_settings(checkpoint)
    family = settings.get("model_type")
    if checkpoint.family not in (None, family):
        raise CheckpointError(
            f"{checkpoint.source} is a {checkpoint.family} model; its configuration is of type "
            f"{family!r}"
        )
    settings = dict(settings)
    if settings.get("do_normalize") is None and family != "decoar2":
        settings["do_normalize"] = implied_normalisation(settings)
    return settings


def told_settings(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Return the configuration that a checkpoint or a file beside it tells; None without one."""
    own = checkpoint.settings()
    if own is not None or (beside := _beside(checkpoint)) is None:
        return own
    log(f"configuration of {checkpoint.source}: {beside}")
    return _read(beside, checkpoint)


def implied_normalisation(settings: Mapping[str, Any]) -> bool:
    """Return whether an encoder takes normalised waveforms when nothing says so.

    As published: models with a layer norm after every convolution do.
    """
    return bool(settings.get("feat_extract_norm", "layer") == "layer")


def sidecar(file: Path) -> Path | None:
    """Return the configuration that lies beside a file of weights; None where there is none."""
    candidates = [file.with_suffix(".config.json")]
    if file.name in (WEIGHTS_NAME, BIN_NAME):
        candidates.append(file.with_name(CONFIG_NAME))
    return next((path for path in candidates if path.is_file()), None)


def _beside(checkpoint: Checkpoint) -> Path | None:
    """Return the file that holds the configuration of a checkpoint without one."""
    is_file = checkpoint.folder is None and len(checkpoint.files) == 1
    if is_file and (beside := sidecar(checkpoint.files[0])) is not None:
        return beside
    upstream = (checkpoint.content.get("Args") or {}).get("upstream_ckpt")
    return Path(upstream) if isinstance(upstream, str) and Path(upstream).is_file() else None


def _read(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """Read a configuration for ``checkpoint`` from JSON, an encoder folder or a checkpoint."""
    if path.is_dir() or path.suffix != ".json":
        settings = open_checkpoint(path).settings()
        if settings is None:
            raise CheckpointError(f"{path} has no configuration", hint=_HINT)
        return settings
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}, expected a configuration")
    if "model_type" in content:
        processor = read_processor(path.parent)
        if "do_normalize" not in content and processor is not None:
            content["do_normalize"] = processor.get("do_normalize")
        return content
    if "encoder_embed_dim" in content:
        content = {"cfg": content}
    if not configs.describes_model(content):
        raise CheckpointError(
            f"{path} is not a configuration: it has neither model_type (Hugging Face) nor "
            f"encoder_embed_dim (s3prl, fairseq); its keys: {', '.join(map(str, content))[:200]}"
        )
    tensors = checkpoint.by_name()
    if checkpoint.family == "decoar2":
        return configs.decoar2_config(tensors, configs.sections(content)[0])
    return configs.to_hugging_face(content, checkpoint.family, tensors)


def published_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return sizes as the tensors tell them, and what they do not tell as it was published.

    Raises:
        CheckpointError: Family, number of heads or strides cannot be known.
    """
    tensors = checkpoint.by_name()
    if checkpoint.family == "decoar2":
        settings = configs.decoar2_config(tensors)
        heads, dim = settings["num_attention_heads"], settings["hidden_size"]
        if dim % heads:
            raise CheckpointError(
                f"{checkpoint.source} holds no configuration, and its dimension {dim} does not go "
                f"with the published {heads} attention heads",
                hint=_HINT,
            )
        log(f"{checkpoint.source} holds no configuration: {heads} heads taken, as published")
        return settings
    family = _family(checkpoint)
    sizes = known_sizes(checkpoint)
    heads = _heads(tensors, sizes["hidden_size"])
    kernels = tuple(sizes["conv_kernel"])
    unknown = [] if heads else ["the number of attention heads"]
    unknown += [] if kernels == tuple(k for k, _ in PUBLISHED_CNN) else ["the CNN's strides"]
    if unknown:
        raise CheckpointError(
            f"{checkpoint.source} holds no configuration, and its sizes are not those of a "
            f"published model: {' and '.join(unknown)} cannot be known",
            hint=_HINT,
        )
    large = sizes["feat_extract_norm"] == "layer"
    told = f"{family}, {heads} heads, {'pre' if large else 'post'}-norm layers"
    log(f"{checkpoint.source} holds no configuration: taken as published ({told})")
    return sizes | {
        "model_type": family,
        "architectures": [configs.ARCHITECTURES[family]],
        "num_attention_heads": heads,
        "conv_stride": [stride for _, stride in PUBLISHED_CNN],
        "do_stable_layer_norm": large,
        "do_normalize": large,
    }


def _family(checkpoint: Checkpoint) -> str:
    if checkpoint.family in configs.ARCHITECTURES:
        return str(checkpoint.family)
    named = (checkpoint.content.get("Args") or {}).get("upstream")
    if isinstance(named, str):
        return configs.family_by_name(named)
    if checkpoint.format == "spin":
        return "hubert"  # WavLM is recognised by its tensors
    raise CheckpointError(
        f"{checkpoint.source} holds no configuration and no pre-training head, so that HuBERT "
        "cannot be told from wav2vec 2.0",
        hint=_HINT,
    )


def known_sizes(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of the configuration that the shapes of the tensors tell.

    Raises:
        CheckpointError: Tensors that every encoder has are missing.
    """
    tensors = checkpoint.by_name()
    if checkpoint.family == "decoar2":
        return configs.decoar2_config(tensors)
    layers = {int(m.group(1)) for n in tensors if (m := re.match(r"encoder\.layers\.(\d+)\.", n))}
    try:
        hidden, per_group, positions = tensors[WEIGHT_V].shape
        inner = tensors["encoder.layers.0.feed_forward.intermediate_dense.bias"].shape[0]
        count = len([n for n in tensors if n.startswith("feature_ext") and n.endswith("v.weight")])
        shapes = [tensors[f"{CONV.format(i=i)}.conv.weight"].shape for i in range(count)]
    except (KeyError, ValueError):
        raise CheckpointError(
            f"{checkpoint.source} is no complete encoder of a known family; its tensors begin "
            f"with {', '.join(list(checkpoint.tensors)[:3])}",
            hint=_HINT,
        ) from None
    normed = f"{CONV.format(i=1)}.layer_norm.weight" in tensors
    sizes = {
        "hidden_size": hidden,
        "num_hidden_layers": len(layers),
        "intermediate_size": inner,
        "num_conv_pos_embeddings": positions,
        "num_conv_pos_embedding_groups": hidden // per_group,
        "conv_dim": [shape[0] for shape in shapes],
        "conv_kernel": [shape[2] for shape in shapes],
        "conv_bias": f"{CONV.format(i=0)}.conv.bias" in tensors,
        "num_feat_extract_layers": count,
        "feat_extract_norm": "layer" if normed else "group",
    }
    buckets = tensors.get("encoder.layers.0.attention.rel_attn_embed.weight")
    return sizes if buckets is None else sizes | {"num_buckets": buckets.shape[0]}


def _heads(tensors: Mapping[str, Tensor], hidden: int) -> int | None:
    gates = tensors.get("encoder.layers.0.attention.gru_rel_pos_const")  # WavLM's: (1, H, 1, 1)
    return PUBLISHED_HEADS.get(hidden) if gates is None else gates.shape[1]
