"""Recipes: packaged or the user's own YAML, checked against the configuration of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field

from speechft.arguments import Texts
from speechft.commands import command
from speechft.config import Config, apply_changes, apply_overrides, build
from speechft.errors import ConfigError
from speechft.evaluation.config import EvaluationConfig
from speechft.finetuning.config import FinetuningConfig, PretrainingConfig, Strategy
from speechft.merging.config import MergeSettings
from speechft.recipe_files import find_recipe as find_recipe
from speechft.recipe_files import packaged_recipes as packaged_recipes
from speechft.recipe_files import read_recipe, verbs_of

Kind = TypeVar("Kind", bound=Config)


class DataConfig(Config):
    """Where the speech comes from."""

    corpus: str = "synthetic"
    """Embedded corpus, a CSV of your own recordings, or the folder of a prepared corpus."""
    corpora: dict[str, str] = Field(default_factory=dict)
    """Corpora to fine-tune on by task, where that is not the one above."""
    evaluation: tuple[str, ...] | dict[str, str] = ()
    """Corpora of the evaluation, where that is not ``corpus``. Of a list a task takes the first
    that has lists of its own for it, else the first that supports it; of a mapping the one of its
    name, and those of tasks that are not evaluated need not be there."""
    pretraining: tuple[str, ...] = ()
    """Prepared corpora whose training speech the encoder heard before, as far as that is known.
    Every row counts what of its tests was in it."""


@dataclass(frozen=True, kw_only=True)
class MergingConfig(MergeSettings):
    """Weight-space interpolation between the encoder and what fine-tuning made of it.

    theta = (1 - alpha) theta_0 + alpha theta', or another method, see `MergeSettings`.
    """

    alpha: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Coefficient; None is 0.25, and stays None with a method that finds it itself."""
    curve: tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...] = ()
    """Further coefficients that are merged and looked at on dev only."""
    curve_tasks: tuple[str, ...] = ()
    """Tasks of the curve; all tasks of the evaluation where it has none of these."""

    def __post_init__(self) -> None:
        """Check what can be checked without the models; see `MergeSettings`."""
        try:
            super().__post_init__()
        except ConfigError as error:
            raise ConfigError(f"merging: {error.message}", hint=error.hint) from None
        self._set("alpha", self.coefficient)
        if self.curve and self.alpha is None:
            raise ConfigError(
                f"merging.curve is over alpha, which method {self.method!r} finds itself",
                hint="set merging.curve=[]",
            )

    @property
    def label(self) -> str:
        """What tells the merged encoder from others: the coefficient, and a method of its own."""
        return self.label_at(self.alpha)

    def label_at(self, alpha: float | None) -> str:
        """Return the label at another coefficient."""
        parts = [] if self.method == MergeSettings.method else [self.method]
        return ", ".join(parts if alpha is None else [*parts, f"{alpha:g}"])


class CompositionConfig(Config):
    """How several tasks become one encoder (multi-task experiments of the Speech-FT paper)."""

    kind: Literal["single", "average", "ties", "sequential"] = "single"
    """``single``: one fine-tuning (on several tasks at once with ``finetuning.tasks``), one merge;
    ``average``: a fine-tuning for each task, all merged together by the method of ``merging``;
    ``ties``: the same with method ties; ``sequential``: each merged encoder is the base of the next
    task."""
    tasks: tuple[str, ...] = ()
    """Keys of the tasks, in order."""
    overrides: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Keys of ``finetuning`` that differ for a task."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the merge method for ``ties``; otherwise they are ``merging.options``."""


class Baseline(Config):
    """A strategy beside the recipe's own."""

    strategy: Strategy
    """How it is fine-tuned."""
    alpha: float | None = Field(default=None, ge=0.0, le=1.0)
    """Coefficient that it is merged at, beside being evaluated as it is; null does not merge it."""


