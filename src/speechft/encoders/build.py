"""From an open checkpoint and its configuration to an encoder that computes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from speechft.commands import command
from speechft.encoders.base import Mode
from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.encoders.conversion.keys import is_pretraining_head
from speechft.encoders.conversion.schema import check_size
from speechft.encoders.conversion.settings import check_rate, complete_settings
from speechft.encoders.conversion.tensors import FileTensor, Tensor, numel
from speechft.encoders.families import FAMILIES
from speechft.encoders.hints import nonfinite_hint
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.errors import CheckpointError

_OPTIONAL = ("masked_spec_embed",)
"""A parameter of pre-training and SpecAugment that files may lack or have beyond the model's."""


def build_encoder(
    checkpoint: Checkpoint,
    *,
    mode: Mode = "exact",
    config: Any = None,
    allow_nonfinite: bool = False,
) -> HuggingFaceEncoder:
    """Build the bare encoder of a checkpoint, out of a task model too, in float32.

    Args:
        checkpoint: The open checkpoint.
        mode: See `HuggingFaceEncoder`.
        config: See `complete_settings`.
        allow_nonfinite: Accept weights that are NaN or infinite.

    Raises:
        CheckpointError: The family is not supported, or the weights do not fit the configuration
            or are not finite.
    """
    if checkpoint.format == "delta":
        raise CheckpointError(
            f"{checkpoint.source} is a task vector, not an encoder",
            hint=command("merge", "BASE", checkpoint.source, alpha="1", out="encoder"),
        )
    settings = complete_settings(checkpoint, config)
    check_family(settings, checkpoint.source)
    check_rate(settings, checkpoint.source)
    _check_size(checkpoint, settings)
    check_fit(checkpoint, settings)
    known = _encoder_tensors(checkpoint)
    with _reported(checkpoint.source, settings):
        kind, model_config = FAMILIES[settings["model_type"]].model_class(settings)
        model, report = kind.from_pretrained(
            None,
            config=model_config,
            state_dict=torch_tensors(known),
            dtype=torch.float32,
            output_loading_info=True,
        )
    _check(checkpoint.source, model, report, allow_nonfinite)
    return _wrap(model, settings, mode)


def set_weights(encoder: HuggingFaceEncoder, checkpoint: Checkpoint) -> bool:
    """Give an encoder the weights of another checkpoint of its configuration, in place.

    Args:
        encoder: The encoder, on any device.
        checkpoint: Its tensors are read.

    Returns:
        Whether it was done; nothing is changed where names or shapes do not fit one to one.
    """
    known = {n: t for n, t in checkpoint.by_name().items() if not is_pretraining_head(n)}
    own = encoder.model.state_dict()
    if {n: tuple(t.shape) for n, t in known.items()} != {n: tuple(t.shape) for n, t in own.items()}:
        return False
    with torch.no_grad():
        for name, tensor in known.items():
            own[name].copy_(_viewed(tensor))
    return True


def random_like(checkpoint: Checkpoint, mode: Mode = "exact") -> HuggingFaceEncoder:
    """Build an encoder of the same configuration with weights from torch's generator."""
    settings = complete_settings(checkpoint)
    check_family(settings, checkpoint.source)
    _check_size(checkpoint, settings)
    check_rate(settings, checkpoint.source)
    with _reported(checkpoint.source, settings):
        kind, model_config = FAMILIES[settings["model_type"]].model_class(settings)
        model = kind._from_config(model_config, dtype=torch.float32)
    return _wrap(model, settings, mode)


