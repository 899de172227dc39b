"""The transformer layers of an encoder: which there are, and the rate that each learns at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from speechft.data.acoustics import SAMPLE_RATE
from speechft.encoders.base import Encoder
from speechft.errors import ConfigError


def transformer_layers(encoder: nn.Module) -> list[nn.Module]:
    """Return the transformer layers of an encoder: its module list ``encoder.layers``."""
    for name, module in encoder.named_modules():
        if name.endswith("encoder.layers") and isinstance(module, nn.ModuleList):
            return list(module)
    return []


def encoder_rates(encoder: Encoder, rate: float, decay: float) -> dict[str, float]:
    """Return the peak learning rate of every parameter of an encoder, by name.

    Layer l of L has rate * decay ** (L - l); what lies below the first layer counts as layer 0.

    Source: ELECTRA (Clark et al. 2020, arXiv 2003.10555, appendix A), as in BEiT (arXiv
    2106.08254).

    Args:
        encoder: LoRA and DoRA matrices belong to the layer that they are on.
        rate: Of the last layer.
        decay: From one layer to the one below; 1 makes them all alike.

    Raises:
        ConfigError: A decay was asked for, and the encoder has no transformer layers.
    """
    if decay == 1.0:
        return dict.fromkeys((name for name, _ in encoder.named_parameters()), rate)
    numbers = layer_numbers(encoder)
    count = len(transformer_layers(encoder))
    return {name: rate * decay ** (count - number) for name, number in numbers.items()}


def layer_numbers(encoder: Encoder) -> dict[str, int]:
    """Return the layer of every parameter by name: 0 below the first, L above the last.

    Whether a norm beside the layers is applied before or after them differs from model to model,
    so a second of silence goes through the encoder, and each module counts for the layer that was
    reached when it was first called.

    Raises:
        ConfigError: The encoder has no transformer layers.
    """
    layers = transformer_layers(encoder)
    if not layers:
        raise ConfigError(
            "finetuning.layer_decay: this encoder has no transformer layers",
            hint="set finetuning.layer_decay=1",
        )
    reached = {"": 0}
    with _watched(encoder, layers, reached):
        device = next(encoder.parameters()).device
        lengths = torch.tensor([SAMPLE_RATE], device=device)
        encoder(torch.zeros(1, SAMPLE_RATE, device=device), lengths)
    return {name: _nearest(name, reached) for name, _ in encoder.named_parameters()}


@contextmanager
def _watched(encoder: Encoder, layers: list[nn.Module], reached: dict[str, int]) -> Iterator[None]:
    """Note the layer at which each module is first called, without a trace in the encoder."""
    number = {id(layer): place for place, layer in enumerate(layers, 1)}
    training = [module for module in encoder.modules() if module.training]
    now = [0]

    def called(name: str, module: nn.Module, given: Any) -> None:
        now[0] = number.get(id(module), now[0])
        reached.setdefault(name, now[0])

    handles = [
        module.register_forward_pre_hook(partial(called, name))
        for name, module in encoder.named_modules()
    ]
    encoder.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True


def _nearest(name: str, reached: Mapping[str, int]) -> int:
    """Return the layer of a parameter's module, or of the nearest above it that was called."""
    while name not in reached:
        name = name.rpartition(".")[0]
    return reached[name]
