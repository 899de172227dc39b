"""What a configuration may hold, and how large a model it describes, before one is built."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from speechft.encoders.families import find_family
from speechft.errors import CheckpointError, ConfigError

MAX_PARAMETERS_VARIABLE = "SPEECHFT_MAX_PARAMETERS"
MAX_PARAMETERS = 10_000_000_000
"""Of a model that is built; the environment variable sets another limit."""

_SPARE = 20_000_000
"""Parameters that a model may have beyond twice those of its file: tables of positions."""

COUNTS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("num_hidden_layers", "encoder_layers", "decoder_layers"), (1, 1000)),
    **dict.fromkeys(("hidden_size", "d_model", "output_hidden_size"), (1, 1 << 16)),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim"), (1, 1 << 20)),
    **dict.fromkeys(
        ("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads"), (1, 1 << 12)
    ),
    **dict.fromkeys(("num_conv_pos_embeddings", "num_conv_pos_embedding_groups"), (1, 1 << 16)),
    **dict.fromkeys(("conv_depthwise_kernel_size", "conv_pos_kernel_size"), (1, 1 << 12)),
    **dict.fromkeys(("num_buckets", "max_bucket_distance"), (1, 1 << 20)),
    **dict.fromkeys(("max_source_positions", "max_target_positions"), (1, 1 << 20)),
    **dict.fromkeys(("left_max_position_embeddings", "right_max_position_embeddings"), (0, 65536)),
    **dict.fromkeys(("num_mel_bins", "feature_projection_input_dim"), (1, 1 << 12)),
    **dict.fromkeys(("adapter_kernel_size", "adapter_stride", "num_adapter_layers"), (1, 256)),
    "num_feat_extract_layers": (1, 64),
    "num_labels": (0, 1 << 20),
}
"""Fields that are whole numbers, with their ranges; they may be left out, but not be null."""

LARGEST = 1 << 24
"""Of the whole numbers in all other fields: no table that a library makes of one is larger."""

LEAST_HOP = 16
"""Samples between frames: a thousand frames a second, of which each attends to all others."""

_LISTS = ("conv_dim", "conv_kernel", "conv_stride")
_MAX_CONVOLUTIONS, _MAX_ENTRY = 64, 1 << 16
_TEXTS = ("model_type", "hidden_act", "feat_extract_activation", "activation_function")
_TRUTHS = ("conv_bias", "do_stable_layer_norm", "feat_proj_layer_norm", "add_adapter")


def check_settings(settings: Any, source: str) -> None:
    """Refuse a configuration with a field that no encoder can have, by name.

    Those of families that are not known are left alone.

    Args:
        settings: The configuration in Hugging Face terms, as it was read.
        source: Where it comes from, for messages.

    Raises:
        CheckpointError: A field is of another type or out of its range.
    """
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"{source}: the configuration is {_kind(settings)}, not a mapping")
    kind = settings.get("model_type")
    if kind is not None and not isinstance(kind, str):
        raise CheckpointError(f"{source}: model_type is {str(kind)[:80]!r}, expected text")
    if kind is not None and find_family(kind) is None:
        return
    start = f"{source} cannot be loaded as {kind}: its configuration"
    for name, value in settings.items():
        expected = _expected(name, value)
        if expected is not None:
            raise CheckpointError(f"{start} has {name} = {str(value)[:80]!r}, expected {expected}")
    lengths = {name: len(settings[name]) for name in _LISTS if name in settings}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{count} in {name}" for name, count in lengths.items())
        raise CheckpointError(f"{start} does not agree on convolutions: {told}")
    hop = math.prod(settings.get("conv_stride", (LEAST_HOP,)))
    if not LEAST_HOP <= hop <= _MAX_ENTRY:
        raise CheckpointError(
            f"{start} makes a frame of every {hop:,} samples, expected {LEAST_HOP} to {_MAX_ENTRY}"
        )


def _expected(name: Any, value: Any) -> str | None:
    """Return what a field has to be, where it is something else."""
    if not isinstance(name, str):
        return "names of fields that are text"
    if name in COUNTS:
        low, high = COUNTS[name]
        is_right = type(value) is int and low <= value <= high
        return None if is_right else f"a whole number from {low} to {high}"
    if name in _LISTS:
        is_right = isinstance(value, list | tuple) and 0 < len(value) <= _MAX_CONVOLUTIONS
        if is_right and all(type(n) is int and 0 < n <= _MAX_ENTRY for n in value):
            return None
        return f"1 to {_MAX_CONVOLUTIONS} whole numbers from 1 to {_MAX_ENTRY}"
    if name in _TEXTS:
        return None if isinstance(value, str) and value else "text"
    if name == "feat_extract_norm":
        return None if value in ("group", "layer") else "'group' or 'layer'"
    if name in _TRUTHS or name == "do_normalize":
        is_open = name == "do_normalize" and value is None
        return None if isinstance(value, bool) or is_open else "true or false"
    if name == "layer_norm_eps":
        return None if _is_number(value) and 0 < value <= 1 else "a number from 0 to 1"
    if name.endswith(("dropout", "layerdrop")) and value is not None:
        return None if _is_number(value) and 0 <= value <= 1 else "a rate from 0 to 1"
    if type(value) is int and abs(value) > LARGEST:
        return f"a whole number up to {LARGEST:,}"
    return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300  # NaN is not, nor 10**400


def _kind(value: Any) -> str:
    return type(value).__name__


def parameters(settings: Mapping[str, Any]) -> int:
    """Return how many parameters a model has at least that a configuration describes.

    Args:
        settings: As `check_settings` takes it.
    """

    def first(*names: str, default: int = 0) -> int:
        return next((int(settings[n]) for n in names if n in settings), default)

    layers = first("num_hidden_layers", "encoder_layers")
    hidden = first("hidden_size", "d_model")
    inner = first("intermediate_size", "encoder_ffn_dim")
    dims, kernels = settings.get("conv_dim", ()), settings.get("conv_kernel", ())
    total: int = layers * (4 * hidden**2 + 2 * hidden * inner)
    total += layers * hidden * first("conv_depthwise_kernel_size")
    total += sum(a * b * k for a, b, k in zip((1, *dims), dims, kernels, strict=False))
    total += dims[-1] * hidden if dims else 0
    kernel = first("conv_pos_kernel_size", default=1) * first("num_conv_pos_embeddings")
    total += kernel * hidden**2 // first("num_conv_pos_embedding_groups", default=1)
    total += first("num_buckets") * first("num_attention_heads")
    total += hidden * first("max_source_positions")
    reach = first("left_max_position_embeddings") + first("right_max_position_embeddings")
    total += layers * reach * hidden // first("num_attention_heads", default=1)
    if settings.get("add_adapter"):
        wide = first("output_hidden_size", default=hidden)
        total += first("num_adapter_layers") * 2 * wide**2 * first("adapter_kernel_size", default=1)
    return total


def check_size(settings: Mapping[str, Any], names: Iterable[str], held: int, source: str) -> None:
    """Refuse a configuration that describes a larger model than its file holds, or one too large.

    Args:
        settings: As `check_settings` takes it.
        names: Names of the tensors that the file holds.
        held: Elements of these.
        source: Where both come from, for messages.

    Raises:
        CheckpointError: Names both sizes.
        ConfigError: The environment variable is no number.
    """
    needed, most = parameters(settings), largest_model()
    if needed > most:
        raise CheckpointError(
            f"{source} is a model of {needed:,} parameters, more than {most:,}",
            hint=f"if that is meant, set the environment variable {MAX_PARAMETERS_VARIABLE}",
        )
    found = [re.search(r"\blayers\.(\d{1,6})\.", name) for name in names]
    numbers = [int(match[1]) for match in found if match]
    field = "num_hidden_layers" if "num_hidden_layers" in settings else "encoder_layers"
    layers = settings.get(field, 0)
    if numbers and layers > max(numbers) + 1:
        raise CheckpointError(
            f"{source}: {field} is {layers}, its weights have {max(numbers) + 1} layers"
        )
    if needed > 2 * held + _SPARE:
        raise CheckpointError(
            f"{source}: its configuration describes a model of {needed:,} parameters, its file "
            f"holds {held:,}"
        )


def largest_model() -> int:
    """Return how many parameters a model may have that is built.

    Raises:
        ConfigError: The environment variable is no number.
    """
    given = os.environ.get(MAX_PARAMETERS_VARIABLE)
    if not given:
        return MAX_PARAMETERS
    try:
        return int(float(given))
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{MAX_PARAMETERS_VARIABLE} is {given!r}, expected a number of parameters"
        ) from None
