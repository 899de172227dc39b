"""Put weights into the layout that s3prl loads as an upstream, and keep what it holds besides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechft.encoders.conversion import configs
from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.encoders.conversion.keys import is_pretraining_head, no_upstream
from speechft.encoders.conversion.tensors import Tensor, safetensors_tensors
from speechft.encoders.families import FAMILIES, Family, find_family
from speechft.errors import CheckpointError
from speechft.naming import public
from speechft.storage.documents import parse_json
from speechft.storage.headers import read_header

REST_NAME = "s3prl.safetensors"
"""File of a converted folder with what an s3prl or fairseq file holds beside the encoder."""

UPSTREAM_FORMATS = tuple(
    dict.fromkeys(
        ["s3prl", *(n for f in FAMILIES.values() for n in (f.file_format, f.bare_format))]
    )
)
"""Formats of files that hold an upstream, not what was trained on one."""

_REST_KEY = "speechft_s3prl"
_SYMBOLS_KEY = "dictionaries_symbols"


@dataclass(frozen=True)
class S3prlExtras:
    """What an s3prl or fairseq file holds beside the encoder: enough to write it again."""

    content: dict[str, Any]
    """Settings by key, without tensors and without the places of somebody's data."""
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
    is_upstream = checkpoint.format in UPSTREAM_FORMATS
    key = checkpoint.weights_key if is_upstream else None
    content = checkpoint.content if is_upstream else {}
    symbols = {name: value for name, value in content.items() if name == _SYMBOLS_KEY}
    return S3prlExtras({**public(content), **symbols}, key, names, heads)


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
    rest, family = s3prl_extras(base), find_family(base.family)
    lacks_heads = family is not None and family.lacks_heads(weights)
    has_fields = family is None or family.is_fairseq
    if rest is not None and rest.weights_key is not None:
        is_fairseq = "cfg" in rest.content or "args" in rest.content
        if is_fairseq and not lacks_heads:
            return _from_fairseq(family, rest, weights)
        if "model_cfg" in rest.content or not has_fields:
            return {**rest.content, rest.weights_key: dict(weights)}
    settings = base.settings() if settings is None else settings
    if settings is None and has_fields:
        raise CheckpointError(
            f"{base.source} has no configuration, which an s3prl checkpoint needs",
            hint="give the base as a folder with config.json, or as an s3prl .pt file",
        )
    settings = settings or {}
    family = family or find_family(settings.get("model_type"))
    if family is None or not family.in_s3prl:
        raise no_upstream(str(settings.get("model_type")))
    settings = family.whole(settings)
    implied = settings.get("feat_extract_norm") == "layer"
    normalize = bool(settings.get("do_normalize", implied))
    model = configs.from_hugging_face(settings, normalize) if family.is_fairseq else {}
    return family.s3prl_content({**settings, "do_normalize": normalize}, model, weights)


def _from_fairseq(
    family: Family | None, rest: S3prlExtras, weights: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a fairseq file in the layout that s3prl reads."""
    if family is not None and family.file_format != "fairseq":  # s3prl reads it as it is
        return {**rest.content, "model": dict(weights)}
    model, task = configs.sections(rest.content)
    converted: dict[str, Any] = {"task_cfg": dict(task), "model_cfg": dict(model)}
    if family is None:
        return converted | {"model_weight": dict(weights)}
    return converted | family.from_fairseq(rest.content, model, weights)


def _unprefixed(original: str, checkpoint: Checkpoint) -> str:
    prefix = checkpoint.prefix or ""
    return original.removeprefix(prefix)


def _read_extras(path: Path) -> S3prlExtras:
    _, metadata = read_header(path)
    try:
        facts = parse_json(metadata[_REST_KEY].encode(), unique=True)
        content, key, names = facts["content"], facts["weights_key"], facts["names"]
        if not isinstance(content, dict) or not isinstance(key, str | None):
            raise ValueError("content or weights_key is of another type")
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise ValueError("names is not a mapping from text to text")
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged: {error}", hint="remove it: only s3prl's pre-training heads go"
        ) from None
    return S3prlExtras(dict(content), key, dict(names), safetensors_tensors([path]))
