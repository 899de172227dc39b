"""The rivals of Speech-FT: weight-space regularisation, low-rank adapters, feature distillation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from speechft.data.batching import Batch
from speechft.encoders.base import Encoder, EncoderOutput
from speechft.encoders.conversion.adapted import (
    BASE_KEY,
    PREFIX,
    AdaptedTensor,
    weights_digest,
)
from speechft.encoders.conversion.adapter_settings import lora_settings
from speechft.encoders.conversion.adapters import ADAPTER_NAME, ADAPTER_WEIGHTS
from speechft.encoders.conversion.tensors import memory_tensor
from speechft.encoders.families import FAMILIES
from speechft.errors import ConfigError
from speechft.extras import needs
from speechft.finetuning.encoding import encode
from speechft.storage.files import atomic_write, write_json
from speechft.storage.headers import sorted_metadata


class Regularizer(Protocol):
    """What ties an encoder in training to its base: a term of the loss."""

    def __call__(
        self, encoder: Encoder, head: nn.Module, batch: Batch, output: EncoderOutput
    ) -> Tensor:
        """Return the term, a scalar."""
        ...


class L2sp:
    """Half the squared distance to the starting weights.

    R = w/2 sum_j (theta_j - theta0_j)^2 + v/2 sum_k phi_k^2 over the parameters in training of the
    encoder (theta) and of the head (phi).

    Source: L2-SP (Li, Grandvalet and Davoine 2018, arXiv 1802.01483, equation 5).

    Args:
        encoder: Holds the starting weights.
        weight: w.
        head_weight: v.
    """

    def __init__(self, encoder: Encoder, weight: float, head_weight: float = 0.0) -> None:
        self.weight, self.head_weight = weight, head_weight
        self.start = {n: p.detach().clone() for n, p in encoder.named_parameters()}

    def __call__(
        self, encoder: Encoder, head: nn.Module, batch: Batch, output: EncoderOutput
    ) -> Tensor:
        """Return the penalty, whatever the batch is."""
        total = output.last_hidden_state.new_zeros((), dtype=torch.float32)
        for name, parameter in encoder.named_parameters():
            if parameter.requires_grad:
                start = self.start[name] = self.start[name].to(parameter.device)
                total = total + self.weight / 2 * (parameter - start).square().sum()
        if self.head_weight:
            for parameter in head.parameters():
                total = total + self.head_weight / 2 * parameter.square().sum()
        return total


class Distillation:
    """Relative squared distance of hidden states to those of the frozen starting encoder.

    R = w mean_l [ sum_t |h_lt - h0_lt|^2 / sum_t |h0_lt|^2 ] over the valid frames t of the batch.
    The teacher has no dropout.

    Args:
        encoder: Becomes the teacher as it is now.
        weight: w.
        layers: l, 0 being the input of the first layer; none means all.

    Raises:
        ConfigError: There is no such hidden state.
    """

    def __init__(self, encoder: Encoder, weight: float, layers: Sequence[int] = ()) -> None:
        self.weight, self.layers = weight, tuple(layers) or tuple(range(encoder.num_layers + 1))
        wrong = [layer for layer in self.layers if not 0 <= layer <= encoder.num_layers]
        if wrong:
            raise ConfigError(
                f"finetuning.distill.layers: {wrong[0]} is none of the hidden states 0 to "
                f"{encoder.num_layers}"
            )
        self.teacher = copy.deepcopy(encoder).eval().requires_grad_(False)

    def __call__(
        self, encoder: Encoder, head: nn.Module, batch: Batch, output: EncoderOutput
    ) -> Tensor:
        """Return the distance for a batch."""
        last = output.last_hidden_state
        self.teacher.to(last.device)
        with torch.no_grad():
            target = encode(self.teacher, batch)
        frames = torch.arange(last.shape[1], device=last.device)
        valid = (frames < output.lengths[:, None])[..., None]
        total = last.new_zeros((), dtype=torch.float32)
        for layer in self.layers:
            base = target.layers[layer].float().masked_fill(~valid, 0.0)
            moved = output.layers[layer].float().masked_fill(~valid, 0.0) - base
            total = total + moved.square().sum() / base.square().sum().clamp(min=1e-12)
        return self.weight * total / len(self.layers)


_READS_WEIGHTS = {"MultiheadAttention", *(n for f in FAMILIES.values() for n in f.reads_weights)}
"""Modules that hand the weights of their linear layers to a function instead of calling the
layers: an adapter on such a layer would never be seen."""


def add_adapters(
    encoder: Encoder,
    layers: Sequence[nn.Module],
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str] = (),
    dora: bool = False,
) -> list[str]:
    """Put LoRA or DoRA adapters (through PEFT) on linear layers of the transformer.

    Source: LoRA (Hu et al. 2021, arXiv 2106.09685), DoRA (Liu et al. 2024, arXiv 2402.09353).

    Args:
        encoder: Is changed in place.
        layers: Its transformer layers.
        rank: Of the update.
        alpha: The update is scaled by alpha / rank.
        dropout: Of the adapters' inputs.
        targets: Names of the linear layers; none means all that can be adapted.
        dora: Learn magnitudes as well.

    Returns:
        Names of the adapted kinds of layers.

    Raises:
        ConfigError: A target does not exist or cannot be adapted, or PEFT is not installed.
    """
    usable, unusable = _linear_layers(encoder, layers)
    kinds = sorted({name.rpartition(".")[2] for name in usable})
    for target in targets:
        if target not in kinds:
            why = "is read without being called" if target in unusable else "does not exist"
            raise ConfigError(
                f"finetuning.adapter.targets: linear layer {target!r} {why} in this encoder; "
                f"choices are: {', '.join(kinds)}"
            )
    chosen = [n for n in usable if not targets or n.rpartition(".")[2] in targets]
    with needs("adapters", f"the strategy {'dora' if dora else 'lora'}", "PEFT"):
        from peft import LoraConfig, inject_adapter_in_model
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=chosen,
        use_dora=dora,
    )
    inject_adapter_in_model(settings, encoder)
    return sorted({name.rpartition(".")[2] for name in chosen})


def save_adapters(encoder: Encoder, folder: Path, base: str | None) -> None:
    """Write the adapters of an encoder as PEFT does, for ``PeftModel.from_pretrained``.

    Args:
        encoder: With its adapters.
        folder: Gets ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: What the encoder was loaded from.
    """
    from safetensors.torch import save

    tensors, adapted = {}, {}
    rank, alpha, dora = 1, 1.0, False
    for name, module in _adapted(encoder):
        own = name.removeprefix("model.")
        adapted[f"{own}.weight"] = memory_tensor(own, module.get_base_layer().weight)
        rank, alpha = module.r[_NAME], module.lora_alpha[_NAME]
        dora = bool(module.use_dora[_NAME])
        for part, tensor in _parts(module).items():
            end = "" if part == "lora_magnitude_vector" else ".weight"  # as PEFT names them
            tensors[f"{PREFIX}{own}.{part}{end}"] = tensor.detach().cpu().contiguous()
    targets = [name.removesuffix(".weight") for name in adapted]
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", BASE_KEY: weights_digest(adapted.items())}
    with atomic_write(folder / ADAPTER_WEIGHTS[0]) as file:
        file.write(sorted_metadata(save(tensors, metadata=metadata)))
    write_json(folder / ADAPTER_NAME, lora_settings(base, rank, alpha, targets, dora=dora))


def merge_adapters(encoder: Encoder) -> None:
    """Merge all adapters back into plain weights under the names that they had.

    The arithmetic is that of `speechft.encoders.conversion.adapted`, so that the encoder is what
    its base with its saved adapter is.

    Raises:
        ConfigError: A merged weight is not finite.
    """
    for name, module in _adapted(encoder):
        layer, parts = module.get_base_layer(), _parts(module)
        own = {part: memory_tensor(part, tensor) for part, tensor in parts.items()}
        whole = AdaptedTensor(
            name,
            memory_tensor(name, layer.weight),
            own["lora_A"],
            own["lora_B"],
            module.scaling[_NAME],
            own.get("lora_magnitude_vector"),
        ).held()
        if not np.isfinite(whole.data).all():
            raise ConfigError(f"adapter of {name} cannot be merged: weights are not finite")
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(whole.data).view(layer.weight.shape))
        parent, _, leaf = name.rpartition(".")
        setattr(encoder.get_submodule(parent), leaf, layer)
    for module in encoder.modules():
        if "peft_config" in vars(module):
            del module.peft_config


_NAME = "default"
"""PEFT's name of an adapter."""


def _adapted(encoder: Encoder) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(n, m) for n, m in encoder.named_modules() if isinstance(m, LoraLayer)]


def _parts(module: Any) -> dict[str, Tensor]:
    """Return the matrices of an adapted layer, and its magnitudes where it has them."""
    parts = {part: getattr(module, part)[_NAME].weight for part in ("lora_A", "lora_B")}
    if module.use_dora[_NAME]:
        parts["lora_magnitude_vector"] = module.lora_magnitude_vector[_NAME].weight
    return parts


def _linear_layers(encoder: Encoder, layers: Sequence[nn.Module]) -> tuple[list[str], set[str]]:
    """Return the linear layers that an adapter can work on, and the kinds that it cannot."""
    inside = {id(module) for layer in layers for module in layer.modules()}
    readers = {
        id(child)
        for module in encoder.modules()
        if type(module).__name__ in _READS_WEIGHTS
        for child in module.children()
    }
    usable, unusable = [], set()
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Linear) and id(module) in inside:
            if id(module) in readers:
                unusable.add(name.rpartition(".")[2])
            else:
                usable.append(name)
    return usable, unusable
