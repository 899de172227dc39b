"""What the evidence consists of: the units of ``DESIGN.md``, their order, cost and settings.

A unit is one fine-tuning with some measurements of it, or a pre-trained encoder; its rows are one
file. Nothing here computes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from cells import CELLS, CLEAN, SPLITS
from cells import VERSION as CELLS_VERSION
from rows import as_fixed, changed_of

from speechft.evaluation.config import EvaluationConfig, ProbeConfig
from speechft.evaluation.protocols import PROTOCOLS
from speechft.finetuning.config import FinetuningConfig
from speechft.finetuning.phases import Phase, stable_phases
from speechft.recipe import Recipe, load_recipe
from speechft.storage.files import json_digest

ROWS = Path(__file__).with_name("evidence")
CONFIRMING = (4, 5, 6, 7)
EXPLORING = (1, 2, 3)
TUNED_ON = ("sid", "pr")
TASKS = ("pr", "sid", "ic")
FURTHER = ("asr", "pc", "style")
"""Further tasks that are tuned on, of Table I."""
BOTH = "pr+sid"
"""Tuned on two tasks, in the ways of Table III."""
WAYS = ("joint", "average", "ties", "sequence")
SEEDS = (101, 102)
STUDY = "study"
"""Name of the corpus that is tuned on, among the cells."""
UPDATES = 300
STRONGER = (1200, 4800)
WEAKER = (30, 75, 150)
"""Whole stable runs of fewer updates: the path of stable tuning."""
ALPHA = 0.25
PATH = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Coefficients beside 0; 1 is the tuned encoder."""
SHORT_PATH = (0.25, 0.5, 1.0)
EARLY = (0.1, 0.2, 0.5)
"""Shares of the updates at which the one stable run is looked at."""
ARMS = {"trained-0": (True, 0.0), "trained-1": (True, 0.1)}
ARMS |= {"frozen-0": (False, 0.0), "frozen-1": (False, 0.1)}
"""H7: whether the CNN is trained, and the share of updates in which the head learns alone."""
RIVALS: dict[str, tuple[str, ...]] = {
    "lora": ("finetuning.strategy=lora",),
    "dora": ("finetuning.strategy=dora",),
    "l2sp": ("finetuning.strategy=l2sp",),
    "distill": ("finetuning.strategy=distill",),
    "low-rate": ("finetuning.encoder_learning_rate=1e-4",),
    "layer-decay": ("finetuning.layer_decay=0.7",),
    "ema": ("finetuning.select=ema", "finetuning.ema_decay=0.99"),
}
"""Methods of Table VIII and further ones: what they change of the recipe; settings of the first
try."""
METHODS = {"l2sp": "L2-SP", "lora": "LoRA", "dora": "DoRA", "distill": "distillation"}
METHODS |= {"low-rate": "lower rate", "layer-decay": "layer decay", "ema": "EMA"}
"""What pages call them."""
OTHERS = tuple(RIVALS)[3:]
"""Those that are not of Table VIII."""
TRIES: dict[str, tuple[str, ...]] = {
    "lora": ("finetuning.adapter.rank=4", "finetuning.adapter.rank=64"),
    "dora": ("finetuning.adapter.rank=4", "finetuning.adapter.rank=64"),
    "l2sp": ("finetuning.l2sp.weight=0.001", "finetuning.l2sp.weight=0.1"),
    "distill": ("finetuning.distill.weight=0.1", "finetuning.distill.weight=10"),
    "low-rate": ("finetuning.encoder_learning_rate=3e-5", "finetuning.encoder_learning_rate=3e-4"),
    "layer-decay": ("finetuning.layer_decay=0.5", "finetuning.layer_decay=0.85"),
    "ema": ("finetuning.ema_decay=0.98", "finetuning.ema_decay=0.995"),
}
"""Two further settings of each, as many for all; the best of three is chosen on lineage 1."""
CHOSEN = {"lora": "lora-2", "dora": "dora-2", "l2sp": "l2sp-1"}
"""Variant that lineages 4 to 7 have, where the tries did not choose the first (amended)."""

LONGER = 4
"""Times the epochs, for a probe that has not converged."""
WIDENED = 4
"""Times that a grid is widened at the most."""


