"""What a LoRA's ``adapter_config.json`` says about its mathematics; what is not known is refused.

The weight of a layer with the matrices A (r, in) and B (out, r) becomes W + s B A with
s = alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA; with DoRA's magnitudes m (out,) every
row of that is scaled to the norm m.

Sources: LoRA (Hu et al. 2021, arXiv 2106.09685), rsLoRA (Kalajdzievski 2023, arXiv 2312.03732),
DoRA (Liu et al. 2024, arXiv 2402.09353); names and patterns as PEFT 0.21 writes and reads them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from speechft.encoders.conversion.adapters import Adapter
from speechft.errors import CheckpointError
from speechft.naming import public_name

_NO_MATTER = frozenset(
    "peft_type auto_mapping base_model_name_or_path revision task_type inference_mode r lora_alpha "
    "lora_dropout target_modules exclude_modules bias use_rslora modules_to_save use_dora "
    "layers_to_transform layers_pattern rank_pattern alpha_pattern megatron_core loftq_config "
    "eva_config corda_config lora_ga_config velora_config runtime_config lora_bias peft_version "
    "qalora_group_size ensure_weight_tying init_lora_weights fan_in_fan_out".split()
)
"""Settings that are read here, or that only matter in training. PEFT itself sets
``fan_in_fan_out`` back for linear layers, and encoders have no others of that kind."""

_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Those that leave the weights of the base as they were."""

_WILD = re.compile(r"\)[*+?{]|[*+}?]\??[*+?{]")
"""In a pattern of names: what makes a regular expression take for ever."""


@dataclass(frozen=True)
class Lora:
    """The mathematics of a LoRA or DoRA."""

    rank: int
    alpha: float
    is_stabilised: bool
    """Scaled by alpha / sqrt(r)."""
    has_magnitudes: bool
    """DoRA."""
    ranks: Mapping[str, int]
    """Of modules by pattern, where they differ."""
    alphas: Mapping[str, float]

    def rank_of(self, module: str) -> int:
        """Return r of a module by its name in the model that was adapted."""
        return self.ranks.get(_matching(self.ranks, module), self.rank)

    def scaling(self, module: str) -> float:
        """Return s of a module by its name in the model that was adapted."""
        alpha, rank = (
            self.alphas.get(_matching(self.alphas, module), self.alpha),
            self.rank_of(module),
        )
        return alpha / math.sqrt(rank) if self.is_stabilised else alpha / rank


def read_lora(adapter: Adapter) -> Lora:
    """Return what the settings of an adapter say.

    Raises:
        CheckpointError: It is no LoRA, or a setting is wrong or changes what is not known here.
    """
    settings = adapter.settings
    if settings.get("peft_type") != "LORA":
        raise adapter.refusal("which is no LoRA: only LoRA and DoRA are taken")
    for name, value in settings.items():
        if name not in _NO_MATTER and value not in (None, False, [], {}, ""):
            raise adapter.refusal(f"whose setting {name} = {str(value)[:60]!r} is not known here")
    initialised = settings.get("init_lora_weights", True)
    if not any(initialised is known or initialised == known for known in _INITIALISATIONS):
        raise adapter.refusal(
            f"whose start init_lora_weights = {str(initialised)[:60]!r} changed the weights of "
            "that base"
        )
    rank, alpha = _number(adapter, "r", 8), _number(adapter, "lora_alpha", 8)
    return Lora(
        int(rank),
        alpha,
        bool(settings.get("use_rslora")),
        bool(settings.get("use_dora")),
        {name: int(value) for name, value in _patterns(adapter, "rank_pattern").items()},
        _patterns(adapter, "alpha_pattern"),
    )


def lora_settings(
    base: str | None, rank: int, alpha: float, targets: Iterable[str], *, dora: bool = False
) -> dict[str, Any]:
    """Return an ``adapter_config.json`` that PEFT and `read_lora` read.

    Args:
        base: Name of the encoder that it is for; what leaves tells no path.
        rank: Of every matrix.
        alpha: s is alpha / rank.
        targets: Names of the linear layers in the bare model of transformers.
        dora: Whether magnitudes stand beside the matrices.
    """
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": None if base is None else public_name(base),
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(targets),
        "use_dora": dora,
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
        "task_type": None,
    }


def _number(adapter: Adapter, name: str, default: float, within: Any = None) -> float:
    value = adapter.settings.get(name, default) if within is None else within
    is_rank = name in ("r", "rank_pattern")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if (
        not is_number
        or not math.isfinite(value)
        or (is_rank and (value < 1 or value != int(value)))
    ):
        expected = "a whole number from 1 on" if is_rank else "a number"
        raise CheckpointError(
            f"{adapter.source}: {name} is {str(value)[:60]!r}, expected {expected}"
        )
    return float(value)


def _patterns(adapter: Adapter, name: str) -> dict[str, float]:
    found = adapter.settings.get(name) or {}
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{adapter.source}: {name} is {str(found)[:60]!r}, expected a mapping"
        )
    for pattern in found:
        try:
            re.compile(pattern)
            is_wild = len(pattern) > 300 or len(re.findall(r"[*+]", pattern)) > 3
        except re.error:
            is_wild = True
        if is_wild or _WILD.search(pattern):
            raise CheckpointError(
                f"{adapter.source}: {name} has the pattern {pattern[:60]!r}, which is not read",
                hint="write the names of the modules instead",
            )
    return {pattern: _number(adapter, name, 0, value) for pattern, value in found.items()}


def _matching(patterns: Mapping[str, Any], module: str) -> str:
    """Return the first pattern that is the end of a module's name, as PEFT looks for it."""
    return next((p for p in patterns if re.match(rf"(.*\.)?({p})$", module)), module)
