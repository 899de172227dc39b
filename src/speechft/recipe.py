"""Recipes: packaged or the user's own YAML, checked against the configuration of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from speechft.config import Config, apply_changes, apply_overrides, build, read_yaml
from speechft.errors import ConfigError, unknown_choice
from speechft.evaluation.config import EvaluationConfig
from speechft.finetuning.config import FinetuningConfig, Strategy
from speechft.merging.config import MergeSettings

Kind = TypeVar("Kind", bound=Config)

PRETRAIN_PREFIX = "pretrain-"


class DataConfig(Config):
    """Where the speech comes from."""

    corpus: str = "synthetic"
    """Embedded corpus, a CSV of your own recordings, or the folder of a prepared corpus."""
    corpora: dict[str, str] = Field(default_factory=dict)
    """Corpora to fine-tune on by task, where that is not the one above."""
    evaluation: tuple[str, ...] = ()
    """Corpora of the evaluation, where that is not ``corpus``: a task takes the first that has
    lists of its own for it, else the first that supports it."""


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
        parts = [] if self.method == MergeSettings.method else [self.method]
        return ", ".join(parts if self.alpha is None else [*parts, f"{self.alpha:g}"])


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
    baselines: tuple[Strategy, ...] = ("plain",)
    """Strategies that are fine-tuned and evaluated beside it, on the same data order."""
    composition: CompositionConfig = CompositionConfig()
    """How several tasks become one encoder."""
    merging: MergingConfig = MergingConfig()
    """The interpolation."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The frozen evaluation."""
    verdict: VerdictConfig = VerdictConfig()
    """What may be said about the result."""
    seed: int = 0
    """Seed of heads, order, dropout and probes."""

    @property
    def tuned_on(self) -> str:
        """Return the task that the run is about, the first where there are several."""
        return (*self.composition.tasks, *self.finetuning.task_weights())[0]


def packaged_recipes() -> dict[str, Path]:
    """Return the packaged recipes by name, the demo first."""
    root = Path(str(resources.files("speechft") / "recipes"))
    paths = sorted(root.glob("*.yaml"), key=lambda path: (path.stem != "demo", path.stem))
    return {path.stem: path for path in paths}


def find_recipe(name: str) -> Path:
    """Return the file of a packaged recipe, or the user's own file.

    Raises:
        ConfigError: There is no such recipe.
    """
    packaged = packaged_recipes()
    if name in packaged:
        return packaged[name]
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    raise unknown_choice("recipe", name, packaged)


def load_recipe(
    kind: type[Kind],
    name: str,
    overrides: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> Kind:
    """Load a recipe.

    Args:
        kind: What it describes.
        name: Packaged name or YAML file.
        overrides: ``key=value`` as text, from the command line.
        changes: Values by key, from Python.

    Raises:
        ConfigError: The recipe does not exist or holds something that is not allowed.
    """
    content = apply_overrides(read_yaml(find_recipe(name)), overrides)
    return build(kind, apply_changes(content, (changes or {}).items()), f"recipe {name}")
