"""Put weights into the layout that s3prl loads as an upstream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechft.encoders.conversion import configs
from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.errors import CheckpointError

_SYMBOLS = [["<s>", "<pad>", "</s>", "<unk>"]]
_FINAL_DIM = 256


def s3prl_checkpoint(base: Checkpoint, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of an s3prl ``.pt`` file.

    A base that is such a file gives all but the weights. For other bases the configuration is
    translated, and pre-training heads that s3prl insists on are filled with zeros: they take no
    part in features.

    Args:
        base: The model that the weights belong to.
        weights: Torch tensors by s3prl name.

    Raises:
        CheckpointError: The base does not tell its configuration, or s3prl has no such family.
    """
    if base.format in ("s3prl", "wavlm", "fairseq", "decoar2") and base.weights_key is not None:
        content = dict(base.content)
        if base.format == "decoar2":
            return content | {"model": dict(weights)}
        return {**content, base.weights_key: dict(weights)}
    if base.family == "decoar2":
        return {"model": dict(weights)}
    settings = base.settings()
    if settings is None:
        raise CheckpointError(
            f"{base.source} has no configuration, which an s3prl checkpoint needs",
            hint="give the base as a folder with config.json, or as an s3prl .pt file",
        )
    normalize = bool(settings.get("do_normalize", settings.get("feat_extract_norm") == "layer"))
    model = configs.from_hugging_face(settings, normalize)
    if base.family == "wavlm":
        return {"cfg": model, "model": dict(weights)}
    if base.family not in ("hubert", "wav2vec2"):
        raise CheckpointError(
            f"s3prl has no upstream for the family {base.family!r}",
            hint="supported are hubert, wav2vec2, wavlm and decoar2",
        )
    filled = dict(weights) | _placeholders(base.family, settings, weights)
    model |= {"final_dim": _FINAL_DIM, "_name": base.family}
    if base.family == "wav2vec2":
        model |= {"quantize_targets": False}
    task: dict[str, Any] = {"normalize": normalize, "sample_rate": 16000}
    if base.family == "hubert":
        model |= {"label_rate": 50.0, "untie_final_proj": True}
        task |= {"label_rate": 50.0, "labels": ["km"], "_name": "hubert_pretraining"}
    else:
        task |= {"_name": "audio_pretraining"}
    content = {"task_cfg": task, "model_cfg": model, "model_weight": filled}
    return content | ({"dictionaries_symbols": _SYMBOLS} if base.family == "hubert" else {})


def _placeholders(
    family: str, config: Mapping[str, Any], weights: Mapping[str, Any]
) -> dict[str, Any]:
    import torch

    dim, channels = int(config["hidden_size"]), int(config["conv_dim"][-1])
    heads = {
        "final_proj.weight": torch.zeros(_FINAL_DIM, dim),
        "final_proj.bias": torch.zeros(_FINAL_DIM),
    }
    if family == "hubert":
        heads["label_embs_concat"] = torch.zeros(len(_SYMBOLS[0]), _FINAL_DIM)
    else:
        heads["project_q.weight"] = torch.zeros(_FINAL_DIM, channels)
        heads["project_q.bias"] = torch.zeros(_FINAL_DIM)
    if "mask_emb" not in weights:
        heads["mask_emb"] = torch.zeros(dim)
    return heads
