"""Self-supervised pre-training: masked prediction of clusters, as HuBERT does it."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechft import launcher
from speechft.cards.card import CARD_NAME
from speechft.console import log
from speechft.data.batching import BatchPlan, StepDataset, seed_of
from speechft.data.corpora import find_corpus
from speechft.data.kept_cuts import Cuts
from speechft.data.manifest import Corpus
from speechft.devices import pick_device
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.load import digest_of, load_encoder
from speechft.errors import DataError
from speechft.finetuning.cards import pretrained_card
from speechft.finetuning.clusters import load_source, make_targets, row_bytes
from speechft.finetuning.config import PretrainingConfig
from speechft.finetuning.distributed import (
    Group,
    make_accelerator,
    sharding_asked,
    shared_job,
)
from speechft.finetuning.dropout import check_layer_drop
from speechft.finetuning.loop import train
from speechft.finetuning.masked_prediction import HubertObjective, pad_clusters
from speechft.finetuning.phases import Phase
from speechft.finetuning.pretraining_data import Crops
from speechft.finetuning.state import History, weights_of
from speechft.runs import lock, stage
from speechft.storage.files import write_json, write_text
from speechft.storage.scratch import scratch_in


def pretrain_recipe(config: PretrainingConfig, folder: Path, *, dry_run: bool = False) -> None:
    """Pre-train by a recipe as a stage in a folder, with all processes; say before what it takes.

    Args:
        config: The recipe.
        folder: Where ``encoder`` and ``targets`` go.
        dry_run: Say it only.

    Raises:
        SpeechftError: Something is wrong with recipe, encoders or corpus.
    """
    given = {"start": config.start_from, "targets": config.targets.source}
    inputs = {name: digest_of(place) for name, place in given.items() if place is not None}
    with lock(folder):
        corpus = find_corpus(config.corpus, folder / "corpus")
    job: Any = {"name": "pretrain", "config": config.with_effect()}
    job["inputs"] = {**inputs, "corpus": corpus.digest}
    if dry_run:
        _say_outline(config, corpus)
        return
    with stage(folder, outputs=("encoder", "targets"), costly=True, **job) as work:
        if not work.done:
            _say_outline(config, corpus)
            task: Any = {"config": config, "corpus": replace(corpus), "folder": work.scratch}
            with shared_job(task):
                pretrain(**task)


def pretrain(config: PretrainingConfig, corpus: Corpus, folder: Path) -> History:
    """Pre-train an encoder; resumable. Every process that takes part calls it.

    Writes ``encoder/`` (fp16 weights, card, loss curve) and ``targets/`` into ``folder``.

    Args:
        config: What to do.
        corpus: Where the speech is; recordings are expected to be clean if ``config.distort``.
        folder: Where results and checkpoints go; all processes see it.

    Raises:
        ConfigError: What is asked for does not go together.
        DataError: The corpus has no usable speech.
        RunError: The processes are not those that were asked for, or the disk is full.
    """
    with scratch_in(folder):
        return _pretrain(config, corpus, folder)


def _pretrain(config: PretrainingConfig, corpus: Corpus, folder: Path) -> History:
    check_layer_drop(config.dropout)
    settings = config.optimization
    accelerator = make_accelerator(settings.precision)
    cuts = _cuts(config, corpus)
    group = Group.of(accelerator)
    targets = make_targets(config.targets, cuts, folder / "targets", config.seed, group)
    encoder = make_encoder(config)
    encoder.set_dropout(config.dropout)
    if pick_device().type == "cpu":  # torch's fused attention is slow backwards on short sequences
        encoder.model.set_attn_implementation("eager")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "head"))
        objective = HubertObjective(
            encoder,
            config.targets.clusters,
            config.masking,
            config.head_dim,
            downsampler_gradient=config.downsampler_gradient,
            feature_penalty=config.feature_penalty,
        )
    whole = copy.deepcopy(objective) if sharding_asked() else objective
    plan = BatchPlan(
        cuts,
        seconds=settings.batch_seconds,
        utterances=settings.batch_utterances,
        seed=config.seed,
        rank=group.rank,
        world_size=group.size,
        max_duration=config.max_duration,
    )
    log(f"pre-training on {len(cuts)} utterances for {settings.steps} updates")
    crops = Crops(config, targets, encoder, cuts, plan)
    dataset = StepDataset(plan, target=crops.target, collate=pad_clusters, read=crops.read)
    history = train(
        objective,
        dataset,
        settings,
        [Phase(settings.steps, "everything")],
        folder / ".checkpoints",
        accelerator=accelerator,
        seed=config.seed,
        sharded=sharding_asked(),
        description="pre-training",
    )
    weights = weights_of(objective) if whole is not objective else {}
    if group.is_first:
        if weights:
            whole.load_state_dict(weights)
        _write(config, corpus, history, whole.encoder, folder / "encoder")
    accelerator.wait_for_everyone()
    return history


def outline(config: PretrainingConfig, corpus: Corpus, processes: int = 1) -> list[str]:
    """Return what a pre-training is going to do and what it takes, a fact a line.

    Nothing is read but statistics of the corpus and the encoders that it starts from.

    Raises:
        CheckpointError: An encoder cannot be used.
        DataError: The corpus lacks a split, or the encoder a layer.
    """
    known = [corpus.statistics[split] for split in _existing(config, corpus)]
    utterances, hours = (sum(split[key] for split in known) for key in ("utterances", "hours"))
    if config.utterances is not None and config.utterances < utterances:
        hours *= config.utterances / utterances
        utterances = config.utterances
    settings, targets = config.optimization, config.targets
    source, encoder = load_source(targets), make_encoder(config)
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    frames = int(hours * 3600 * source.frame_rate)
    update = settings.batch_seconds * settings.accumulation * processes
    heard = update * settings.steps / 3600
    sample = min(frames, targets.fit_frames) * row_bytes(source.dim)
    begin = "fresh weights" if config.start_from is None else config.start_from
    return [
        config.title,
        f"speech: {utterances} utterances, {hours:.1f} h, of {corpus.name}",
        f"encoder: {weights / 1e6:.1f} M parameters, from {begin}",
        f"targets: {targets.clusters} clusters of {targets.source}, hidden state {targets.layer}; "
        f"{2 * frames / 1e6:.1f} MB, and {sample / 1e9:.2f} GB of frames while they are made",
        f"updates: {settings.steps} of at most {update:g} s on {processes} processes: at most "
        f"{heard:.0f} h, {heard / max(hours, 1e-9):.1f} times the speech",
        f"checkpoints: {settings.keep} of {12 * weights / 1e9:.2f} GB, every "
        f"{settings.checkpoint_every} updates",
    ]


def _say_outline(config: PretrainingConfig, corpus: Corpus) -> None:
    with torch.random.fork_rng(devices=[]):  # what is drawn on the way is not missing later
        lines = outline(config, corpus, launcher.size())
    for line in lines:
        log(line)


def curve(history: History, points: int = 200) -> dict[str, Any]:
    """Return the loss curve, averaged to at most ``points`` points, with hours heard."""
    losses = np.array(history.losses)
    parts = np.array_split(losses, min(points, max(1, len(losses))))
    hours = history.seconds_of_audio / 3600
    return {
        "hours_heard": round(hours, 3),
        "steps": len(losses),
        "loss": [round(float(np.nanmean(part)), 4) for part in parts],
    }


def _write(
    config: PretrainingConfig, corpus: Corpus, history: History, encoder: Any, folder: Path
) -> None:
    """Write an encoder with its weights rounded to float16, its curve and its card."""
    copy.deepcopy(encoder).half().save(folder)
    write_json(folder / "curve.json", curve(history))
    write_text(folder / CARD_NAME, pretrained_card(config, corpus, history, encoder))


def _existing(config: PretrainingConfig, corpus: Corpus) -> tuple[str, ...]:
    for name in config.splits:
        if name not in corpus.statistics:
            raise DataError(
                f"corpus {corpus.name} has no split {name!r}; it has: "
                f"{', '.join(corpus.statistics)}",
                hint="name one or several of these as split",
            )
    return config.splits


def _cuts(config: PretrainingConfig, corpus: Corpus) -> Cuts:
    parts = [corpus.cuts(name) for name in _existing(config, corpus)]
    cuts = parts[0] if len(parts) == 1 else Cuts.of(itertools.chain.from_iterable(parts))
    return cuts[: config.utterances]


def make_encoder(config: PretrainingConfig) -> HuggingFaceEncoder:
    """Load the encoder that a pre-training starts from, or draw its weights.

    Raises:
        DataError: It has no weights.
    """
    if config.start_from is not None:
        encoder = load_encoder(config.start_from)
        if not isinstance(encoder, HuggingFaceEncoder):
            raise DataError(f"{config.start_from} has no weights to train")
        return encoder
    from transformers import HubertConfig, HubertModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "weights"))
        return HuggingFaceEncoder(HubertModel(HubertConfig(**config.architecture)))
