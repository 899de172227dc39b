"""Two-way key tables: the names of s3prl and fairseq on the left, of Hugging Face on the right.

Inside this package every tensor goes by its Hugging Face name without a model prefix, with weight
norm spelt as a parametrisation (``original0`` = g, ``original1`` = v), whatever file it came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from speechft.errors import CheckpointError

LAYER = "encoder.layers.{i}"
CONV = "feature_extractor.conv_layers.{i}"
POSITION = "encoder.pos_conv_embed.conv"
WEIGHT_G = f"{POSITION}.parametrizations.weight.original0"
WEIGHT_V = f"{POSITION}.parametrizations.weight.original1"

TABLE: tuple[tuple[str, str], ...] = (
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
"""Pairs of names of HuBERT, wav2vec 2.0 and WavLM; ``{i}`` is a number, ``{p}`` weight or bias."""

CNN_NORM_LARGE = (f"{CONV}.2.1.{{p}}", f"{CONV}.layer_norm.{{p}}")
"""The normalisation of the CNN where every convolution has one (the Large shapes)."""

PRETRAINING: tuple[tuple[str, str], ...] = (
    ("final_proj.{p}", "project_hid.{p}"),
    ("project_q.{p}", "project_q.{p}"),
    ("quantizer.vars", "quantizer.codevectors"),
    ("quantizer.weight_proj.{p}", "quantizer.weight_proj.{p}"),
    ("label_embs_concat", "label_embs_concat"),
)
"""Heads of pre-training; Hugging Face has them in its ``ForPreTraining`` classes."""

_WEIGHT_NORM = (
    (re.compile(r"\.weight_g$"), ".parametrizations.weight.original0"),
    (re.compile(r"\.weight_v$"), ".parametrizations.weight.original1"),
)
_MARKERS = (
    "feature_extractor.conv_layers.0.conv.weight",
    "feature_extractor.conv_layers.0.0.weight",
)
_DECOAR2_MARKERS = ("post_extract_proj.weight", "encoder.pos_conv.0.bias")


def _compile(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\{i\}", r"(?P<i>\d+)")
    return re.compile(text.replace(r"\{p\}", r"(?P<p>weight|bias)") + r"\Z")


_ALL = (CNN_NORM_LARGE, *TABLE, *PRETRAINING)
_TO_HF = tuple((_compile(left), right) for left, right in _ALL)
_TO_S3PRL = tuple((_compile(right), left) for left, right in (*TABLE, *PRETRAINING))
_HEADS = (*(_compile(right) for _, right in PRETRAINING), _compile("final_proj.{p}"))


def is_pretraining_head(name: str) -> bool:
    """Tell whether a Hugging Face or s3prl name belongs to a pre-training head."""
    return any(pattern.match(name) for pattern in _HEADS)


def is_s3prl(names: Iterable[str]) -> bool:
    """Tell whether unprefixed names follow s3prl and fairseq (also for DeCoAR 2.0)."""
    return any(name in (_MARKERS[1], "post_extract_proj.weight") for name in names)


def encoder_prefix(names: Iterable[str]) -> str | None:
    """Return what stands before every name of the encoder, such as ``"hubert."``; None if unknown.

    Raises:
        CheckpointError: The file holds several encoders.
    """
    known = list(names)
    found = {n[: -len(m)] for n in known for m in _MARKERS if n == m or n.endswith("." + m)}
    if not found:
        first, second = _DECOAR2_MARKERS
        held = set(known)
        ends = {n[: -len(first)] for n in known if n == first or n.endswith("." + first)}
        found = {prefix for prefix in ends if prefix + second in held}
    if len(found) > 1:
        # SPIN and teacher-student checkpoints hold copies; the one being trained comes first.
        preferred = [p for p in ("", "encoder.model.", "model.", "student.") if p in found]
        if not preferred:
            raise CheckpointError(
                f"the file holds several encoders, under {', '.join(sorted(found))}",
                hint="save the one that is meant as its own file",
            )
        return preferred[0]
    return found.pop() if found else None


def normalise_weight_norm(name: str) -> str:
    """Return ``name`` with weight norm in the spelling of torch's parametrisations."""
    for pattern, replacement in _WEIGHT_NORM:
        name = pattern.sub(replacement, name)
    return name


def _old_weight_norm(name: str) -> str:
    """Return ``name`` with weight norm in the spelling of s3prl and fairseq."""
    name = name.replace(".parametrizations.weight.original0", ".weight_g")
    return name.replace(".parametrizations.weight.original1", ".weight_v")


def to_hugging_face(name: str, *, decoar2: bool = False) -> str | None:
    """Return the Hugging Face name of an unprefixed s3prl name, or None when the tables lack it.

    DeCoAR 2.0 has no class in transformers: its names stay, but for the weight norm.
    """
    if decoar2:
        return normalise_weight_norm(name)
    return _translate(_old_weight_norm(name), _TO_HF)


def to_s3prl(names: Iterable[str], *, decoar2: bool = False) -> dict[str, str]:
    """Return the s3prl name of each unprefixed Hugging Face name.

    Raises:
        CheckpointError: A name is not in the tables.
    """
    listed = list(names)
    large = f"{CONV.format(i=1)}.layer_norm.weight" in listed
    result: dict[str, str] = {}
    for name in listed:
        new: str | None
        if decoar2:
            new = _old_weight_norm(name)
        elif large and (match := _compile(CNN_NORM_LARGE[1]).match(name)):
            new = CNN_NORM_LARGE[0].format(**match.groupdict())
        else:
            new = _translate(name, _TO_S3PRL)
        if new is None:
            raise CheckpointError(f"tensor {name!r} has no place in an s3prl checkpoint")
        result[name] = new
    return result


def guess_family(names: Mapping[str, object] | set[str]) -> str | None:
    """Name the family that unprefixed s3prl or Hugging Face names belong to, where they tell.

    HuBERT and wav2vec 2.0 have the same encoder; without a pre-training head the answer is None.
    """
    if any("grep_a" in n or "gru_rel_pos_const" in n for n in names):
        return "wavlm"
    if "post_extract_proj.weight" in names and not any(n.startswith("feature_ext") for n in names):
        return "decoar2"
    if "label_embs_concat" in names:
        return "hubert"
    if any(n.startswith(("quantizer.", "project_q.", "project_hid.")) for n in names):
        return "wav2vec2"
    return None


def _translate(name: str, table: Iterable[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, replacement in table:
        if match := pattern.match(name):
            return replacement.format(**match.groupdict())
    return None
