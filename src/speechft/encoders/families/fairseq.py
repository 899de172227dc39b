"""What families share whose checkpoints came out of fairseq: key tables, sizes, s3prl's layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.encoders.families.convolutional import ConvolutionalFamily
from speechft.encoders.families.tables import (
    Pairs,
    compiled,
    count_layers,
    leftwards,
    old_weight_norm,
    rightwards,
    translate,
)
from speechft.encoders.hints import config_hint
from speechft.errors import CheckpointError

if TYPE_CHECKING:
    from speechft.encoders.conversion.tensors import Tensor

LAYER = "encoder.layers.{i}"
CONV = "feature_extractor.conv_layers.{i}"
POSITION = "encoder.pos_conv_embed.conv"
WEIGHT_G = f"{POSITION}.parametrizations.weight.original0"
WEIGHT_V = f"{POSITION}.parametrizations.weight.original1"
GATES = "encoder.layers.0.attention.gru_rel_pos_const"

TABLE: Pairs = (
    ("mask_emb", "masked_spec_embed"),
    (f"{CONV}.0.{{p}}", f"{CONV}.conv.{{p}}"),
    (f"{CONV}.2.{{p}}", f"{CONV}.layer_norm.{{p}}"),
    ("post_extract_proj.{p}", "feature_projection.projection.{p}"),
    ("layer_norm.{p}", "feature_projection.layer_norm.{p}"),
    ("encoder.pos_conv.0.bias", f"{POSITION}.bias"),
    ("encoder.pos_conv.0.weight_g", WEIGHT_G),
    ("encoder.pos_conv.0.weight_v", WEIGHT_V),
    ("encoder.layer_norm.{p}", "encoder.layer_norm.{p}"),
    (f"{LAYER}.self_attn.q_proj.{{p}}", f"{LAYER}.attention.q_proj.{{p}}"),
    (f"{LAYER}.self_attn.k_proj.{{p}}", f"{LAYER}.attention.k_proj.{{p}}"),
    (f"{LAYER}.self_attn.v_proj.{{p}}", f"{LAYER}.attention.v_proj.{{p}}"),
    (f"{LAYER}.self_attn.out_proj.{{p}}", f"{LAYER}.attention.out_proj.{{p}}"),
    (f"{LAYER}.self_attn_layer_norm.{{p}}", f"{LAYER}.layer_norm.{{p}}"),
    (f"{LAYER}.fc1.{{p}}", f"{LAYER}.feed_forward.intermediate_dense.{{p}}"),
    (f"{LAYER}.fc2.{{p}}", f"{LAYER}.feed_forward.output_dense.{{p}}"),
    (f"{LAYER}.final_layer_norm.{{p}}", f"{LAYER}.final_layer_norm.{{p}}"),
    (f"{LAYER}.self_attn.grep_a", f"{LAYER}.attention.gru_rel_pos_const"),
    (f"{LAYER}.self_attn.grep_linear.{{p}}", f"{LAYER}.attention.gru_rel_pos_linear.{{p}}"),
    (
        f"{LAYER}.self_attn.relative_attention_bias.{{p}}",
        f"{LAYER}.attention.rel_attn_embed.{{p}}",
    ),
)
"""Names of encoders; gates and position buckets are in one family only."""

CNN_NORM_LARGE = (f"{CONV}.2.1.{{p}}", f"{CONV}.layer_norm.{{p}}")
"""The normalisation of the CNN where every convolution has one (the Large shapes)."""

PRETRAINING: Pairs = (
    ("final_proj.{p}", "project_hid.{p}"),
    ("project_q.{p}", "project_q.{p}"),
    ("quantizer.vars", "quantizer.codevectors"),
    ("quantizer.weight_proj.{p}", "quantizer.weight_proj.{p}"),
    ("label_embs_concat", "label_embs_concat"),
)
"""Heads of pre-training; Hugging Face has them in its ``ForPreTraining`` classes."""

PUBLISHED_HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}
"""Attention heads by hidden size in all published models."""

PUBLISHED_CNN = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
"""Kernel and stride of each convolution in the same models."""

FINAL_DIM = 256
"""Dimension of a pre-training head that is not there."""

_TO_HF = rightwards((CNN_NORM_LARGE, *TABLE, *PRETRAINING))
_TO_S3PRL = leftwards((*TABLE, *PRETRAINING))
_LARGE_NORM = compiled(CNN_NORM_LARGE[1])
_HEADS = (*(compiled(right) for _, right in PRETRAINING), compiled("final_proj.{p}"))


class FairseqFamily(ConvolutionalFamily):
    """A convolutional encoder with files of s3prl and fairseq, and s3prl's own mode."""

    modes: ClassVar[tuple[str, ...]] = ("exact", "s3prl")
    in_s3prl: ClassVar[bool] = True
    is_fairseq: ClassVar[bool] = True
    s3prl_markers: ClassVar[tuple[str, ...]] = ("feature_extractor.conv_layers.0.0.weight",)

    def is_pretraining_head(self, name: str) -> bool:
        """Tell whether a name belongs to a pre-training head."""
        return any(pattern.match(name) for pattern in _HEADS)

    def to_hugging_face(self, name: str) -> str | None:
        """Translate by the table."""
        return translate(old_weight_norm(name), _TO_HF)

    def to_s3prl(self, names: Iterable[str]) -> dict[str, str | None]:
        """Translate by the table; the CNN's norms go by whether each convolution has one."""
        listed = list(names)
        large = f"{CONV.format(i=1)}.layer_norm.weight" in listed
        result: dict[str, str | None] = {}
        for name in listed:
            if large and (match := _LARGE_NORM.match(name)):
                result[name] = CNN_NORM_LARGE[0].format(**match.groupdict())
            else:
                result[name] = translate(name, _TO_S3PRL)
        return result

    def known_sizes(self, tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
        """Read sizes off the tensors."""
        try:
            hidden, per_group, positions = tensors[WEIGHT_V].shape
            inner = tensors["encoder.layers.0.feed_forward.intermediate_dense.bias"].shape[0]
            convolutions = [
                n for n in tensors if n.startswith("feature_ext") and n.endswith("v.weight")
            ]
            count = len(convolutions)
            shapes = [tensors[f"{CONV.format(i=i)}.conv.weight"].shape for i in range(count)]
        except (KeyError, ValueError):
            raise CheckpointError(
                f"{source} is no complete encoder of a known family; its tensors begin "
                f"with {', '.join(list(tensors)[:3])}",
                hint=config_hint(source),
            ) from None
        normed = f"{CONV.format(i=1)}.layer_norm.weight" in tensors
        sizes = {
            "hidden_size": hidden,
            "num_hidden_layers": count_layers(tensors),
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

    def published(self, tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Any], str]:
        """Return sizes, and heads and strides as all published models have them."""
        sizes = self.known_sizes(tensors, source)
        heads = _heads(tensors, sizes["hidden_size"])
        kernels = tuple(sizes["conv_kernel"])
        unknown = [] if heads else ["the number of attention heads"]
        unknown += [] if kernels == tuple(k for k, _ in PUBLISHED_CNN) else ["the CNN's strides"]
        if unknown:
            raise CheckpointError(
                f"{source} holds no configuration, and its sizes are not those of a "
                f"published model: {' and '.join(unknown)} cannot be known",
                hint=config_hint(source),
            )
        large = sizes["feat_extract_norm"] == "layer"
        told = f"taken as published ({self.name}, {heads} heads, "
        told += f"{'pre' if large else 'post'}-norm layers)"
        return sizes | {
            "model_type": self.name,
            "architectures": [self.architecture],
            "num_attention_heads": heads,
            "conv_stride": [stride for _, stride in PUBLISHED_CNN],
            "do_stable_layer_norm": large,
            "do_normalize": large,
        }, told

    def s3prl_content(
        self, settings: Mapping[str, Any], model: dict[str, Any], weights: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return s3prl's layout; pre-training heads that it insists on are filled with zeros."""
        filled = self._placeholders(settings, weights) | dict(weights)
        model |= {"final_dim": int(filled["final_proj.bias"].shape[0]), "_name": self.name}
        task = {"normalize": settings["do_normalize"], "sample_rate": 16000}
        return self.described(settings, task, model, filled)

    def described(
        self,
        settings: Mapping[str, Any],
        task: dict[str, Any],
        model: dict[str, Any],
        filled: dict[str, Any],
    ) -> dict[str, Any]:
        """Put configurations and weights together, with what is the family's own in both."""
        return {"task_cfg": task, "model_cfg": model, "model_weight": filled}

    def heads(self, settings: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return zeros for heads that s3prl's class has and ``weights`` lack."""
        return {}

    def _placeholders(
        self, settings: Mapping[str, Any], weights: Mapping[str, Any]
    ) -> dict[str, Any]:
        import torch

        if "mask_emb" in weights:
            return self.heads(settings, weights)
        zeros = torch.zeros(int(settings["hidden_size"]))
        return {"mask_emb": zeros, **self.heads(settings, weights)}


def _heads(tensors: Mapping[str, Tensor], hidden: int) -> int | None:
    gates = tensors.get(GATES)  # (1, H, 1, 1)
    return PUBLISHED_HEADS.get(hidden) if gates is None else gates.shape[1]
