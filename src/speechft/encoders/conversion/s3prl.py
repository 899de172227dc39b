"""Put weights into the layout that s3prl loads as an upstream, and keep what it holds besides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechft.encoders.conversion import configs
from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.encoders.conversion.keys import is_pretraining_head
from speechft.encoders.conversion.tensors import Tensor, safetensors_tensors
from speechft.errors import CheckpointError
from speechft.files import read_header

REST_NAME = "s3prl.safetensors"
"""File of a converted folder with what an s3prl or fairseq file holds beside the encoder."""

_REST_KEY = "speechft_s3prl"
_SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>"]
_FINAL_DIM = 256


@dataclass(frozen=True)
class S3prlExtras:
    """What an s3prl or fairseq file holds beside the encoder: enough to write it again."""

    content: dict[str, Any]
    """Settings by key, without tensors."""
    weights_key: str | None
    """Key of the weights in the file; None for a downstream checkpoint."""
    names: dict[str, str]
    """Hugging Face name -> unprefixed name in the file, in its order, heads included."""
    heads: dict[str, Tensor] = field(default_factory=dict)
    """Pre-training heads by Hugging Face name."""

    def metadata(self) -> dict[str, str]:
        """Return everything but the heads as metadata of a safetensors file."""
        facts = {"content": self.content, "weights_key": self.weights_key, "names": self.names}
        return {_REST_KEY: json.dumps(facts, ensure_ascii=False)}


def s3prl_extras(checkpoint: Checkpoint) -> S3prlExtras | None:
    """Return what a checkpoint holds beside the encoder in s3prl's terms; None if it is no such.

    Raises:
        CheckpointError: The file of a converted folder that holds it is damaged.
    """
    if checkpoint.folder is not None:
        path = checkpoint.folder / REST_NAME
        return _read_extras(path) if path.is_file() else None
    if checkpoint.naming != "s3prl":
        return None
    names = {}
    for original, canonical in checkpoint.names.items():
        names[canonical] = _unprefixed(original, checkpoint)
    heads = {n: t for n, t in checkpoint.by_name().items() if is_pretraining_head(n)}
    is_upstream = checkpoint.format in ("s3prl", "wavlm", "fairseq", "decoar2")
    key = checkpoint.weights_key if is_upstream else None
    return S3prlExtras(dict(checkpoint.content) if is_upstream else {}, key, names, heads)


def s3prl_checkpoint(
    base: Checkpoint,
    weights: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of an s3prl ``.pt`` file.

    A base that is such a file, or was converted from one, gives all but the weights. For other
    bases, and for a wav2vec 2.0 of fairseq that lost its quantizer in fine-tuning, the
    configuration is translated, and pre-training heads that s3prl insists on and that ``weights``
    lack are filled with zeros: they take no part in features.

    Args:
        base: The model that the weights belong to.
        weights: Torch tensors by s3prl name.
        settings: Configuration in Hugging Face terms, where the base does not tell it.

    Raises:
        CheckpointError: The base does not tell its configuration, or s3prl has no such family.
    """
    rest = s3prl_extras(base)
    lacks_heads = base.family == "wav2vec2" and "quantizer.vars" not in weights
    if rest is not None and rest.weights_key is not None:
        is_fairseq = "cfg" in rest.content or "args" in rest.content
        if is_fairseq and not lacks_heads:
            return _from_fairseq(base.family, rest.content, weights)
        if "model_cfg" in rest.content or base.family == "decoar2":
            return {**rest.content, rest.weights_key: dict(weights)}
    if base.family == "decoar2":
        return {"model": dict(weights)}
    settings = base.settings() if settings is None else settings
    if settings is None:
        raise CheckpointError(
            f"{base.source} has no configuration, which an s3prl checkpoint needs",
            hint="give the base as a folder with config.json, or as an s3prl .pt file",
        )
    normalize = bool(settings.get("do_normalize", settings.get("feat_extract_norm") == "layer"))
    model = configs.from_hugging_face(settings, normalize)
    family = str(settings.get("model_type"))
    filled = _placeholders(family, settings, weights) | dict(weights)
    if family == "wavlm":
        return {"cfg": model, "model": filled}
    if family not in ("hubert", "wav2vec2"):
        raise CheckpointError(
            f"s3prl has no upstream for the family {family!r}",
            hint="supported are hubert, wav2vec2, wavlm and decoar2",
        )
    model |= {"final_dim": int(filled["final_proj.bias"].shape[0]), "_name": family}
    task: dict[str, Any] = {"normalize": normalize, "sample_rate": 16000}
    if family == "hubert":
        model |= {"label_rate": 50.0, "untie_final_proj": True}
        task |= {"label_rate": 50.0, "labels": ["km"], "_name": "hubert_pretraining"}
    else:
        model |= _quantizer(settings, filled)
        task |= {"_name": "audio_pretraining"}
    content = {"task_cfg": task, "model_cfg": model, "model_weight": filled}
    return content | ({"dictionaries_symbols": _symbols(filled)} if family == "hubert" else {})