def probe_protocols() -> dict[str, dict[str, ProbeConfig]]:
    """Return the protocols of the probes: ``mini`` with wider grids, and the same with more epochs.

    They are registered under their names when this module is loaded.
    """
    wide = {
        name: PROTOCOLS["mini"][name].model_copy(update={"extend": WIDENED})
        for name in ("frame", "utterance")
    }
    long = {
        name: config.model_copy(update={"epochs": LONGER * config.epochs})
        for name, config in wide.items()
    }
    return {"evidence": wide, "evidence-long": long}


PROTOCOLS.update(probe_protocols())
PROBES = EvaluationConfig(tasks=TASKS, protocol="evidence", precision="fp32")


class ArmConfig(FinetuningConfig):
    """An arm of H7: every arm runs the CNN on the crop; what learns when is the arm's own."""

    trains_cnn: bool = True

    def phases(self) -> list[Phase]:
        """Return the stretches of updates with what is trainable in each."""
        learns: Any = "everything" if self.trains_cnn else "head and layers"
        return stable_phases(self.steps, self.head_only, trainable=learns)


@dataclass(frozen=True)
class Unit:
    """One file of rows.

    Args:
        kind: What is measured; a method of `Work`.
        lineage: Of the base.
        tuned_on: Task, nothing for a pre-trained encoder.
        seed: Of the fine-tuning, 0 for a pre-trained encoder.
        variant: Which arm, method, number of updates.
        tier: A, B, or X for what explores on lineages 1 to 3.
        minutes: Of one core, from the pilot.
    """

    kind: str
    lineage: int
    tuned_on: str = ""
    seed: int = 0
    variant: str = ""
    tier: str = "A"
    minutes: float = 0.0

    @property
    def name(self) -> str:
        """Return the name of its file."""
        parts = (f"lineage-{self.lineage}", self.tuned_on, str(self.seed or ""), self.kind)
        return "-".join(part for part in (*parts, self.variant) if part)

    @property
    def long_kind(self) -> str:
        """Return kind and variant."""
        return f"{self.kind}-{self.variant}"

    def about(self) -> dict[str, Any]:
        """Return what all of its rows say of it."""
        content = asdict(self)
        known = {key: content[key] for key in ("lineage", "tuned_on", "seed", "kind", "variant")}
        return {**known, **self.stamp()}

    def stamp(self) -> dict[str, Any]:
        """Return what makes rows of this unit alone void: the settings of a rival."""
        return {"changes": list(changes_of(self))} if self.kind in ("rival", "attempt") else {}


MINUTES = {"base": 10.0, "path": 10.0, "weaker": 6.5, "cells": 11.5, "home": 14.0, "layers": 10.0}
MINUTES |= {"arm": 9.0, "stronger-1200": 16.0, "stronger-4800": 39.0, "rival": 11.0, "early": 6.0}
MINUTES |= {"suggest": 8.0, "lines": 6.5, "other": 6.0, "several": 6.0}
"""Minutes of one core by kind, from the pilot: 117 s a fine-tuning of 300 updates, 80 to 117 s the
probes of an encoder on the study, on a machine that did much else; less on a quiet one."""
FIRST_SEED = ("stronger", "layers", "other", "several")
"""Kinds that are measured with the first tuning seed alone."""
TUNED_FOR = {"other": FURTHER, "several": (BOTH,), "suggest": TUNED_ON}
"""What kinds of tier B are tuned on; the others on speakers alone."""


def kinds() -> Iterator[tuple[str, str, str]]:
    """Yield tier, kind and variant of what is measured of a task and a tuning seed, in order."""
    yield "A", "path", ""
    yield "A", "weaker", ""
    yield "A", "cells", ""
    for arm in ARMS:
        yield "A", "arm", arm
    yield "A", "home", ""
    for updates in STRONGER:
        yield "A", "stronger", str(updates)
    yield "A", "layers", ""
    for method in ("l2sp", "lora", "dora"):
        yield "B", "rival", method
    yield "B", "early", ""
    yield "B", "suggest", ""
    yield "B", "lines", ""
    yield "B", "other", ""
    for way in WAYS:
        yield "B", "several", way
    for method in OTHERS:
        yield "B", "rival", method