class AnalysisConfig(Config):
    """What is said of the layers of the tuned and the merged encoder, beside the evaluation."""

    measures: Literal["available"] | tuple[str, ...] = ()
    """Measures of `speechft analyze`, or ``available`` for all that the corpus allows."""
    limit: int = Field(default=1000, ge=1)
    """Utterances of the development split at most."""


def _read_baseline(given: Any) -> Any:
    return {"strategy": given} if isinstance(given, str) else given


class VerdictConfig(Config):
    """What the closing sentences of a run may say; fixed before any result is seen."""

    margins: dict[str, float] = Field(default_factory=lambda: {"pr": 1.5, "*": 3.0})
    """Points by task: "keeps" means that the 90 % interval of the paired difference to the
    pre-trained encoder lies within plus or minus this margin."""
    min_items: int = 30
    """Fewer test items than these get no verdict."""


class Recipe(Config):
    """A whole run: fine-tune, merge, evaluate, report."""

    title: str
    """One line that says what it does."""
    encoder: str
    """The encoder to start from: packaged name, folder or hub id."""
    data: DataConfig = DataConfig()
    """Where the speech comes from."""
    finetuning: FinetuningConfig
    """The fine-tuning; its strategy is the one that gets merged."""
    baselines: tuple[Annotated[Baseline, BeforeValidator(_read_baseline)], ...] = (
        Baseline(strategy="plain"),
    )
    """Strategies that are fine-tuned and evaluated beside it, on the same data order: names, or
    mappings with ``strategy`` and the ``alpha`` that it is merged at too."""
    composition: CompositionConfig = CompositionConfig()
    """How several tasks become one encoder."""
    merging: MergingConfig = MergingConfig()
    """The interpolation."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The frozen evaluation."""
    analysis: AnalysisConfig = AnalysisConfig()
    """What fine-tuning did, layer by layer; nothing by default."""
    verdict: VerdictConfig = VerdictConfig()
    """What may be said about the result."""
    seed: int = 0
    """Seed of heads, order, dropout and probes."""

    def merged_at(self) -> dict[Strategy, list[float]]:
        """Return every strategy that is tuned, the recipe's own first, and its baselines' alphas.

        The recipe's own coefficient is not among them.
        """
        found: dict[Strategy, list[float]] = {self.finetuning.strategy: []}
        for baseline in self.baselines:
            alphas = found.setdefault(baseline.strategy, [])
            own = baseline.strategy == self.finetuning.strategy
            known = [*alphas, *([self.merging.alpha] if own else [])]
            if baseline.alpha is not None and baseline.alpha not in known:
                alphas.append(baseline.alpha)
        return found

    @property
    def tuned_on(self) -> tuple[str, ...]:
        """Return the tasks that the run fine-tunes on, in order."""
        return self.composition.tasks or tuple(self.finetuning.task_weights())


KINDS: dict[str, type[Config]] = {
    "run": Recipe,
    "finetune": Recipe,
    "pretrain": PretrainingConfig,
}
"""What a recipe describes, by the verb that takes it."""


def load_recipe(
    kind: type[Kind],
    name: str | Path,
    overrides: Texts = (),
    changes: Mapping[str, Any] | None = None,
) -> Kind:
    """Load a recipe with everything that it extends.

    Args:
        kind: What it describes.
        name: Packaged name or YAML file.
        overrides: ``key=value`` as text, from the command line.
        changes: Values by key, from Python.

    Raises:
        ConfigError: The recipe does not exist, is for another verb, or holds something that is not
            allowed.
    """
    content = read_recipe(name)
    verbs = verbs_of(content)
    if verbs and kind in KINDS.values() and KINDS[verbs[0]] is not kind:
        wanted = " or ".join(verb for verb, made in KINDS.items() if made is kind)
        raise ConfigError(
            f"recipe {name} is for {' or '.join(verbs)}, not for {wanted}",
            hint=command(verbs[0], name, out="DIR"),
        )
    content = apply_changes(apply_overrides(content, overrides, kind), (changes or {}).items())
    return build(kind, content, f"recipe {name}")