def _check_size(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
    """Refuse a model that its file cannot hold, before it is built."""
    held = sum(map(numel, checkpoint.tensors.values()))
    check_size(settings, checkpoint.by_name(), held, checkpoint.source)


def check_family(settings: Mapping[str, Any], source: str) -> None:
    """Refuse a model that does not take waveforms, or that is not known, by name.

    Raises:
        CheckpointError: It is not one of `FAMILIES`.
    """
    family = settings.get("model_type")
    if family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise CheckpointError(
            f"{source} is a model of type {family!r}; supported are: {known}",
            hint="evaluate an encoder of your own as my.py:MyEncoder, see docs/encoders.md",
        )


def check_fit(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
    """Refuse weights that do not fit the model, before any of them is read.

    Args:
        checkpoint: The open checkpoint.
        settings: Its whole configuration.

    Raises:
        CheckpointError: Names tensors that are missing, without a place, or of another shape.
    """
    with _reported(checkpoint.source, settings), torch.device("meta"):
        kind, model_config = FAMILIES[settings["model_type"]].model_class(settings)
        expected = kind(model_config).state_dict()
    ignored = [re.compile(p) for p in kind._keys_to_ignore_on_load_unexpected or ()]
    known = _encoder_tensors(checkpoint)
    spare = [n for n in known if n not in expected and not any(p.search(n) for p in ignored)]
    problems = {
        "missing": sorted(set(expected) - set(known) - {*_OPTIONAL, *_counters(expected)}),
        "without a place": sorted(set(spare) - set(_OPTIONAL)),
        "of another shape": sorted(
            f"{name}: {list(known[name].shape)}, expected {list(tensor.shape)}"
            for name, tensor in expected.items()
            if name in known and tuple(known[name].shape) != tuple(tensor.shape)
        ),
    }
    found = [f"{what}: {names[:5]}" for what, names in problems.items() if names]
    if found:
        raise CheckpointError(
            f"{checkpoint.source}: the weights do not fit the configuration; {', '.join(found)}"
        )


def _encoder_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return {n: t for n, t in checkpoint.by_name().items() if not is_pretraining_head(n)}


def _counters(names: Iterable[str]) -> list[str]:
    """Return what batch norms count, which no feature depends on."""
    return [name for name in names if name.endswith("num_batches_tracked")]


def torch_tensors(tensors: Mapping[str, Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors of a checkpoint as torch tensors of their own, in the stored types."""
    from safetensors import safe_open

    result: dict[str, torch.Tensor] = {}
    stored: dict[str, list[tuple[str, str]]] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, FileTensor):
            stored.setdefault(str(tensor.file.path), []).append((name, tensor.name))
            continue
        result[name] = _viewed(tensor).clone()
    for path, pairs in stored.items():
        with safe_open(path, "pt") as file:
            for name, key in pairs:
                result[name] = file.get_tensor(key)
    return {name: result[name] for name in tensors}


def _viewed(tensor: Tensor) -> torch.Tensor:
    """Return a tensor of a checkpoint as it is stored, without a copy where it is in memory."""
    data = tensor.raw(0, tensor.nbytes)
    kind = _TORCH_TYPES[tensor.dtype]
    flat = torch.from_numpy(data).view(kind) if data.size else torch.empty(0, dtype=kind)
    return flat.reshape(tensor.shape)


_TORCH_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _wrap(model: Any, settings: Mapping[str, Any], mode: Mode) -> HuggingFaceEncoder:
    normalize = bool(settings.get("do_normalize") or False)
    return HuggingFaceEncoder(model, normalize=normalize, mode=mode).eval()


@contextlib.contextmanager
def _reported(source: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Quieten transformers, and turn what it raises into one error."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # a wrong configuration or file raises many kinds
        raise CheckpointError(
            f"{source} cannot be loaded as {settings['model_type']}: "
            f"{type(error).__name__}: {error}"
        ) from None
    finally:
        logging.set_verbosity(verbosity)


def all_finite(tensor: torch.Tensor) -> bool:
    """Return whether no element is NaN or infinite, by its extremes: 15 times as fast as all."""
    return not tensor.numel() or all(bool(end.isfinite()) for end in tensor.aminmax())


def _check(source: str, model: Any, report: Mapping[str, Any], allow_nonfinite: bool) -> None:
    """Refuse what transformers left out nevertheless, and weights that are not finite.

    Raises:
        CheckpointError: Names them.
    """
    left = set(report["missing_keys"]) - {*_OPTIONAL, *_counters(report["missing_keys"])}
    if left:
        raise CheckpointError(f"{source}: transformers did not load {sorted(left)[:5]}")
    broken = [name for name, tensor in model.named_parameters() if not all_finite(tensor)]
    if broken and not allow_nonfinite:
        raise CheckpointError(
            f"{source}: NaN or infinite weights in {', '.join(broken[:5])}",
            hint=nonfinite_hint(),
        )
