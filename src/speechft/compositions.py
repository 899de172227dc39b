"""From a base to a tuned and merged encoder: one task, several at once, averaged, in sequence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechft.config import build
from speechft.data.manifest import Corpus
from speechft.encoders.load import digest_of, resolve_encoder
from speechft.errors import ConfigError
from speechft.features.extract import DownsamplerCache
from speechft.files import read_json
from speechft.finetuning.config import PRETRAINING, FinetuningConfig, Strategy
from speechft.finetuning.distributed import shared_job
from speechft.finetuning.finetune import check_config, finetune
from speechft.merging import merge
from speechft.recipe import Recipe
from speechft.runs import stage
from speechft.tasks.base import file_name


@dataclass(frozen=True)
class Models:
    """What a composition makes."""

    base: str | Path
    """What the merges start from, theta_0: the recipe's encoder, or in a sequence the merged one of
    the task before the last."""
    tuned: Path
    """The tuned encoder, theta'; of several that are merged together, their merge at alpha 1."""
    merged: Mapping[float, Path]
    """By coefficient."""
    histories: Mapping[str, Mapping[str, Any]]
    """What happened in each fine-tuning, by strategy, and task where there are several."""


@dataclass
class Composer:
    """Runs fine-tuning and merging stages below one folder.

    Args:
        recipe: What to do.
        corpora: Corpus by task; ``*`` serves the tasks that have none of their own.
        folder: Stages go into ``finetuning/`` and ``merging/`` below it.
        cache: Downsampler outputs that all stages share.
    """

    recipe: Recipe
    corpora: Mapping[str, Corpus]
    folder: Path
    cache: DownsamplerCache = field(default_factory=DownsamplerCache)

    def compose(self, strategy: Strategy, alphas: Sequence[float] = ()) -> Models:
        """Make the encoders of a strategy.

        * ``single``: tune on one task, or on several at once, then merge.
        * ``average`` and ``ties``: tune on each task from the same base; merge all task vectors.
        * ``sequential``: tune, merge with the recipe's alpha, and go on from the merged encoder;
          ``alphas`` are those of the last merge.

        Source: Speech-FT (arXiv 2502.12672), multi-task experiments.
        """
        config = self.recipe.finetuning.model_copy(update={"strategy": strategy})
        kind = self.recipe.composition.kind
        if kind == "sequential":
            return self._sequential(config, alphas)
        if kind in ("average", "ties"):
            return self._together(config, alphas)
        tuned = self._tune(config, self.recipe.encoder, strategy)
        history = {str(strategy): read_json(tuned.parent / "history.json")}
        base = self.recipe.encoder
        merged = {a: self._merge(base, [tuned], a, "") for a in alphas}
        return Models(base, tuned, merged, history)

    def _together(self, config: FinetuningConfig, alphas: Sequence[float]) -> Models:
        base, strategy = self.recipe.encoder, config.strategy
        tuned = {
            task: self._tune(self._for(config, task), base, f"{strategy}/{file_name(task)}")
            for task in self.recipe.composition.tasks
        }
        merged = {
            alpha: self._merge(base, list(tuned.values()), alpha, strategy)
            for alpha in {*alphas, 1.0}
        }
        histories = {
            f"{strategy} on {task}": read_json(path.parent / "history.json")
            for task, path in tuned.items()
        }
        return Models(base, merged[1.0], {alpha: merged[alpha] for alpha in alphas}, histories)

    def _sequential(self, config: FinetuningConfig, alphas: Sequence[float]) -> Models:
        base, strategy = str(self.recipe.encoder), config.strategy
        tasks, histories = self.recipe.composition.tasks, {}
        for number, task in enumerate(tasks, 1):
            place = f"{strategy}/{number}-{file_name(task)}"
            tuned = self._tune(self._for(config, task), base, place)
            histories[f"{strategy} on {task}"] = read_json(tuned.parent / "history.json")
            if number < len(tasks):
                base = str(self._merge(base, [tuned], self.recipe.merging.alpha, place))
        merged = {alpha: self._merge(base, [tuned], alpha, place) for alpha in alphas}
        return Models(base, tuned, merged, histories)

    def _for(self, config: FinetuningConfig, task: str) -> FinetuningConfig:
        """Return the fine-tuning of one of several tasks."""
        changes = self.recipe.composition.overrides.get(task, {})
        content = {**config.as_dict(), "task": task, "tasks": {}, **changes}
        return build(FinetuningConfig, content, f"composition.overrides of {task}")

    def plans(self, strategy: Strategy) -> list[FinetuningConfig]:
        """Return every fine-tuning that a strategy takes."""
        config = self.recipe.finetuning.model_copy(update={"strategy": strategy})
        if self.recipe.composition.kind == "single":
            return [config]
        return [self._for(config, task) for task in self.recipe.composition.tasks]

    def _tune(self, config: FinetuningConfig, base: str, place: str) -> Path:
        return self.tune(config, base, self.folder / "finetuning" / place)

    def tune(self, config: FinetuningConfig, base: str, folder: Path) -> Path:
        """Run one fine-tuning as a stage in a folder; returns the tuned encoder's."""
        names = list(config.task_weights())
        corpora = {name: self.corpora.get(name, self.corpora["*"]) for name in names}
        digests = {name: corpus.digest for name, corpus in corpora.items()}
        same = len(set(digests.values())) == 1
        corpus: Any = next(iter(corpora.values())) if same else corpora
        settings = {"finetuning": config.with_effect(), "seed": self.recipe.seed}
        inputs = {"encoder": digest_of(base)}
        if config.task == PRETRAINING and config.targets.source != "self":
            inputs["targets"] = digest_of(config.targets.source)
        inputs |= (
            {"corpus": corpus.digest} if same else {f"corpus {n}": d for n, d in digests.items()}
        )
        with stage(folder, name="finetune", config=settings, inputs=inputs) as work:
            if not work.done:
                job = {"config": config, "base": base, "corpus": corpus, "folder": work.scratch}
                job["seed"] = self.recipe.seed
                with shared_job({**job, "corpus": _light(corpus)}):
                    finetune(**job, cache=self.cache)
        return folder / "encoder"

    def _merge(self, base: str, tuned: Sequence[Path], alpha: float, place: str) -> Path:
        composition = self.recipe.composition
        method = "ties" if composition.kind == "ties" else "linear"
        folder = self.folder / "merging" / place / f"alpha-{alpha:g}"
        inputs = {"base": digest_of(base)}
        inputs |= {f"tuned{n or ''}": digest_of(path) for n, path in enumerate(tuned)}
        settings: dict[str, Any] = {"alpha": alpha}
        if method != "linear":
            settings |= {"method": method, **composition.options}
        with stage(folder, name="merge", config=settings, inputs=inputs) as work:
            if not work.done:
                out = work.scratch / "encoder"
                merge(resolve_encoder(base), list(tuned), out=out, **settings)
        return folder / "encoder"


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe whose fine-tunings cannot be run, before anything is.

    Raises:
        ConfigError: Too few tasks, a key for a task that is not among them, or a fine-tuning that
            contradicts itself.
    """
    _check_tasks(recipe)
    composer = Composer(recipe, {}, Path())
    for strategy in dict.fromkeys((recipe.finetuning.strategy, *recipe.baselines)):
        plans = composer.plans(strategy)
        for config in plans:
            check_config(config)
        known = {task for config in plans for task in config.task_weights()}
        for task in recipe.data.corpora:
            if task not in known:
                raise ConfigError(
                    f"data.corpora: task {task!r} is not tuned on; tasks are: "
                    f"{', '.join(sorted(known))}"
                )


def _check_tasks(recipe: Recipe) -> None:
    """Refuse a composition with too few tasks, or with keys for others."""
    composition = recipe.composition
    if composition.kind == "single":
        if composition.tasks or composition.overrides:
            raise ConfigError(
                "composition.tasks is for average, ties and sequential",
                hint="set composition.kind, or finetuning.tasks to tune on several tasks at once",
            )
        return
    if len(composition.tasks) < 2:
        raise ConfigError(f"composition.kind={composition.kind} needs at least two tasks")
    for task in composition.overrides:
        if task not in composition.tasks:
            raise ConfigError(
                f"composition.overrides: task {task!r} is not among composition.tasks: "
                f"{', '.join(composition.tasks)}"
            )


def _light(corpus: Any) -> Any:
    """Return corpora without the manifests that were read already."""
    if isinstance(corpus, Corpus):
        return dataclasses.replace(corpus)
    return {name: dataclasses.replace(one) for name, one in corpus.items()}
