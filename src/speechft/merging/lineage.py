"""Does the tuned model descend from that base? Configurations first, then the weights' geometry.

Fine-tuning moves weights a little and keeps their direction: over the matrices of a layer the
cosine between base and tuned stays near 1 (a relative change of 0.36 is a cosine of about 0.94),
while two models that were trained apart are orthogonal. The score of a pair is the lowest median
cosine of any layer, so that a single shuffled or exchanged layer counts; every matrix and norm is
looked at by itself besides, so that a single one that is damaged counts too.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.encoders.conversion.tensors import FLOAT_BYTES
from speechft.encoders.families import find_family
from speechft.encoders.families.convolutional import ConvolutionalFamily
from speechft.merging.checks import Objection
from speechft.merging.coefficients import layer_of
from speechft.merging.damage import BLOCK
from speechft.merging.plan import is_optional
from speechft.merging.tensor_change import TensorChange, check_tensor, has_directions

MIN_SCORE = 0.5
"""Pairs with a lower score are refused."""

FIELDS: dict[str, str] = {
    "model_type": "family",
    "do_stable_layer_norm": "pre-LN or post-LN layers",
    "hidden_act": "activation",
    "feat_extract_activation": "activation of the CNN",
    "feat_extract_norm": "normalisation of the CNN",
    "feat_proj_layer_norm": "layer norm before the projection",
    "do_normalize": "normalisation of the audio",
    "sampling_rate": "rate of the audio",
    "conv_kernel": "kernels of the CNN",
    "conv_stride": "strides of the CNN",
    "conv_bias": "biases of the CNN",
    "num_hidden_layers": "number of layers",
    "hidden_size": "dimension",
    "layer_norm_eps": "epsilon of layer norm",
    "activation_function": "activation",
    "add_adapter": "adapter behind the layers",
    "adapter_act": "activation of the adapter",
    "adapter_kernel_size": "kernel of the adapter",
    "adapter_stride": "stride of the adapter",
    "conv_pos_batch_norm": "batch norm of the position convolution",
    "left_max_position_embeddings": "largest position distance to the left",
    "right_max_position_embeddings": "largest position distance to the right",
    "rotary_embedding_base": "base of rotary positions",
    "scale_embedding": "scaled input",
    "use_intermediate_ffn_before_adapter": "layer before the adapter",
    "num_attention_heads": "number of attention heads",
    "encoder_attention_heads": "number of attention heads",
    "num_conv_pos_embeddings": "kernel of the position convolution",
    "num_conv_pos_embedding_groups": "groups of the position convolution",
    "position_embeddings_type": "kind of position embedding",
    "num_buckets": "position buckets",
    "max_bucket_distance": "largest position distance",
}
"""Fields of the configuration that change what the weights mean, with a name for messages."""

DEFAULTS: dict[str, Any] = {
    "do_stable_layer_norm": False,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_extract_activation": "gelu",
    "feat_proj_layer_norm": True,
    "conv_bias": False,
    "conv_pos_batch_norm": False,
    "num_conv_pos_embedding_groups": 16,
    "num_buckets": 320,
    "max_bucket_distance": 800,
    "add_adapter": False,
}
"""What a configuration of a `ConvolutionalFamily` means that does not state a field, beside what
`Family.defaults` says."""


@dataclass
class Change:
    """How one tuned model differs from the base; filled while the weights stream by."""

    tensors: dict[str, TensorChange] = field(default_factory=dict)
    matrices: set[str] = field(default_factory=set)
    """Names of tensors with two dimensions or more: only these have a telling direction."""
    equal: set[str] = field(default_factory=set)
    """Names of tensors that are equal, to the rounding of the narrower type."""


@dataclass(frozen=True)
class Evidence:
    """What the lineage check found for one tuned model."""

    score: float | None
    """Lowest median cosine of any layer; None without layers to compare."""
    median_cosine: float | None
    lowest_cosine: float | None
    """Of any matrix."""
    lowest_tensor: str | None
    """Which matrix that is."""
    median_relative_change: float | None
    equal_tensors: int
    filled: int
    """Elements in runs of one value that base and tuned model share, as in a pruned model."""
    cnn_equal: bool | None
    """Whether the CNN is bit-equal (it is frozen in stable fine-tuning); None without a CNN."""
    forced: bool = False
    """True when a refusal was overridden."""


def compare_configs(
    base: Mapping[str, Any] | None, tuned: Mapping[str, Any] | None
) -> list[Objection]:
    """Return an objection per field in which two configurations mean different models.

    A field that one side does not state has there the value that its family gives it; where it has
    none, as ``do_normalize``, it is not compared. Nor is whether the audio is normalised where a
    group norm stands behind the first convolution, which takes scale and offset out itself;
    `other_differences` tells it.
    """
    if not base or not tuned:
        return []
    found = []
    free = {"do_normalize"} if _value(base, "feat_extract_norm") == "group" else set()
    for name, label in FIELDS.items():
        if base.get(name) is None and tuned.get(name) is None:
            continue
        first, second = _value(base, name), _value(tuned, name)
        if name not in free and first is not None and second is not None and first != second:
            check = "family" if name == "model_type" else "settings"
            text = f"{label} ({name}): {first!r} in the base, {second!r} in the tuned model"
            found.append(Objection(check, text))
    return found


def _value(config: Mapping[str, Any], name: str) -> Any:
    value = config.get(name)
    if value is None and (family := find_family(config.get("model_type"))) is not None:
        further = DEFAULTS if isinstance(family, ConvolutionalFamily) else {}
        value = {**further, **family.defaults}.get(name)
    return list(value) if isinstance(value, tuple) else value


_NOT_THE_MODEL = {
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "torch_dtype",
    "transformers_version",
    "vocab_size",
}


def other_differences(base: Checkpoint, model: Checkpoint) -> list[str]:
    """Return one line per further field in which two configurations differ; for information.

    The output has the base's values.
    """
    first, second = base.settings(), model.settings()
    if first is None or second is None:
        return []
    return [
        f"{name} is {first[name]!r} in the base (kept), {second[name]!r} in {model.source}"
        for name in first
        if name in second
        and name not in _NOT_THE_MODEL
        and first[name] != second[name]
        and not (name == "do_normalize" and None in (first[name], second[name]))
    ]


def check_models(base: Checkpoint, tuned: Sequence[Checkpoint]) -> list[Objection]:
    """Return what speaks against tuned models before their weights are read."""
    found = _check_types(base)
    for model in tuned:
        different = compare_configs(base.settings(), model.settings())
        if not different and base.family and model.family and base.family != model.family:
            text = f"family: {base.family} is the base, {model.family} the tuned model"
            different = [Objection("family", text)]
        start = f"{model.source} is not tuned from {base.source}: "
        for check in ("family", "settings"):
            texts = [one.text for one in different if one.check == check]
            if texts:
                found.append(Objection(check, start + "; ".join(texts)))
    return found


def _check_types(base: Checkpoint) -> list[Objection]:
    """Object to weights of the base that are integers, truth values or of 8 bits."""
    wrong = []
    for original, name in base.names.items():
        tensor = base.tensors[original]
        is_weight = name.endswith(_WEIGHT_ENDS) or (
            base.naming != "unknown"
            and has_directions(tensor.shape)
            and not name.endswith(_INDICES)
        )
        if tensor.dtype not in FLOAT_BYTES and (is_weight or tensor.dtype.startswith("F")):
            wrong.append(f"{name} ({tensor.dtype})")
    if not wrong:
        return []
    text = f"{base.source} holds weights that cannot be merged: {_listed(wrong)}"
    return [Objection("types", text)]


_WEIGHT_ENDS = (".weight", ".bias", ".original0", ".original1")
_INDICES = ("ids", "index", "indices", "buckets")


def layer_cosines(change: Change, zeros: bool = True) -> dict[str, float]:
    """Return the median cosine of every layer's matrices; layer weight counts, biases do not.

    Args:
        change: How a tuned model differs.
        zeros: Count matrices of zeros, with a cosine of 0.
    """
    cosines = {
        name: cosine
        for name in change.matrices
        if (cosine := change.tensors[name].cosine) is not None
        and (zeros or 0 not in (change.tensors[name].base_base, change.tensors[name].tuned_tuned))
    }
    groups: dict[str, list[float]] = defaultdict(list)
    for name, cosine in cosines.items():
        if (layer := layer_of(name)) is not None:
            groups[f"layer {layer}"].append(cosine)
    if not groups:
        groups["all"] = list(cosines.values())
    return {name: statistics.median(values) for name, values in groups.items() if values}


def evidence(change: Change, forced: bool = False) -> Evidence:
    """Summarise how one tuned model differs from the base."""
    layers = layer_cosines(change)
    cosines = {n: c for n in change.matrices if (c := change.tensors[n].cosine) is not None}
    moves = [r for n in change.matrices if (r := change.tensors[n].relative) is not None]
    cnn = [name for name in change.tensors if name.startswith("feature_extractor.")]
    worst = min(cosines, key=lambda name: cosines[name]) if cosines else None
    return Evidence(
        min(layers.values()) if layers else None,
        statistics.median(cosines.values()) if cosines else None,
        cosines[worst] if worst is not None else None,
        worst,
        statistics.median(moves) if moves else None,
        len(change.equal),
        sum(tensor.fills.shared for tensor in change.tensors.values()) * BLOCK,
        all(name in change.equal for name in cnn) if cnn else None,
        forced,
    )


def check_weights(base: Checkpoint, model: Checkpoint, change: Change) -> list[Objection]:
    """Return what the weights say against a pair, every tensor looked at by itself.

    Args:
        base: The base.
        model: The tuned model.
        change: How it differs.
    """
    found = []
    if change.tensors and len(change.equal) == len(change.tensors):
        of = base.source if base.source.startswith("the base") else f"the base {base.source}"
        text = f"{model.source} equals {of} in every tensor that is merged"
        found.append(Objection("equal", text))
    broken = [name for name, tensor in change.tensors.items() if not tensor.finite]
    if broken:
        text = (
            f"{model.source} or {base.source} holds NaN or infinite values in {len(broken)} "
            f"tensors, such as {broken[0]}"
        )
        found.append(Objection("nonfinite", text))
    is_known = base.naming != "unknown"
    found += _check_layers(base, model, change) if is_known else []
    looked = {n: t for n, t in change.tensors.items() if not is_optional(n) and t.finite}
    damage: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, tensor in looked.items():
        for check, what, detail in check_tensor(name, tensor, is_known):
            damage[check, what].append(f"{name}{detail}")
    sources = {"base": base.source, "tuned": model.source}
    for (check, what), names in damage.items():
        text = what.format(**sources) + f" {len(names)} tensor{'s' * (len(names) > 1)}"
        found.append(Objection(check, f"{text}: {_listed(names)}"))
    return found


def _check_layers(base: Checkpoint, model: Checkpoint, change: Change) -> list[Objection]:
    layers = layer_cosines(change, zeros=False)
    worst = min(layers, key=lambda name: layers[name]) if layers else ""
    if not layers or layers[worst] >= MIN_SCORE:
        return []
    text = (
        f"{model.source} does not look tuned from {base.source}: in {worst} the weights point "
        f"elsewhere (median cosine {layers[worst]:.2f}, fine-tuning keeps it above {MIN_SCORE})"
    )
    return [Objection("lineage", text)]


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
