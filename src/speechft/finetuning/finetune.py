"""Fine-tune an encoder on one or several tasks: stably, or as one of the baselines."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from speechft.cards.card import CARD_NAME
from speechft.console import is_main_process, log, warn
from speechft.encoders.base import Encoder
from speechft.encoders.load import load_encoder
from speechft.errors import ConfigError, TrainingError
from speechft.features.downsampler import DownsamplerCache
from speechft.finetuning.baselines import add_adapters, merge_adapters, save_adapters
from speechft.finetuning.cards import tuned_card
from speechft.finetuning.config import ADAPTER_FOLDER, PRETRAINING, FinetuningConfig, Strategy
from speechft.finetuning.continued import Continued
from speechft.finetuning.distributed import sharding_asked
from speechft.finetuning.dropout import check_layer_drop, set_dropout
from speechft.finetuning.layers import encoder_rates, transformer_layers
from speechft.finetuning.loop import train
from speechft.finetuning.memory import Limits, fit_batches
from speechft.finetuning.phases import head_only_updates
from speechft.finetuning.state import History, weights_of
from speechft.finetuning.trackers import check_trackers
from speechft.finetuning.training_setup import Corpora, SupervisedSetup, TrainingSetup
from speechft.storage.files import write_json, write_text
from speechft.storage.scratch import scratch_in
from speechft.tasks import find_task

__all__ = ["FinetuningConfig", "Strategy", "Tuned", "finetune", "finetune_encoder"]

_SHARDABLE = ("stable", "plain", "plain-cnn", "early-checkpoint", "early-decayed")


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning gives."""

    encoder: Path
    """Folder of the tuned encoder."""
    history: History
    dev: float
    """The task's metric of the selected step on dev, with the tuning head; for several tasks the
    mean of their metrics, error rates negative; NaN without a dev split."""


def finetune(
    config: FinetuningConfig,
    base: str | Path,
    corpus: Corpora,
    folder: Path,
    *,
    seed: int = 0,
    cache: DownsamplerCache | None = None,
) -> Tuned:
    """Fine-tune an encoder; resumable.

    Writes ``encoder/``, ``head.safetensors``, ``vocabulary.json`` and ``pipeline.json``, which
    `load_pipeline` reads (for several tasks one of each a task, ``head-pr.safetensors``),
    ``history.json`` and ``logs/``; ``adapter/`` where adapters were trained, as PEFT saves them.

    Args:
        config: Task, strategy, steps.
        base: The encoder to start from, as `load_encoder` takes it.
        corpus: A corpus whose tuning splits have the task's labels; or one for each task.
        folder: Where results and checkpoints go.
        seed: Seed of head, order and dropout.
        cache: Downsampler outputs to share with other stages.

    Raises:
        ConfigError: The configuration contradicts itself.
        DataError: The corpus lacks what the task needs.
        TrainingError: Training diverged.
    """
    if config.targets.source == "self":
        targets = config.targets.model_copy(update={"source": str(base)})
        config = config.model_copy(update={"targets": targets})
    encoder = load_encoder(base)
    about: Any = {"seed": seed, "cache": cache, "base": str(base)}
    tuned = finetune_encoder(encoder, config, corpus, folder, **about)
    if is_main_process():
        write_text(tuned.encoder / CARD_NAME, tuned_card(config, base, corpus, encoder, tuned.dev))
    return tuned


def finetune_encoder(
    encoder: Encoder,
    config: FinetuningConfig,
    corpus: Corpora,
    folder: Path,
    *,
    seed: int = 0,
    cache: DownsamplerCache | None = None,
    splits: tuple[str, str] | None = None,
    base: str | None = None,
) -> Tuned:
    """Fine-tune a loaded encoder, see `finetune`; ``splits`` overrides the tuning splits.

    ``base`` is what the encoder was loaded from, for an adapter to name.
    """
    with scratch_in(folder):
        return _finetune(encoder, config, corpus, folder, seed, cache, splits, base)


