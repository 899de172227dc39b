"""From a base to a tuned and merged encoder: one task, several at once, averaged, in sequence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechft.config import build
from speechft.data.found_again import CORPORA_FILE, write_corpora
from speechft.data.manifest import Corpus
from speechft.encoders.load import digest_of, resolve_encoder
from speechft.errors import ConfigError
from speechft.features.downsampler import DownsamplerCache
from speechft.finetuning.config import ADAPTER_FOLDER, PRETRAINING, FinetuningConfig, Strategy
from speechft.finetuning.distributed import shared_job
from speechft.finetuning.finetune import check_config, finetune
from speechft.merging.config import MergeSettings
from speechft.merging.execution import check_base, write_merge
from speechft.recipe import Recipe
from speechft.runs import stage
from speechft.storage.files import read_json
from speechft.tasks.base import file_name


@dataclass(frozen=True)
class Models:
    """What a composition makes."""

    base: str | Path
    """What the merges start from, theta_0: the recipe's encoder, or in a sequence the merged one of
    the task before the last."""
    tuned: Path
    """The tuned encoder, theta'; of several that are merged together, their merge at alpha 1."""
    merged: Mapping[float | None, Path]
    """By coefficient; None with a method that finds it itself."""
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

    def compose(self, strategy: Strategy, alphas: Sequence[float | None] = ()) -> Models:
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
        place = "" if strategy == self.recipe.finetuning.strategy else str(strategy)
        merged = {a: self._merge(base, [tuned], a, place) for a in alphas}
        return Models(base, tuned, merged, history)

    def _together(self, config: FinetuningConfig, alphas: Sequence[float | None]) -> Models:
        base, strategy = self.recipe.encoder, config.strategy
        tuned = {
            task: self._tune(self._for(config, task), base, f"{strategy}/{file_name(task)}")
            for task in self.recipe.composition.tasks
        }
        paths = list(tuned.values())
        whole = self._merge_whole(base, paths, strategy)
        merged = {alpha: self._merge(base, paths, alpha, strategy) for alpha in alphas}
        histories = {
            f"{strategy} on {task}": read_json(path.parent / "history.json")
            for task, path in tuned.items()
        }
        return Models(base, whole, merged, histories)

    def _sequential(self, config: FinetuningConfig, alphas: Sequence[float | None]) -> Models:
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
        job: Any = {"name": "finetune", "config": settings, "inputs": inputs}
        outputs = ("encoder", "history.json", *([ADAPTER_FOLDER] if config.has_adapters() else []))
        with stage(folder, outputs=outputs, costly=True, **job) as work:
            if not work.done:
                task = {"config": config, "base": base, "corpus": corpus, "folder": work.scratch}
                task["seed"] = self.recipe.seed
                with shared_job({**task, "corpus": _light(corpus)}):
                    finetune(**task, cache=self.cache)
                write_corpora(work.scratch / CORPORA_FILE, corpora.values(), folder)
        return folder / "encoder"

    def _merge(self, base: str, tuned: Sequence[Path], alpha: float | None, place: str) -> Path:
        settings = merge_settings(self.recipe).only(alpha=alpha)
        name = settings.method if alpha is None else f"alpha-{alpha:g}"
        return self._run_merge(base, tuned, settings, self.folder / "merging" / place / name)

    def _merge_whole(self, base: str, tuned: Sequence[Path], place: str) -> Path:
        """Merge models that were tuned apart with nothing taken back: alpha is 1 everywhere.

        A method that sets alpha by tensor has no such end; the mean of the models stands for it.
        """
        settings = merge_settings(self.recipe)
        whole = (
            settings.only(alpha=1.0, rules={}) if settings.takes_rules else MergeSettings(alpha=1)
        )
        is_end = settings.takes_rules and not settings.rules
        folder = self.folder / "merging" / place / ("alpha-1" if is_end else "whole")
        return self._run_merge(base, tuned, whole, folder)

    def _run_merge(
        self, base: str, tuned: Sequence[Path], settings: MergeSettings, folder: Path
    ) -> Path:
        inputs = {"base": digest_of(base)}
        inputs |= {f"tuned{n or ''}": digest_of(path) for n, path in enumerate(tuned)}
        with stage(folder, name="merge", config=settings.changed(), inputs=inputs) as work:
            if not work.done:
                out = work.scratch / "encoder"
                write_merge(settings.of(resolve_encoder(base), list(tuned), out))
        return folder / "encoder"


def merge_settings(recipe: Recipe) -> MergeSettings:
    """Return how a recipe merges; a composition of kind ``ties`` brings the method and options.

    Raises:
        ConfigError: Composition and merging contradict each other.
    """
    merging, composition = recipe.merging, recipe.composition
    if composition.kind != "ties":
        if composition.options:
            raise ConfigError(
                f"composition.options is for kind ties, composition.kind is {composition.kind}",
                hint="set merging.method and merging.options",
            )
        return merging.only()
    if merging.method not in (MergeSettings.method, "ties"):
        raise ConfigError(
            f"composition.kind=ties merges with method ties, merging.method is {merging.method}",
            hint="set composition.kind=average to merge with merging.method",
        )
    twice = sorted(composition.options.keys() & merging.options.keys())
    if twice:
        raise ConfigError(f"{', '.join(twice)}: in composition.options and in merging.options")
    return merging.only(method="ties", options={**composition.options, **merging.options})


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe whose fine-tunings or merges cannot be run, before anything is.

    Raises:
        ConfigError: Too few tasks, a key for a task that is not among them, or a fine-tuning or
            merge that contradicts itself or does not fit the encoder.
    """
    _check_tasks(recipe)
    _check_merge(recipe)
    composer = Composer(recipe, {}, Path())
    for strategy in recipe.merged_at():
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


def _check_merge(recipe: Recipe) -> None:
    """Refuse a merge of so many models, or with settings that nothing in the encoder fits."""
    if recipe.merging.alpha is None and any(recipe.merged_at().values()):
        raise ConfigError(
            f"baselines: alpha is given, which method {recipe.merging.method!r} finds itself",
            hint="name the strategies alone, or set merging.method=linear",
        )
    settings, composition = merge_settings(recipe), recipe.composition
    together = composition.kind in ("average", "ties")
    settings.configured_method().check(len(composition.tasks) if together else 1)
    if settings.rules or settings.weight_norm != MergeSettings.weight_norm:
        check_base(settings, resolve_encoder(recipe.encoder))


def _light(corpus: Any) -> Any:
    """Return corpora without the manifests that were read already."""
    if isinstance(corpus, Corpus):
        return dataclasses.replace(corpus)
    return {name: dataclasses.replace(one) for name, one in corpus.items()}
