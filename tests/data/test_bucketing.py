"""Batches from durations alone are those of lhotse's bucketing sampler."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest
from lhotse import CutSet, MonoCut
from lhotse.dataset.sampling import BucketingSampler, SimpleCutSampler

from speechft.data.bucketing import Batches, bucketed_batches


def of_lhotse(
    seconds: list[float], most: float, items: int, buckets: int, seed: int
) -> list[list[int]]:
    cuts = CutSet.from_cuts(MonoCut(str(n), 0.0, d, 0) for n, d in enumerate(seconds))
    limits = {"max_duration": most, "max_cuts": items, "shuffle": True, "seed": seed}
    limits |= {"drop_last": False, "rank": 0, "world_size": 1}
    if buckets == 1:
        sampler = SimpleCutSampler(cuts, **limits)
    else:
        sampler = BucketingSampler(
            cuts, sampler_type=SimpleCutSampler, num_buckets=buckets, **limits
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The first cut drawn", category=UserWarning)
        return [[int(cut.id) for cut in batch] for batch in sampler]


@pytest.mark.parametrize("trial", range(60))
def test_batches_are_those_of_lhotse(trial: int) -> None:
    rng = np.random.default_rng(trial)
    count = int(rng.integers(1, 400))
    kind = trial % 3
    drawn = rng.lognormal(1.0, 0.6, count) if kind else rng.integers(1, 8, count) / 2
    seconds = [float(round(d * 16_000) / 16_000) for d in drawn]
    if kind == 2:
        seconds[0] = 300.0  # longer than any batch
    most, items = float(rng.uniform(4, 60)), int(rng.integers(1, 12))
    buckets = int(rng.integers(1, 9))
    if buckets > 1 and len(set(seconds)) < 2 * buckets:
        buckets = 1
    asked = {"max_seconds": most, "max_items": items, "buckets": buckets, "seed": trial}
    found = [part.tolist() for part in bucketed_batches(np.array(seconds), **asked)]
    assert found == of_lhotse(seconds, most, items, buckets, trial)


def test_memory_of_an_epoch_hardly_grows_with_its_utterances() -> None:
    peaks = []
    for count in (2_000, 20_000):
        seconds = np.random.default_rng(0).uniform(1.0, 16.0, count)
        asked = {"max_seconds": 160.0, "max_items": 16, "buckets": 100, "seed": 0}
        list(bucketed_batches(seconds[:500], **asked))
        tracemalloc.start()
        Batches(bucketed_batches(seconds, **asked))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 64 * 18_000, "bytes an utterance; a cut takes thousands"
