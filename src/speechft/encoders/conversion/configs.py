"""Configurations: the fields of s3prl and fairseq on the left, of Hugging Face on the right."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechft.encoders.conversion.tensors import Tensor
from speechft.encoders.families import FAMILIES, find_family, in_s3prl
from speechft.encoders.families.tables import FIELDS
from speechft.encoders.hints import config_hint
from speechft.errors import CheckpointError

KEPT_KEYS = ("task_cfg", "model_cfg", "dictionaries_symbols", "cfg", "args")
"""Keys of a checkpoint, beside the weights, that describe the model."""

_CNN_NORM = {"default": "group", "layer_norm": "layer"}


def describes_model(content: Mapping[str, Any]) -> bool:
    """Tell whether the keys beside the weights hold the configuration of an encoder."""
    model = sections(content)[0] if content else {}
    is_tuned = "w2v_path" in model and not isinstance(model.get("w2v_args"), Mapping)
    return "encoder_embed_dim" in model and not is_tuned  # there it is the default of fairseq


def told_normalisation(content: Mapping[str, Any]) -> bool | None:
    """Return what the keys beside the weights say about waveforms; None where they do not say."""
    model, task = sections(content) if content else ({}, {})
    told = model.get("normalize", task.get("normalize"))
    return None if told is None else bool(told)


def checked(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a ``config.json`` with its family as it is spelt here.

    Raises:
        CheckpointError: ``model_type`` is spelt otherwise, or a size is null.
    """
    if "model_type" not in config:
        other = next((k for k in config if k.lower().replace("-", "_") == "model_type"), None)
        if other is not None:
            raise CheckpointError(
                f"{path} has the key {other!r}, expected 'model_type'", hint="rename it"
            )
    spelt = str(config.get("model_type")).lower().replace("_", "-")
    if spelt in FAMILIES and spelt != config["model_type"]:
        config = config | {"model_type": spelt}
    empty = [key for key in _NEEDED if key in config and config[key] is None]
    if empty:
        raise CheckpointError(
            f"{path}: {', '.join(empty)} null, expected a size",
            hint="take the config.json that the model was published with",
        )
    return config


_NEEDED = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "conv_dim",
    "conv_kernel",
    "conv_stride",
)