def _from_fairseq(
    family: str | None, content: Mapping[str, Any], weights: Mapping[str, Any]
) -> dict[str, Any]:
    """Return WavLM's layout as it is, and fairseq's in the layout that s3prl reads."""
    if family == "wavlm":
        return {**content, "model": dict(weights)}
    model, task = configs.sections(content)
    filled = dict(weights)
    if family == "hubert" and "label_embs_concat" not in filled:
        dim = int(filled["final_proj.bias"].shape[0]) if "final_proj.bias" in filled else _FINAL_DIM
        filled |= _hubert_heads(int(model["encoder_embed_dim"]), dim, filled)
    converted: dict[str, Any] = {
        "task_cfg": dict(task),
        "model_cfg": dict(model),
        "model_weight": filled,
    }
    if family == "hubert":
        converted["dictionaries_symbols"] = content.get("dictionaries_symbols") or _symbols(filled)
    return converted


def _symbols(weights: Mapping[str, Any]) -> list[list[str]]:
    """Return a dictionary with as many symbols as HuBERT's label embeddings have rows."""
    rows = int(weights["label_embs_concat"].shape[0])
    return [[*_SYMBOLS, *map(str, range(max(rows - len(_SYMBOLS), 0)))][:rows]]


def _quantizer(settings: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that describe wav2vec 2.0's quantizer, where it is there."""
    if "quantizer.vars" not in weights:
        return {"quantize_targets": False}
    _, entries, width = weights["quantizer.vars"].shape
    groups = int(settings.get("num_codevector_groups", 2))
    sizes = {"latent_vars": entries // groups, "latent_groups": groups}
    return sizes | {"quantize_targets": True, "latent_dim": width * groups}


def _placeholders(
    family: str, config: Mapping[str, Any], weights: Mapping[str, Any]
) -> dict[str, Any]:
    """Return zeros for what s3prl's classes have and ``weights`` may lack."""
    import torch

    dim, channels = int(config["hidden_size"]), int(config["conv_dim"][-1])
    heads: dict[str, Any] = {}
    if "mask_emb" not in weights:
        heads["mask_emb"] = torch.zeros(dim)
    if family == "hubert":
        heads |= _hubert_heads(dim, _FINAL_DIM, weights)
    elif family == "wav2vec2" and "project_q.weight" not in weights:
        heads["project_q.weight"] = torch.zeros(_FINAL_DIM, channels)
        heads["project_q.bias"] = torch.zeros(_FINAL_DIM)
    if family == "wav2vec2" and "final_proj.weight" not in weights:
        heads["final_proj.weight"] = torch.zeros(_FINAL_DIM, dim)
        heads["final_proj.bias"] = torch.zeros(_FINAL_DIM)
    return heads


def _hubert_heads(dim: int, final: int, weights: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    if "final_proj.bias" in weights:
        final = int(weights["final_proj.bias"].shape[0])
    zeros = {
        "final_proj.weight": torch.zeros(final, dim),
        "final_proj.bias": torch.zeros(final),
        "label_embs_concat": torch.zeros(len(_SYMBOLS), final),
    }
    return {name: value for name, value in zeros.items() if name not in weights}


def _unprefixed(original: str, checkpoint: Checkpoint) -> str:
    prefix = checkpoint.prefix or ""
    return original.removeprefix(prefix)


def _read_extras(path: Path) -> S3prlExtras:
    _, metadata = read_header(path)
    try:
        facts = json.loads(metadata[_REST_KEY])
        content, key, names = facts["content"], facts["weights_key"], facts["names"]
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged: {error}", hint="remove it: only s3prl's pre-training heads go"
        ) from None
    return S3prlExtras(dict(content), key, dict(names), safetensors_tensors([path]))
