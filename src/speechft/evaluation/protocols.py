"""Evaluation protocols: how probes are trained for each task, and where that is not s3prl's way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speechft.evaluation.config import ProbeConfig
from speechft.tasks.base import Task

Protocol = dict[str, ProbeConfig]
"""Settings by task; ``frame`` and ``utterance`` hold for the tasks that are not named."""

_NEVER = 1_000_000


def _default(*rates: float, **changes: Any) -> ProbeConfig:
    fields: dict[str, Any] = {"batch": 32, "epochs": 200, "patience": 10, "halve_at": ()}
    return ProbeConfig(learning_rates=rates, **{**fields, **changes})


def _s3prl(rate: float, batch: int, steps: int, every: int, **changes: Any) -> ProbeConfig:
    return ProbeConfig(
        learning_rates=(rate,),
        extend=0,
        batch=batch,
        epochs=_NEVER,
        steps=steps,
        evaluate_steps=every,
        patience=_NEVER,
        halve_at=(),
        **changes,
    )


_POOLED_RATES = (1e-4, 1e-3, 1e-2, 1e-1)
_RECURRENT: dict[str, Any] = {"hidden": 1024, "units": (1024, 1024), "spec_augment": True}

_BRIEF = ProbeConfig(
    learning_rates=(3e-3, 1e-2),
    extend=0,
    units=(96,),
    batch=16,
    epochs=24,
    patience=3,
    halve_at=(3,),
)

PROTOCOLS: dict[str, Protocol] = {
    "mini": {
        "frame": ProbeConfig(
            learning_rates=(3e-3, 1e-2, 3e-2), batch=16, epochs=40, patience=4, halve_at=(2, 4)
        ),
        "utterance": ProbeConfig(
            learning_rates=(1e-2, 3e-2, 1e-1), batch=64, epochs=80, patience=8, halve_at=(10, 20)
        ),
        "asr": _BRIEF,
        "sf": _BRIEF,
        "sd": ProbeConfig(
            learning_rates=(1e-3, 3e-3, 1e-2),
            extend=1,
            units=(96,),
            batch=16,
            epochs=30,
            patience=4,
            halve_at=(4, 8),
        ),
        "asv": ProbeConfig(
            learning_rates=(1e-3, 3e-3),
            extend=1,
            hidden=128,
            units=(256,),
            batch=32,
            epochs=24,
            patience=4,
            halve_at=(4,),
            frames=100,
        ),
        "ks": ProbeConfig(
            learning_rates=(1e-2, 3e-2, 1e-1),
            batch=64,
            epochs=80,
            patience=8,
            halve_at=(10, 20),
            crop_seconds=1.0,
            crop_dev=True,
        ),
    },
    "default": {
        "frame": _default(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, hidden=256, batch=16),
        "utterance": _default(*_POOLED_RATES, hidden=256, patience=20),
        "asr": _default(1e-4, 3e-4, 1e-3, epochs=120, patience=6, **_RECURRENT),
        "sf": _default(1e-4, 3e-4, 1e-3, epochs=120, patience=6, **_RECURRENT),
        "sd": _default(1e-4, 3e-4, 1e-3, 3e-3, units=(512,), epochs=60),
        "asv": _default(
            3e-5, 1e-4, 3e-4, hidden=512, units=(1500,), batch=50, clip=1e3, frames=400, epochs=100
        ),
        "ks": _default(
            *_POOLED_RATES, hidden=256, patience=20, crop_seconds=1.0, crops=16, crop_dev=True
        ),
    },
    "s3prl": {
        "frame": _s3prl(1e-2, 32, 100_000, 1000, hidden=256),
        "utterance": _s3prl(1e-4, 32, 200_000, 5000, hidden=256),
        "asr": _s3prl(1e-4, 16, 200_000, 2000, **_RECURRENT),
        "sf": _s3prl(1e-4, 32, 200_000, 2000, **_RECURRENT),
        "sd": _s3prl(1e-4, 32, 30_000, 500, units=(512,)),
        "sid": _s3prl(1e-4, 32, 200_000, 5000, hidden=256, crop_seconds=8.0, crops=47),
        "er": _s3prl(1e-4, 32, 30_000, 1000, hidden=256),
        "asv": _s3prl(1e-4, 50, 200_000, 10_000, hidden=512, units=(1500,), clip=1e3, frames=400),
        "ks": _s3prl(
            1e-4, 32, 200_000, 5000, hidden=256, crop_seconds=1.0, crops=112, crop_dev=True
        ),
    },
}
"""Probe settings by protocol.

``default``: SUPERB's heads, right and reproducible: a grid of learning rates chosen on dev, whole
utterances, trained until dev stops improving. ``s3prl``: its step counts, batches, fixed learning
rate, end of the sequence in CTC targets, and recorded random crops. ``mini``: smaller heads and
successive halving, for quick looks (after MiniSUPERB, Wang et al. 2023, arXiv 2305.19011)."""

_DIFFERENCES: dict[str, dict[str, str]] = {
    "mini": {
        "*": "heads are smaller than SUPERB's; not comparable with published figures",
    },
    "default": {
        "*": "learning rate chosen on dev; s3prl fixes one",
        "sid": "whole utterances; s3prl trains on random crops of 8 s",
        "ks": "16 recorded crops of every noise file; s3prl draws crops anew, for dev as well",
        "asv": "chosen on dev trials; s3prl reports the best checkpoint on test. No SoX gain, no "
        "silence removal. Windows of 8 s are cut from the features of the whole utterance",
        "sd": "threshold and median filter chosen on dev; s3prl chooses them on test. Turns that "
        "cover a whole chunk count",
        "pr": "no end of the sequence in targets; decoding stops at the utterance's length",
        "sf": "slots on punctuation keep their borders",
        "er": "folds and their dev part as the corpus names them",
    },
    "s3prl": {
        "*": "evaluations on dev every 500 to 10,000 updates, not at s3prl's own steps",
        "sid": "crops of 8 s from a recorded list, 47 of every utterance, one an epoch",
        "ks": "crops of 1 s from a recorded list, 112 of every noise file, one an epoch",
        "asv": "no SoX gain and no silence removal; files of 2 s and less are not dropped; the "
        "best checkpoint is that on dev trials",
        "sd": "threshold and median filter chosen on dev, not on test",
        "er": "folds and their dev part as the corpus names them: prepare IEMOCAP with s3prl's "
        "metadata for its order",
        "asr": "batches of 16, as s3prl's length rule makes of 32",
        "sf": "slots on punctuation keep their borders",
    },
}


def settings_of(protocol: str, task: Task) -> ProbeConfig:
    """Return how a protocol trains a task's probes."""
    settings = PROTOCOLS[protocol]
    return settings.get(task.name, settings[task.level])


def differences(protocol: str, task: Task) -> list[str]:
    """Return in words where a protocol is not what s3prl does for a task."""
    notes = _DIFFERENCES.get(protocol, {})
    return [notes[key] for key in ("*", task.name) if key in notes]


def protocol_notes(protocol: str, tasks: Sequence[Task]) -> dict[str, list[str]]:
    """Return every note of `differences` with the tasks that it is about."""
    notes: dict[str, list[str]] = {}
    for task in tasks:
        for note in differences(protocol, task):
            notes.setdefault(note, []).append(task.name)
    return notes