def to_hugging_face(
    content: Mapping[str, Any], family: str | None, tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return the Hugging Face configuration for what an s3prl or fairseq file says.

    Args:
        content: The file's keys beside the weights.
        family: Family as the tensors tell it, or None.
        tensors: Tensors by Hugging Face name.

    Raises:
        CheckpointError: A needed field is missing or has a value that has no counterpart.
    """
    model, task = sections(content)
    name = model.get("_name") or model.get("arch") or task.get("_name", "")  # arch: before hydra
    family = family or family_by_name(str(name))
    known = find_family(family)
    if known is None or not known.is_fairseq:
        raise unsupported_family(family)
    config: dict[str, Any] = {"model_type": family, "architectures": [known.architecture]}
    for left, right in FIELDS + known.config_fields:
        if left in model:
            config[right] = model[left]
        elif right in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
            raise CheckpointError(f"the checkpoint's configuration has no {left!r}")
    mode = str(model.get("extractor_mode", "default"))
    if mode not in _CNN_NORM:
        raise CheckpointError(
            f"unknown extractor_mode {mode!r}; choices are: {', '.join(_CNN_NORM)}"
        )
    layers = conv_layers(str(model.get("conv_feature_layers", _DEFAULT_CONV)))
    config |= {
        "feat_extract_norm": _CNN_NORM[mode],
        "feat_extract_activation": "gelu",
        "conv_dim": [layer[0] for layer in layers],
        "conv_kernel": [layer[1] for layer in layers],
        "conv_stride": [layer[2] for layer in layers],
        "num_feat_extract_layers": len(layers),
        "feat_proj_layer_norm": True,
        "apply_spec_augment": "masked_spec_embed" in tensors,
        "do_normalize": bool(model.get("normalize", task.get("normalize", mode == "layer_norm"))),
    }
    return config


def from_hugging_face(config: Mapping[str, Any], normalize: bool) -> dict[str, Any]:
    """Return ``model_cfg`` in the fields of s3prl for a Hugging Face configuration."""
    family = find_family(config.get("model_type"))
    pairs = FIELDS + (() if family is None else family.config_fields)
    model = {left: config[right] for left, right in pairs if right in config}
    layers = zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True)
    model["conv_feature_layers"] = str([tuple(layer) for layer in layers])
    model["extractor_mode"] = "default" if config["feat_extract_norm"] == "group" else "layer_norm"
    return model if family is None else model | family.fairseq_fields(normalize)


_DEFAULT_CONV = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
_MAX_LAYERS, _MAX_TEXT = 64, 4000


def conv_layers(text: str) -> list[tuple[int, int, int]]:
    """Read ``[(512,10,5)] + [(512,3,2)] * 4`` as a list of (dim, kernel, stride).

    Only lists of literals, ``+``, and ``*`` by a number are understood: the text comes from a file
    and is not evaluated, and nothing longer than 64 layers is built.

    Raises:
        CheckpointError: The text is something else.
    """

    def listed(node: ast.AST) -> list[Any]:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return limited(listed(node.left), 1) + limited(listed(node.right), 1)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            parts = (node.left, node.right)
            times = next((p.value for p in parts if isinstance(p, ast.Constant)), None)
            if type(times) is not int:
                raise ValueError("a list is repeated by a whole number")
            inner = next(p for p in parts if not isinstance(p, ast.Constant))
            return limited(listed(inner), times) * times
        value = ast.literal_eval(node)
        if not isinstance(value, list | tuple):
            raise ValueError("expected lists")
        return limited(list(value), 1)

    def limited(layers: list[Any], times: int) -> list[Any]:
        if len(layers) * times > _MAX_LAYERS:
            raise ValueError(f"more than {_MAX_LAYERS} layers")
        return layers

    try:
        if len(text) > _MAX_TEXT:
            raise ValueError("it is too long")
        layers = limited(listed(ast.parse(text, mode="eval").body), 1)
        for layer in layers:
            numbers = list(layer)
            if len(numbers) != 3 or not all(type(n) is int and n > 0 for n in numbers):
                raise ValueError(f"{layer!r} is not (dim, kernel, stride)")
        return [(dim, kernel, stride) for dim, kernel, stride in layers]
    except (SyntaxError, ValueError, TypeError, StopIteration) as error:
        raise CheckpointError(
            f"conv_feature_layers {text[:80]!r} cannot be read: {error}"
        ) from None
    except (RecursionError, MemoryError):
        raise CheckpointError("conv_feature_layers is nested too deep") from None


def sections(content: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the model's and the task's fields, whichever layout the file has."""
    if content.get("model_cfg") is not None:
        found = (content["model_cfg"], content.get("task_cfg") or {})
        if not all(isinstance(part, Mapping) for part in found):
            raise CheckpointError("the checkpoint's model_cfg or task_cfg is not a mapping")
        return found
    whole = content.get("cfg") or content.get("args") or {}
    if not isinstance(whole, Mapping):
        raise CheckpointError("the checkpoint's configuration is not a mapping")
    model = whole.get("model") or whole
    task = whole.get("task") or whole
    if isinstance(model, Mapping) and isinstance(model.get("w2v_args"), Mapping):
        inner = model["w2v_args"]
        found = (inner.get("model") or inner, inner.get("task") or inner)
        model, task = found
    return (
        model if isinstance(model, Mapping) else {},
        task if isinstance(task, Mapping) else {},
    )


def family_by_name(name: str) -> str:
    """Return the family that a name of fairseq or s3prl stands for, such as ``wavlm_base_plus``.

    Raises:
        CheckpointError: It stands for none that is known.
    """
    for family in FAMILIES.values():
        if family.in_s3prl and name.startswith((family.name, *family.aliases)):
            return family.name
    raise unsupported_family(name)


def unsupported_family(name: str) -> CheckpointError:
    """Build the error for a family that s3prl and fairseq files are not read for."""
    spelt = name.lower().replace("_", "-")
    twin = next((family for family in FAMILIES if spelt.startswith(family)), None)
    hint = config_hint("CHECKPOINT")
    if twin is not None or spelt.startswith("data2vec"):
        hint = (
            f"{twin or 'data2vec-audio'} is read as a Hugging Face folder: give the model of the "
            "hub, or convert the file with transformers' script for it first"
        )
    return CheckpointError(
        f"the checkpoint's configuration names the family {name!r}; supported in s3prl's and "
        f"fairseq's formats are: {', '.join(in_s3prl())}",
        hint=hint,
    )
