"""Configurations: the fields of s3prl and fairseq on the left, of Hugging Face on the right."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping
from typing import Any

from speechft.encoders.conversion.tensors import Tensor
from speechft.errors import CheckpointError

KEPT_KEYS = ("task_cfg", "model_cfg", "dictionaries_symbols", "cfg", "args")
"""Keys of a checkpoint, beside the weights, that describe the model."""

_FIELDS: tuple[tuple[str, str], ...] = (
    ("encoder_embed_dim", "hidden_size"),
    ("encoder_layers", "num_hidden_layers"),
    ("encoder_attention_heads", "num_attention_heads"),
    ("encoder_ffn_embed_dim", "intermediate_size"),
    ("activation_fn", "hidden_act"),
    ("layer_norm_first", "do_stable_layer_norm"),
    ("conv_bias", "conv_bias"),
    ("conv_pos", "num_conv_pos_embeddings"),
    ("conv_pos_groups", "num_conv_pos_embedding_groups"),
    ("dropout", "hidden_dropout"),
    ("attention_dropout", "attention_dropout"),
    ("activation_dropout", "activation_dropout"),
    ("dropout_input", "feat_proj_dropout"),
    ("encoder_layerdrop", "layerdrop"),
    ("mask_prob", "mask_time_prob"),
    ("mask_length", "mask_time_length"),
    ("mask_channel_prob", "mask_feature_prob"),
    ("mask_channel_length", "mask_feature_length"),
)
_WAVLM_FIELDS = (("num_buckets", "num_buckets"), ("max_distance", "max_bucket_distance"))
_CNN_NORM = {"default": "group", "layer_norm": "layer"}
ARCHITECTURES = {"hubert": "HubertModel", "wav2vec2": "Wav2Vec2Model", "wavlm": "WavLMModel"}

DECOAR2 = {
    "model_type": "decoar2",
    "architectures": ["Decoar2Model"],
    "num_mel_bins": 80,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.1,
    "layerdrop": 0.05,
}
"""What the published DeCoAR 2.0 file does not say about itself; sizes are read off its tensors."""


def describes_model(content: Mapping[str, Any]) -> bool:
    """Tell whether the keys beside the weights hold the configuration of an encoder."""
    return "encoder_embed_dim" in sections(content)[0] if content else False


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
    if family not in ARCHITECTURES:
        raise unsupported_family(family)
    config: dict[str, Any] = {"model_type": family, "architectures": [ARCHITECTURES[family]]}
    for left, right in _FIELDS + (_WAVLM_FIELDS if family == "wavlm" else ()):
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
    pairs = _FIELDS + (_WAVLM_FIELDS if config.get("model_type") == "wavlm" else ())
    model = {left: config[right] for left, right in pairs if right in config}
    layers = zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True)
    model["conv_feature_layers"] = str([tuple(layer) for layer in layers])
    model["extractor_mode"] = "default" if config["feat_extract_norm"] == "group" else "layer_norm"
    if config.get("model_type") == "wavlm":
        model |= {"normalize": normalize, "relative_position_embedding": True}
        model["gru_rel_pos"] = True
    return model


def processor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``preprocessor_config.json`` for an encoder that takes 16 kHz waveforms."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": 16000,
        "padding_value": 0.0,
        "padding_side": "right",
        "do_normalize": bool(config.get("do_normalize", False)),
        "return_attention_mask": config.get("feat_extract_norm", "layer") == "layer",
    }


_DEFAULT_CONV = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
_OPERATORS = {ast.Add: operator.add, ast.Mult: operator.mul}


def conv_layers(text: str) -> list[tuple[int, int, int]]:
    """Read ``[(512,10,5)] + [(512,3,2)] * 4`` as a list of (dim, kernel, stride).

    Only literals, ``+`` and ``*`` are understood: the text comes from a file and is not evaluated.

    Raises:
        CheckpointError: The text is something else.
    """

    def value(node: ast.AST) -> Any:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            left, right = value(node.left), value(node.right)
            if isinstance(right, int) and right > 1000:
                raise ValueError("too many layers")
            return _OPERATORS[type(node.op)](left, right)
        return ast.literal_eval(node)

    try:
        layers = [
            tuple(int(n) for n in layer) for layer in value(ast.parse(text, mode="eval").body)
        ]
        return [(dim, kernel, stride) for dim, kernel, stride in layers]
    except (SyntaxError, ValueError, TypeError) as error:
        raise CheckpointError(f"conv_feature_layers {text!r} cannot be read: {error}") from None


def decoar2_config(
    tensors: Mapping[str, Tensor], fields: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return DeCoAR 2.0's configuration: sizes from the tensors, the rest given or as published.

    Args:
        tensors: Tensors by name.
        fields: Fields by their names in s3prl, such as ``encoder_attention_heads``.
    """
    given = fields or {}
    known = {right: given[left] for left, right in _FIELDS if left in given and right in DECOAR2}
    layers = {int(m.group(1)) for n in tensors if (m := re.match(r"encoder\.layers\.(\d+)\.", n))}
    _, per_group, kernel = tensors["encoder.pos_conv.0.parametrizations.weight.original1"].shape
    hidden, bins = tensors["post_extract_proj.weight"].shape
    return (
        DECOAR2
        | known
        | {
            "num_mel_bins": bins,
            "hidden_size": hidden,
            "num_hidden_layers": len(layers),
            "intermediate_size": tensors["encoder.layers.0.fc1.bias"].shape[0],
            "num_conv_pos_embeddings": kernel,
            "num_conv_pos_embedding_groups": hidden // per_group,
        }
    )


def sections(content: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the model's and the task's fields, whichever layout the file has."""
    if "model_cfg" in content:
        return content["model_cfg"], content.get("task_cfg") or {}
    whole = content.get("cfg") or content.get("args") or {}
    if not isinstance(whole, Mapping):
        raise CheckpointError("the checkpoint's configuration is not a mapping")
    model = whole.get("model") or whole
    task = whole.get("task") or whole
    if isinstance(model, Mapping) and isinstance(model.get("w2v_args"), Mapping):
        inner = model["w2v_args"]
        return inner.get("model") or inner, inner.get("task") or inner
    return (
        model if isinstance(model, Mapping) else {},
        task if isinstance(task, Mapping) else {},
    )


def family_by_name(name: str) -> str:
    """Return the family that a name of fairseq or s3prl stands for, such as ``wavlm_base_plus``.

    Raises:
        CheckpointError: It stands for none that is known.
    """
    for family in (*ARCHITECTURES, "decoar2"):
        if name.replace("wav2vec_", "wav2vec2").startswith(family):
            return family
    raise unsupported_family(name)


def unsupported_family(name: str) -> CheckpointError:
    """Build the error for a family that s3prl and fairseq files are not read for."""
    return CheckpointError(
        f"the checkpoint's configuration names the family {name!r}; supported in s3prl's and "
        f"fairseq's formats are: {', '.join((*ARCHITECTURES, 'decoar2'))}",
        hint="give its configuration with --config, as a config.json or a checkpoint that has one",
    )
