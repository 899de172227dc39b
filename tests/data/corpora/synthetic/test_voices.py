"""Voices: pools share nothing, speakers stay when more are added, styles move the prosody."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest

from speechft.data.corpora.synthetic import SPECS
from speechft.data.corpora.synthetic.espeak import variants
from speechft.data.corpora.synthetic.voices import (
    _POOL_SHARES,
    OTHER_LANGUAGES,
    PRETRAIN_ACCENTS,
    STYLES,
    TASK_ACCENTS,
    VoicePool,
    make_speakers,
    prosody,
    variant_pool,
)

POOLS: tuple[VoicePool, ...] = get_args(VoicePool)


def test_pools_of_variants_are_disjoint_and_full() -> None:
    pools = {pool: set(variant_pool(pool, variants())) for pool in POOLS}
    for one, two in itertools.combinations(POOLS, 2):
        assert not pools[one] & pools[two], (one, two)
    assert {pool: len(names) for pool, names in pools.items()} == _POOL_SHARES
    assert set().union(*pools.values()) <= set(variants())


def test_machines_and_crashing_variants_do_not_speak() -> None:
    spoken = {name for pool in POOLS for name in variant_pool(pool, variants())}
    for name in spoken:
        assert "robo" not in name.lower()
        assert "whisper" not in name
    assert not spoken & {"Annie", "rob", "robert", "shelby"}


def test_accents_are_disjoint() -> None:
    groups = (TASK_ACCENTS, PRETRAIN_ACCENTS, OTHER_LANGUAGES)
    names = [name for group in groups for name in group]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("pool", POOLS)
def test_speakers_stay_the_same_when_the_count_grows(pool: VoicePool) -> None:
    few, many = make_speakers(pool, 5, variants()), make_speakers(pool, 60, variants())
    assert few == many[:5]
    assert len({speaker.name for speaker in many}) == 60
    assert {speaker.variant for speaker in many} == set(variant_pool(pool, variants()))
    accents = PRETRAIN_ACCENTS if pool == "pretrain" else TASK_ACCENTS
    assert {speaker.accent for speaker in many} == set(accents)
    for speaker in many:
        assert 0.88 <= speaker.warp <= 1.14


def test_no_speaker_is_another_speakers_twin() -> None:
    voices = [
        (s.variant, s.accent, s.pitch, s.rate, s.warp)
        for pool in POOLS
        for s in make_speakers(pool, 40, variants())
    ]
    assert len(set(voices)) == len(voices)


def test_styles_move_the_prosody_but_jitter_hides_the_speaker() -> None:
    rng = np.random.default_rng(0)
    speakers = make_speakers("seen", 32, variants())
    drawn = {
        style: [prosody(speaker, style, rng) for speaker in speakers for _ in range(10)]
        for style in STYLES
    }
    mean = {
        (style, field): np.mean([getattr(p, field) for p in drawn[style]])
        for style in STYLES
        for field in ("rate", "range", "word_gap")
    }
    assert mean["hurried", "rate"] > 1.2 * mean["neutral", "rate"]
    assert mean["drawl", "rate"] < 0.85 * mean["neutral", "rate"]
    assert mean["monotone", "range"] < 10 < 60 < mean["lively", "range"]
    assert mean["drawl", "word_gap"] > 3
    assert min(p.rate for p in drawn["hurried"]) < max(p.rate for p in drawn["neutral"])
    for style in STYLES:
        for p in drawn[style]:
            assert 90 <= p.rate <= 380
            assert 0 <= p.pitch <= 99
            assert 0 <= p.range <= 99
    jitter = np.std([prosody(speakers[0], "neutral", rng).pitch for _ in range(200)])
    assert jitter > 0.7 * np.std([speaker.pitch for speaker in speakers])


def test_test_speakers_were_never_heard_before() -> None:
    partitions = {p.name: p for p in SPECS["synthetic"].partitions}
    tuned = partitions["tune-train"].voices
    for name in ("dev-unseen", "test-unseen"):
        assert partitions[name].voices != tuned
    assert partitions["dev-unseen"].voices != partitions["test-unseen"].voices
    assert {p.voices for p in SPECS["synthetic-new-voices"].partitions} == {"new"}
    assert "new" not in {p.voices for p in partitions.values()}
    assert {p.voices for p in SPECS["synthetic-pretrain"].partitions} == {"pretrain"}
