"""Does the tuned model descend from that base? Configurations first, then the weights' geometry.

Fine-tuning moves weights a little and keeps their direction: over the matrices of a layer the
cosine between base and tuned stays near 1 (a relative change of 0.36 is a cosine of about 0.94),
while two models that were trained apart are orthogonal. The score of a pair is the lowest median
cosine of any layer, so that a single shuffled or exchanged layer counts.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.errors import LineageError
from speechft.merging.coefficients import layer_of

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
    "num_attention_heads": "number of attention heads",
    "encoder_attention_heads": "number of attention heads",
    "num_conv_pos_embeddings": "kernel of the position convolution",
    "num_conv_pos_embedding_groups": "groups of the position convolution",
    "position_embeddings_type": "kind of position embedding",
    "num_buckets": "position buckets",
    "max_bucket_distance": "largest position distance",
}
"""Fields of the configuration that change what the weights mean, with a name for messages."""


@dataclass
class TensorChange:
    """Sums over one tensor: base with base, base with task vector, task vector with itself."""

    base_base: float = 0.0
    base_delta: float = 0.0
    delta_delta: float = 0.0

    @property
    def cosine(self) -> float | None:
        """Cosine between base and tuned; None where one of them is zero or not finite."""
        tuned_tuned = self.base_base + 2 * self.base_delta + self.delta_delta
        if not (0 < self.base_base < math.inf and 0 < tuned_tuned < math.inf):
            return None
        cosine = (self.base_base + self.base_delta) / math.sqrt(self.base_base * tuned_tuned)
        return max(-1.0, min(1.0, cosine))

    @property
    def relative(self) -> float | None:
        """Norm of the task vector over the norm of the base; None without a finite one."""
        relative = self.delta_delta / self.base_base if self.base_base > 0 else math.nan
        return math.sqrt(relative) if math.isfinite(relative) else None

    @property
    def finite(self) -> bool:
        """Whether both models are."""
        return math.isfinite(self.base_base + self.delta_delta)


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
    median_relative_change: float | None
    equal_tensors: int
    cnn_equal: bool | None
    """Whether the CNN is bit-equal (it is frozen in stable fine-tuning); None without a CNN."""
    forced: bool = False
    """True when a refusal was overridden."""


def compare_configs(base: Mapping[str, Any] | None, tuned: Mapping[str, Any] | None) -> list[str]:
    """Return one line per field in which two configurations mean different models.

    A field that one side does not state is not compared. Nor is whether the audio is normalised
    where a group norm stands behind the first convolution, which takes scale and offset out itself;
    `other_differences` tells it.
    """
    if not base or not tuned:
        return []
    free = {"do_normalize"} if base.get("feat_extract_norm") == "group" else set()
    return [
        f"{label} ({name}): {base[name]!r} in the base, {tuned[name]!r} in the tuned model"
        for name, label in FIELDS.items()
        if name not in free
        and name in base
        and name in tuned
        and base[name] is not None
        and tuned[name] is not None
        and base[name] != tuned[name]
    ]


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


def check_configs(base: Checkpoint, tuned: Sequence[Checkpoint]) -> list[str]:
    """Return refusals by configuration and family, one line per tuned model."""
    found: list[str] = []
    for model in tuned:
        different = compare_configs(base.settings(), model.settings())
        if not different and base.family and model.family and base.family != model.family:
            different = [f"family: {base.family} is the base, {model.family} the tuned model"]
        if different:
            found.append(f"{model.source} is not tuned from {base.source}: {'; '.join(different)}")
    return found


def layer_cosines(change: Change) -> dict[str, float]:
    """Return the median cosine of every layer's matrices; layer weight counts, biases do not."""
    groups: dict[str, list[float]] = defaultdict(list)
    for name in change.matrices:
        layer = layer_of(name)
        cosine = change.tensors[name].cosine
        if cosine is not None and layer is not None:
            groups[f"layer {layer}"].append(cosine)
    if not groups:
        everything = [change.tensors[n].cosine for n in change.matrices]
        groups["all"] = [c for c in everything if c is not None]
    return {name: statistics.median(values) for name, values in groups.items() if values}


def evidence(change: Change, forced: bool = False) -> Evidence:
    """Summarise how one tuned model differs from the base."""
    layers = layer_cosines(change)
    cosines = [c for n in change.matrices if (c := change.tensors[n].cosine) is not None]
    moves = [r for n in change.matrices if (r := change.tensors[n].relative) is not None]
    cnn = [name for name in change.tensors if name.startswith("feature_extractor.")]
    return Evidence(
        min(layers.values()) if layers else None,
        statistics.median(cosines) if cosines else None,
        statistics.median(moves) if moves else None,
        len(change.equal),
        all(name in change.equal for name in cnn) if cnn else None,
        forced,
    )


def check_weights(base: Checkpoint, model: Checkpoint, change: Change) -> list[str]:
    """Return refusals by weights: equal models, NaN, and models that do not descend from the base.

    Args:
        base: The base.
        model: The tuned model.
        change: How it differs.
    """
    if change.tensors and len(change.equal) == len(change.tensors):
        return [f"{model.source} equals the base {base.source} in every tensor that is merged"]
    broken = [name for name, tensor in change.tensors.items() if not tensor.finite]
    found = []
    if broken:
        found.append(
            f"{model.source} or {base.source} holds NaN or infinite values in {len(broken)} "
            f"tensors, such as {broken[0]}"
        )
    layers = layer_cosines(change)
    if base.naming == "unknown" or not layers:
        return found
    worst = min(layers, key=lambda name: layers[name])
    if layers[worst] < MIN_SCORE:
        found.append(
            f"{model.source} does not look tuned from {base.source}: in {worst} the weights point "
            f"elsewhere (median cosine {layers[worst]:.2f}, fine-tuning keeps it above {MIN_SCORE})"
        )
    return found


def refuse(problems: Sequence[str], hint: str) -> None:
    """Raise when there are problems.

    Raises:
        LineageError: Names the first problems.
    """
    if problems:
        raise LineageError("; ".join(problems[:3]), hint=hint)
