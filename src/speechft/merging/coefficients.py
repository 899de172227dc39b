"""One alpha per tensor: a number for all, rules over layers, gradients across depth."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from speechft.errors import ConfigError

Rules = Mapping[str, float | str] | Sequence[str]

KINDS: dict[str, str] = {
    "cnn": r"feature_extractor\.",
    "projection": r"feature_projection\.",
    "position": r"encoder\.pos_conv|.*\.(rel_attn_embed|embed_positions)\b",
    "attention": r".*\.(attention|self_attn)\.",
    "feed-forward": r".*\.(feed_forward|ffn\d)\.|.*\.fc[12]\.",
    "layer-norm": r".*layer_norm\b",
    "mask": r"masked_spec_embed|mask_emb",
}
"""Kinds of modules that a rule can name, as patterns over Hugging Face names."""

_LAYER = re.compile(r"^encoder\.layers\.(\d+)\.")
_SELECTOR = re.compile(r"^layers(?:\.(\d+)(?:-(\d+))?)?(?:\.([a-z][a-z-]*))?$")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_GRADIENT = re.compile(rf"^({_NUMBER})\s*\.\.\s*({_NUMBER})$")


def layer_of(name: str) -> int | None:
    """Return the index of the transformer layer that a Hugging Face name lies in."""
    match = _LAYER.match(name)
    return int(match.group(1)) if match else None


def alphas(names: Sequence[str], alpha: float, rules: Rules | None = None) -> dict[str, float]:
    """Return the coefficient of every tensor.

    A rule is ``SELECTOR: VALUE``. Selectors: ``layers``, ``layers.3``, ``layers.0-3``,
    ``layers.0-3.attention``, a kind such as ``cnn`` (see `KINDS`), or a pattern over full names
    that holds a ``*``. Values: a number, or ``0.1..0.5`` for a straight line from the first to the
    last of the layers that the selector covers. Where several rules match, the last one holds.

    Args:
        names: Hugging Face names of the tensors that are merged.
        alpha: Coefficient of tensors without a rule.
        rules: Rules as ``{"layers.0-3": 0.1}`` or ``["layers.0-3: 0.1"]``.

    Raises:
        ConfigError: A rule cannot be read, matches nothing, or names layers that there are not.
    """
    result, end = dict.fromkeys(names, alpha), last_layer(names)
    for selector, value in read_rules(rules or {}).items():
        select, (first, last) = _selector(selector), _layers(selector, end)
        chosen = [name for name in names if select(name)]
        if not chosen:
            raise ConfigError(
                f"alpha rule {selector!r} matches no tensor",
                hint=f"layers here are 0 to {end}; kinds are "
                f"{', '.join(KINDS)}; patterns hold a *, such as 'encoder.layers.*.bias'",
            )
        if last > end:
            raise ConfigError(
                f"alpha rule {selector!r} reaches beyond the encoder, whose layers are 0 to {end}",
                hint=f"write layers.{first}-{end}",
            )
        result.update(_values(chosen, selector, value, end))
    return result


def rule_of_state(state: int) -> str:
    """Return in words the selectors of the weights that make a hidden state of what is before it.

    Args:
        state: Its number: 0 is the input of the first layer.
    """
    return f"layers.{state - 1}" if state else "cnn, projection and position"


def selects(selector: str) -> Callable[[str], bool]:
    """Return what tells whether a selector covers a Hugging Face name, see `alphas`.

    Raises:
        ConfigError: It cannot be read.
    """
    return _selector(selector)


def along_layers(layer: int, layers: int, first: float, last: float) -> float:
    """Return the value at a layer on a straight line from the first layer to the last.

    Args:
        layer: Index of the layer, from 0; clipped to the layers that there are.
        layers: Number of layers; the only one has the value ``last``.
        first: Value at the first layer.
        last: Value at the last layer.
    """
    if layers < 2:
        return last
    position = min(max(layer, 0), layers - 1) / (layers - 1)
    return first + (last - first) * position


def read_rules(rules: Rules) -> dict[str, float | str]:
    """Return rules as value by selector, in the order in which they hold.

    Args:
        rules: Rules as ``{"layers.0-3": 0.1}`` or ``["layers.0-3: 0.1"]``.

    Raises:
        ConfigError: A selector or a value cannot be read.
    """
    if isinstance(rules, str) or not isinstance(rules, Mapping | Sequence):
        raise ConfigError(
            f"alpha rules are {rules!r}, expected a mapping or a list of 'SELECTOR: VALUE'"
        )
    result: dict[str, float | str] = {}
    for selector, value in _pairs(rules):
        _selector(selector)
        result.pop(selector, None)  # said again, it holds from its new place on
        gradient = _GRADIENT.match(value) if isinstance(value, str) else None
        ends = gradient.groups() if gradient else (value,)
        numbers = [finite(end, f"alpha rule {selector!r}") for end in ends]
        result[selector] = value if gradient else numbers[0]
    return result


def _pairs(rules: Rules) -> Iterable[tuple[str, float | str]]:
    if isinstance(rules, Mapping):
        yield from ((str(selector), value) for selector, value in rules.items())
        return
    for rule in map(str, rules):
        selector, separator, value = rule.rpartition(":") if ":" in rule else rule.rpartition("=")
        if not separator or not selector.strip():
            raise ConfigError(
                f"alpha rule {rule!r} is not of the form SELECTOR: VALUE",
                hint="write for example 'layers.0-3: 0.1' or 'layers: 0.1..0.5'",
            )
        yield selector.strip(), value.strip()


def _selector(text: str) -> Callable[[str], bool]:
    if "*" in text:
        return lambda name: fnmatch.fnmatchcase(name, text)
    if text in KINDS:
        kind = re.compile(KINDS[text])
        return lambda name: kind.match(name) is not None
    match = _SELECTOR.match(text)
    if not match or (match.group(3) and match.group(3) not in KINDS):
        raise ConfigError(
            f"alpha rule {text!r} cannot be read",
            hint=f"selectors are layers.0-3, layers.0-3.attention, {', '.join(KINDS)}, or a "
            "pattern with a *",
        )
    first, last = _layers(text, math.inf)
    inner = re.compile(KINDS[match.group(3)]) if match.group(3) else None

    def matches(name: str) -> bool:
        layer = layer_of(name)
        return (
            layer is not None
            and first <= layer <= last
            and (inner is None or inner.match(name) is not None)
        )

    return matches


def _layers(selector: str, end: float) -> tuple[int, float]:
    """Return the first and last layer that a selector names; 0 and ``end`` where it names none."""
    match = _SELECTOR.match(selector)
    if match is None or match.group(1) is None:
        return 0, end
    return int(match.group(1)), int(match.group(2) or match.group(1))


def _values(chosen: Sequence[str], selector: str, value: float | str, end: int) -> dict[str, float]:
    gradient = _GRADIENT.match(value) if isinstance(value, str) else None
    if gradient is None:
        return dict.fromkeys(chosen, float(value))
    layers = {name: layer for name in chosen if (layer := layer_of(name)) is not None}
    if len(layers) != len(chosen):
        raise ConfigError(
            f"alpha rule {selector!r} gives a gradient but also covers tensors outside the layers",
            hint="write 'layers: 0.1..0.5'",
        )
    (first, last), depths = map(float, gradient.groups()), list(layers.values())
    covered = [int(n) for n in _layers(selector, end)] if _SELECTOR.match(selector) else depths
    lowest, count = min(covered), max(covered) - min(covered) + 1
    return {n: along_layers(layer - lowest, count, first, last) for n, layer in layers.items()}


def finite(value: Any, what: str) -> float:
    """Return a coefficient as a number.

    Raises:
        ConfigError: It is no number, or not finite.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{what} is {value!r}, expected a number") from None
    if not math.isfinite(number):
        raise ConfigError(f"{what} is {value!r}, expected a finite number")
    return number


def last_layer(names: Iterable[str]) -> int:
    """Return the index of the last transformer layer among tensors; -1 where there is none."""
    return max((layer for n in names if (layer := layer_of(n)) is not None), default=-1)