def all_units() -> list[Unit]:
    """Return every unit, in the order in which they are worked off.

    Confirming lineages first: the pre-trained ones, then tier A of the first tuning seed, kind by
    kind over all lineages, then of the second, then tier B; what explores comes last.
    """
    found = [_unit("base", lineage) for lineage in CONFIRMING]
    for tier in ("A", "B"):
        for seed in SEEDS:
            found += _of_seed(CONFIRMING, seed, tier)
    found += [_unit("base", lineage, tier="X") for lineage in EXPLORING]
    for tier in ("A", "B"):
        found += [
            _unit(u.kind, u.lineage, u.tuned_on, u.seed, u.variant, "X")
            for u in _of_seed(EXPLORING, SEEDS[0], tier)
        ]
    for method in TRIES:
        found += [_unit("attempt", 1, "sid", SEEDS[0], variant, "X") for variant in _tries(method)]
    return found


def _of_seed(lineages: tuple[int, ...], seed: int, tier: str) -> list[Unit]:
    confirms = lineages == CONFIRMING
    return [
        _unit(
            kind, lineage, task, seed, CHOSEN.get(variant, variant) if confirms else variant, tier
        )
        for found, kind, variant in kinds()
        if found == tier
        for lineage in lineages
        for task in (TUNED_ON if tier == "A" else TUNED_FOR.get(kind, ("sid",)))
        if not (kind in FIRST_SEED and seed != SEEDS[0])
    ]


def _unit(
    kind: str, lineage: int, tuned_on: str = "", seed: int = 0, variant: str = "", tier: str = "A"
) -> Unit:
    like = f"{kind}-{variant}" if kind == "stronger" else "rival" if kind == "attempt" else kind
    return Unit(kind, lineage, tuned_on, seed, variant, tier, MINUTES[like])


def changes_of(unit: Unit) -> tuple[str, ...]:
    """Return what a rival, or a try of one, changes of the recipe."""
    if unit.variant in RIVALS:
        return RIVALS[unit.variant]
    method, number = unit.variant.rsplit("-", 1)
    return (*RIVALS[method], TRIES[method][int(number) - 1])


def method_name(variant: str) -> str:
    """Return what pages call a setting of a rival: the one that confirms goes without addition."""
    method = next(name for name in METHODS if variant in (name, *_tries(name)))
    if variant == CHOSEN.get(method, method):
        return METHODS[method]
    return f"{METHODS[method]}, {'first setting' if variant == method else variant}"


def _tries(method: str) -> list[str]:
    return [f"{method}-{number + 1}" for number in range(len(TRIES[method]))]


def recipe_of(base: str, task: str, seed: int, *changes: str) -> Recipe:
    """Return the demo's recipe as the evidence tunes."""
    given = [f"encoder={base}", f"seed={seed}", f"finetuning.task={task}"]
    given += [f"finetuning.steps={UPDATES}", "finetuning.precision=fp32", *changes]
    return load_recipe(Recipe, "demo", given)


@cache
def design() -> str:
    """Return a digest of all settings; rows of another one are void. See `as_fixed`."""
    now, changed = _settings()
    fixed = json.loads((ROWS / "design.json").read_text())
    return json_digest(as_fixed(now, changed, fixed))[:12]


def _settings() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of today, and those of them that are no defaults."""
    recipe = recipe_of("tiny-hubert", "sid", SEEDS[0])
    plain = {
        "cells": {cell.name: asdict(cell) for cell in (*CELLS, CLEAN)},
        "cells_version": CELLS_VERSION,
        "path": PATH,
        "arms": ARMS,
        "cell_splits": SPLITS,
        "early": EARLY,
    }
    merging = {f.name: getattr(recipe.merging, f.name) for f in fields(recipe.merging)}
    now = {"finetuning": recipe.finetuning.as_dict(), "probes": PROBES.as_dict()}
    now |= {"protocols": _each(lambda c: c.as_dict()), "merging": merging, "plain": plain}
    changed = {"finetuning": changed_of(recipe.finetuning), "probes": changed_of(PROBES)}
    changed |= {"protocols": _each(changed_of), "merging": recipe.merging.changed(), "plain": plain}
    return json.loads(json.dumps(now)), json.loads(json.dumps(changed))


def _each(content: Any) -> dict[str, Any]:
    return {
        protocol: {level: content(config) for level, config in parts.items()}
        for protocol, parts in probe_protocols().items()
    }
