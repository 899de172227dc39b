"""The encoders that are analysed: the base, the others, and how far they are like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from speechft.analysis.settings import Settings
from speechft.encoders.base import Encoder
from speechft.errors import ConfigError
from speechft.evaluation.candidates import typed_candidates
from speechft.features.layers import pick_layers


@dataclass(frozen=True)
class Subject:
    """An encoder that is analysed."""

    name: str
    digest: str
    encoder: Encoder
    layers: list[int]
    """Its hidden states, one for each layer of the base that is read."""
    fits: bool
    """Whether it has the base's shape: frames can be compared one by one."""
    interpolates: bool
    """Whether it has the base's weights by name and shape."""


def open_subjects(base: Any, encoders: Sequence[Any], settings: Settings) -> list[Subject]:
    """Load the base and the others; names are distinct, the base's among them."""
    first, *others = typed_candidates([base, *encoders])
    if any(one is base or str(one) == str(base) for one in encoders):
        others = [replace(first, name=f"{first.name} (again)"), *others]
    if not others:
        raise ConfigError("no encoder was given beside the base", hint="analyze BASE ENCODER...")
    named = [first, *others]
    loaded = [(c.name, c.digest(), c.load("exact")) for c in named]
    whole = loaded[0][2]
    layers = pick_layers(settings.layers, whole.num_layers)
    return [
        Subject(name, digest, encoder, *_matched(whole, encoder, name, layers, settings))
        for name, digest, encoder in loaded
    ]


def _matched(
    base: Encoder, encoder: Encoder, name: str, layers: list[int], settings: Settings
) -> tuple[list[int], bool, bool]:
    """Return the layers of an encoder that stand beside the base's, and how far it is like it."""
    shape, own = _shape(base), _shape(encoder)
    if shape != own and not settings.relative_depth:
        words = "{} layers of dimension {}, {:g} frames a second"
        raise ConfigError(
            f"{name} has {words.format(*own)}; the base has {words.format(*shape)}",
            hint="--relative-depth compares them layer by relative depth, by CKA alone",
        )
    matched = [round(layer * encoder.num_layers / max(base.num_layers, 1)) for layer in layers]
    shapes = [{n: p.shape for n, p in e.named_parameters()} for e in (base, encoder)]
    return matched, shape == own, shape == own and bool(shapes[0]) and shapes[0] == shapes[1]


def _shape(encoder: Encoder) -> tuple[int, int, float]:
    return encoder.num_layers, encoder.dim, encoder.frame_rate
