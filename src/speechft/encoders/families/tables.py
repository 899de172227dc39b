"""Two-way tables of names: those of s3prl and fairseq on the left, of Hugging Face on the right."""

from __future__ import annotations

import re
from collections.abc import Iterable

Pairs = tuple[tuple[str, str], ...]
"""Patterns of names; ``{i}`` is a number, ``{p}`` weight or bias."""

Compiled = tuple[tuple[re.Pattern[str], str], ...]

FIELDS: Pairs = (
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
"""Fields of configurations, those of s3prl and fairseq on the left."""

_WEIGHT_NORM = (
    (re.compile(r"\.weight_g$"), ".parametrizations.weight.original0"),
    (re.compile(r"\.weight_v$"), ".parametrizations.weight.original1"),
)


def compiled(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern of names."""
    text = re.escape(pattern).replace(r"\{i\}", r"(?P<i>\d+)")
    return re.compile(text.replace(r"\{p\}", r"(?P<p>weight|bias)") + r"\Z")


def rightwards(pairs: Pairs) -> Compiled:
    """Return a table from left to right."""
    return tuple((compiled(left), right) for left, right in pairs)


def leftwards(pairs: Pairs) -> Compiled:
    """Return a table from right to left."""
    return tuple((compiled(right), left) for left, right in pairs)


def translate(name: str, table: Iterable[tuple[re.Pattern[str], str]]) -> str | None:
    """Return what a table makes of a name; None where it has no such name."""
    for pattern, replacement in table:
        if match := pattern.match(name):
            return replacement.format(**match.groupdict())
    return None


def normalise_weight_norm(name: str) -> str:
    """Return ``name`` with weight norm in the spelling of torch's parametrisations."""
    for pattern, replacement in _WEIGHT_NORM:
        name = pattern.sub(replacement, name)
    return name


def old_weight_norm(name: str) -> str:
    """Return ``name`` with weight norm in the spelling of s3prl and fairseq."""
    name = name.replace(".parametrizations.weight.original0", ".weight_g")
    return name.replace(".parametrizations.weight.original1", ".weight_v")


def count_layers(names: Iterable[str]) -> int:
    """Return the number of layers that Hugging Face names tell."""
    return len({m.group(1) for n in names if (m := re.match(r"encoder\.layers\.(\d+)\.", n))})
