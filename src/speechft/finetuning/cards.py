"""Cards of encoders that were trained here: fine-tuned, or pre-trained."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from speechft.cards.card import Card, Origin, encoder_origin
from speechft.commands import typed_command
from speechft.data.corpora import hub_dataset
from speechft.data.manifest import Corpus
from speechft.encoders.base import Encoder
from speechft.encoders.load import FEATURES, digest_of, resolve_encoder
from speechft.finetuning.config import FinetuningConfig, PretrainingConfig
from speechft.finetuning.state import History
from speechft.finetuning.training_setup import Corpora
from speechft.naming import public_name


def tuned_card(
    config: FinetuningConfig, base: str | Path, corpus: Corpora, encoder: Encoder, dev: float
) -> str:
    """Return the card of a fine-tuned encoder.

    Args:
        config: What was done.
        base: What it started from.
        corpus: What it heard: one corpus, or one a task.
        encoder: It.
        dev: The figure of the tuning head on dev; NaN where there is none.
    """
    heard = [corpus] if isinstance(corpus, Corpus) else list(corpus.values())
    tasks = ", ".join(config.task_weights())
    facts = [("strategy", config.strategy), ("tasks", tasks), ("updates", str(config.stop_after()))]
    if not math.isnan(dev):
        facts.append(("of the tuning head on dev", f"{dev:.2f}"))
    return Card(
        title=f"Speech encoder fine-tuned on {tasks}",
        summary="All weights of the encoder after fine-tuning by `speechft`; the head that it was "
        "tuned with is not part of it.",
        encoders=(_started(base),),
        speech=tuple(speech_origin(one) for one in {c.digest: c for c in heard}.values()),
        relation="finetune",
        facts=tuple(facts),
        tags=("speech-ft",),
        auto_model=_auto_model(encoder),
        command=typed_command(),
    ).text()


def pretrained_card(
    config: PretrainingConfig, corpus: Corpus, history: History, encoder: Encoder
) -> str:
    """Return the card of a pre-trained encoder; one that started from another is tuned from it."""
    targets, known = config.targets, [corpus.statistics[split] for split in config.splits]
    spoken, speakers = (sum(split[key] for split in known) for key in ("hours", "speakers"))
    layer = "" if targets.source in FEATURES else f", hidden state {targets.layer}"
    start, made_of = config.start_from, []
    if start is not None:
        made_of.append(_started(start))
    if targets.source not in FEATURES and targets.source != start:
        made_of.append(replace(_origin("targets", targets.source), is_base=False))
    hours = history.seconds_of_audio / 3600
    return Card(
        title=config.title,
        summary="Pre-trained by `speechft pretrain`: masked prediction of clusters (HuBERT, arXiv "
        "2106.07447). Weights are stored in float16 and computed in float32; `curve.json` holds "
        "the loss over the updates.",
        encoders=tuple(made_of),
        speech=(speech_origin(corpus),),
        relation=None if start is None else "finetune",
        facts=(
            ("speech", f"{spoken:.1f} h, {speakers} speakers"),
            ("started from", "fresh weights" if start is None else public_name(start)),
            ("targets", f"{targets.clusters} clusters of {public_name(targets.source)}{layer}"),
            ("heard", f"{hours:.1f} h in {len(history.losses)} updates"),
            ("seed", str(config.seed)),
        ),
        tags=("self-supervised",),
        auto_model=_auto_model(encoder),
        command=typed_command(),
    ).text()


def speech_origin(corpus: Corpus) -> Origin:
    """Return what a card says about a corpus: its name, digest and terms."""
    terms = corpus.info.get("licence")
    known = hub_dataset(corpus)
    licence = terms if isinstance(terms, str) and terms else None
    return Origin("speech", corpus.name, corpus.digest, licence, (known,) if known else ())


def _started(place: str | Path) -> Origin:
    return _origin("started from", place)


def _origin(role: str, place: str | Path) -> Origin:
    found = resolve_encoder(place)
    return encoder_origin(role, place, digest_of(place), found if found.is_dir() else None)


def _auto_model(encoder: Encoder) -> bool:
    family = getattr(encoder, "family", None)
    return family is not None and bool(family.auto_model)
