"""Who speaks: voice variants, accents and speakers, partitioned into pools that share nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from speechft.data.corpora.synthetic.espeak import Prosody

VoicePool = Literal["pretrain", "seen", "unseen-dev", "unseen-test", "new"]

_NOT_HUMAN = ("robot", "robosoft", "Robot", "Demonic", "fast", "whisper", "croak")
_CRASHING = ("Annie", "rob", "robert", "shelby")
"""Variants with so wide a pitch that espeak-ng 1.52 crashes on lively speech."""

_POOL_SHARES: dict[VoicePool, int] = {
    "pretrain": 40,
    "seen": 18,
    "unseen-dev": 6,
    "unseen-test": 10,
    "new": 10,
}
"""Number of espeak variants in each pool."""

TASK_ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-us-nyc")
PRETRAIN_ACCENTS = ("en", "en-gb-scotland", "en-029", "en-gb-x-gbclan")
OTHER_LANGUAGES = ("de", "es", "fr", "it", "nl", "pl", "fi", "sv", "pt", "tr", "id", "sw")

STYLES = ("neutral", "monotone", "lively", "hurried", "drawl")
FREE = "free"
"""No style: range and rate of the voice are drawn anew for every utterance."""


@dataclass(frozen=True)
class Speaker:
    """One synthetic voice; everything here stays the same from utterance to utterance."""

    name: str
    variant: str
    accent: str
    pitch: int
    rate: int
    warp: float
    """Scale of formants, pitch and tempo, 0.88 to 1.14 (length of the vocal tract)."""


def variant_pool(pool: VoicePool, variants: tuple[str, ...]) -> list[str]:
    """Return the espeak variants of one pool; pools are disjoint."""
    human = [
        name
        for name in variants
        if name not in _CRASHING and not any(mark in name for mark in _NOT_HUMAN)
    ]
    order = np.random.default_rng(20250218).permutation(len(human))
    start = 0
    for name, share in _POOL_SHARES.items():
        if name == pool:
            return [human[i] for i in order[start : start + share]]
        start += share
    raise KeyError(pool)


def make_speakers(pool: VoicePool, count: int, variants: tuple[str, ...]) -> list[Speaker]:
    """Return the first ``count`` speakers of a pool; a larger count only adds speakers."""
    names = variant_pool(pool, variants)
    accents = PRETRAIN_ACCENTS if pool == "pretrain" else TASK_ACCENTS
    speakers = []
    for index in range(count):
        rng = np.random.default_rng([41, list(_POOL_SHARES).index(pool), index])
        speakers.append(
            Speaker(
                name=f"{pool}-{index:03d}",
                variant=names[index % len(names)],
                accent=accents[int(rng.integers(len(accents)))],
                pitch=int(rng.integers(30, 71)),
                rate=int(rng.integers(180, 216)),
                warp=float(rng.uniform(0.88, 1.14)),
            )
        )
    return speakers


def prosody(speaker: Speaker, style: str, rng: np.random.Generator) -> Prosody:
    """Return how a speaker says one utterance in a style.

    Pitch and rate are jittered per utterance by more than speakers differ in them, so that
    neither alone tells who speaks or how.
    """
    rate = speaker.rate * rng.uniform(0.82, 1.22)
    pitch = speaker.pitch + rng.uniform(-16, 16)
    if style == FREE:
        return Prosody(
            rate=round(np.clip(rate * rng.uniform(0.76, 1.38), 90, 380)),
            pitch=round(np.clip(pitch, 5, 95)),
            range=int(rng.integers(0, 83)),
            word_gap=int(rng.integers(0, 5)),
        )
    pitch_range = {"monotone": 4, "lively": 78}.get(style, 42) + rng.uniform(-4, 4)
    rate *= {"hurried": 1.38, "drawl": 0.76}.get(style, 1.0)
    gap = int(rng.integers(3, 8)) if style == "drawl" else int(rng.integers(0, 2))
    return Prosody(
        rate=round(np.clip(rate, 90, 380)),
        pitch=round(np.clip(pitch, 5, 95)),
        range=round(np.clip(pitch_range, 0, 99)),
        word_gap=gap,
    )
