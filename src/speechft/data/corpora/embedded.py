"""Cards of the corpora without an archive: those that this package generates, and your own."""

from __future__ import annotations

from dataclasses import replace

from speechft.data.corpora.base import Card

_DEMO = Card(
    name="synthetic",
    title="embedded multi-speaker speech for the demo: speakers, styles, phones, intents",
    root="nothing",
    licence="no rights reserved; spoken by espeak-ng (a GPL-3 program)",
    hours="1.1 h",
    splits="tune-train, tune-dev, train, dev, dev-unseen, test, test-unseen",
    tasks=("pr", "asr", "sid", "ic", "pc", "style"),
    source="generated on first use",
)

CARDS = {
    card.name: card
    for card in (
        _DEMO,
        replace(
            _DEMO,
            name="synthetic-study",
            title="the same, three times as large, for gates, anchors and studies",
            hours="3.1 h",
        ),
        replace(
            _DEMO,
            name="synthetic-new-voices",
            title="embedded speech of 20 voices that nothing else uses",
            hours="0.3 h",
            splits="train, dev, test",
        ),
        replace(
            _DEMO,
            name="synthetic-archives",
            title="embedded speech for every SUPERB task: slots, keywords, emotions, mixtures with "
            "turns, queries, trials, five languages",
            hours="1.1 h",
            splits="train, dev, test, ic-*, sid-*, ks-*, sd-*, documents, *-queries, languages-*",
            tasks=("pr", "asr", "ks", "qbe", "sid", "asv", "sd", "er", "ic", "sf"),
        ),
        replace(
            _DEMO,
            name="synthetic-pretrain",
            title="embedded clean speech of 440 voices for pre-training",
            hours="30 h",
            splits="train",
            tasks=("pretrain",),
        ),
    )
}
"""By name; every spec of the synthetic corpus has one."""

GENERIC = Card(
    name="generic",
    title="your own: a CSV with path, split and any of start, end, text, phones, speaker, label; a "
    "Hugging Face audiofolder; or parquet with audio bytes",
    root="a CSV, an audiofolder, or parquet",
    licence="yours",
    hours="any",
    splits="as named",
    tasks=("pr", "asr", "sid", "ic", "ks", "er", "label"),
    source="your own recordings",
)

HUB = Card(
    name="hf",
    title="any data set of the Hugging Face hub that holds audio, streamed: hf:OWNER/NAME:CONFIG",
    root="nothing",
    licence="as its card on the hub says",
    hours="any",
    splits="train, dev, test of its own",
    tasks=("pr", "asr", "sid", "ic", "ks", "er", "label"),
    source="hf.co/datasets",
)