def _finetune(
    encoder: Encoder,
    config: FinetuningConfig,
    corpus: Corpora,
    folder: Path,
    seed: int,
    cache: DownsamplerCache | None,
    splits: tuple[str, str] | None,
    base: str | None,
) -> Tuned:
    if not any(True for _ in encoder.parameters()):
        raise TrainingError("these features have no weights to fine-tune")
    config = config.resolved()
    check_config(config)
    if head_only_updates(config.phases()) >= config.stop_after():
        warn(
            "the encoder never learns and will be exported as it was: finetuning.head_only "
            f"{config.head_only:g} leaves none of the {config.stop_after()} updates to it"
        )
    rates = set_dropout(encoder, config.dropout)
    kind: type[TrainingSetup] = Continued if _is_continued(config) else SupervisedSetup
    work = kind(encoder, config, corpus, folder, seed, cache, splits)
    accelerator, phases = work.accelerator, config.phases()
    if config.has_adapters():
        kinds = _adapt(encoder, config, seed)
        log(f"{config.strategy}: rank {config.adapter.rank} on {', '.join(kinds)}")
    work.objective.to(accelerator.device)
    record = folder / ".checkpoints" / "limits.json"
    limits = fit_batches(
        Limits.of(config), work.largest, work.objective, phases, accelerator, record
    )
    dataset, accumulation = work.dataset(limits)
    plain = copy.deepcopy(work.objective) if sharding_asked() else None
    what = f"{config.strategy} fine-tuning on {work.name}"
    history = train(
        work.objective,
        dataset,
        config.model_copy(update={"accumulation": accumulation}),
        phases,
        folder / ".checkpoints",
        accelerator=accelerator,
        seed=seed,
        rates=_rates(encoder, config),
        sharded=sharding_asked(),
        hooks=work.hooks(),
        stop_after=config.stop_after(),
        ema_decay=config.ema_decay if config.select == "ema" else None,
        logs=folder / "logs",
        description=what,
    )
    value = _dev_value(work, history, config)
    if plain is not None:
        weights = weights_of(work.objective)
        if accelerator.is_main_process:
            work.take(plain, weights)
    if config.has_adapters():
        if accelerator.is_main_process:
            save_adapters(encoder, folder / ADAPTER_FOLDER, base)
        merge_adapters(encoder)
    if accelerator.is_main_process:
        facts: dict[str, Any] = {
            "batch": asdict(limits),
            "dropout": rates,
            "strategy": config.strategy,
            "left_out": work.left_out,
        }
        facts["head_only"] = config.head_only
        work.write(folder)
        write_json(folder / "history.json", {**_readable(history), **facts})
    accelerator.wait_for_everyone()
    log(f"{what}: " + ("done, without a dev split" if math.isnan(value) else f"dev {value:.2f}"))
    return Tuned(folder / "encoder", history, value)


def _dev_value(work: TrainingSetup, history: History, config: FinetuningConfig) -> float:
    """Return the metric on dev of the weights that are exported; NaN where there is no dev."""
    if not work.has_dev():
        return float("nan")
    if config.select == "ema":  # of which no step was evaluated
        return work.evaluate()[work.metric]
    return history.final(work.metric)


def check_config(config: FinetuningConfig) -> None:
    """Refuse what contradicts itself before anything is read.

    Raises:
        ConfigError: An unknown task, a tracker that is unknown or not installed, or a strategy
            that does not go with the task or with FSDP.
    """
    check_trackers(config.trackers)
    check_layer_drop(config.dropout)
    for task in config.task_weights():
        if task != PRETRAINING:
            find_task(task, also=[PRETRAINING])
    if sharding_asked() and config.strategy not in _SHARDABLE:
        raise ConfigError(
            f"strategy {config.strategy} does not work with FSDP",
            hint="start without --use_fsdp; the models of this method fit one GPU",
        )
    if _is_continued(config) and config.strategy in ("l2sp", "distill"):
        raise ConfigError(
            f"strategy {config.strategy} is for tasks with labels, not for continued pre-training"
        )


def _is_continued(config: FinetuningConfig) -> bool:
    return config.task == PRETRAINING and not config.tasks


def _adapt(encoder: Encoder, config: FinetuningConfig, seed: int) -> list[str]:
    settings = config.adapter
    torch.manual_seed(seed)
    return add_adapters(
        encoder,
        transformer_layers(encoder),
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        targets=settings.targets,
        dora=config.strategy == "dora",
    )


def _rates(encoder: Encoder, config: FinetuningConfig) -> dict[str, float]:
    """Return the peak learning rates of the encoder where they are not those of the head."""
    rate = config.encoder_learning_rate
    if rate is None and config.layer_decay == 1.0:
        return {}
    found = encoder_rates(
        encoder, config.learning_rate if rate is None else rate, config.layer_decay
    )
    low, high = min(found.values()), max(found.values())
    log(f"learning rate: head {config.learning_rate:g}, encoder {low:g} to {high:g}")
    return {f"encoder.{name}": value for name, value in found.items()}


def _readable(history: History) -> dict[str, Any]:
    return {
        "losses": [round(loss, 5) for loss in history.losses],
        "evaluations": history.evaluations,
        "skipped": history.skipped,
        "hours_of_audio": round(history.seconds_of_audio / 3600, 4),
        "seconds": round(history.seconds, 1),
    }
