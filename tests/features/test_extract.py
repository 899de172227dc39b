"""Extraction of pooled statistics and frames, and the cache of downsampler outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lhotse.cut import Cut

from helpers import cut_of, speech_encoder, tiny_encoder
from speechft.data.batching import PAD_TO
from speechft.data.manifest import Corpus, load_waveform
from speechft.encoders.mfcc import MfccEncoder
from speechft.features.downsampler import DownsamplerCache, downsampler_key
from speechft.features.extract import (
    batch_limits,
    downsample_all,
    extract,
    group_by_length,
)
from speechft.features.keeping import Features

CPU = torch.device("cpu")


@pytest.fixture
def cuts(tones: Corpus) -> list[Cut]:
    return list(tones.split("dev"))[:9]


def run(encoder: Any, cuts: list[Cut], **options: Any) -> Features:
    ids = frozenset(cut.id for cut in cuts)
    settings = {"frames": ids, "device": CPU, "precision": "fp32", **options}
    return extract(encoder, cuts, **settings)


def assert_same(first: Features, second: Features) -> None:
    assert first.pooled.keys() == second.pooled.keys()
    assert first.frames.keys() == second.frames.keys()
    for name, tensor in first.pooled.items():
        torch.testing.assert_close(tensor, second.pooled[name], atol=1e-5, rtol=0)
    for name, tensor in first.frames.items():
        torch.testing.assert_close(
            tensor.float(), second.frames[name].float(), atol=2e-3, rtol=1e-3
        )


@pytest.mark.parametrize("family", ["hubert", "wavlm"])
def test_features_are_those_of_each_utterance_alone(family: str, cuts: list[Cut]) -> None:
    encoder = speech_encoder(family)
    features = run(encoder, cuts)
    for cut in cuts:
        waveform = torch.from_numpy(load_waveform(cut))
        with torch.inference_mode():
            output = encoder(waveform[None], torch.tensor([len(waveform)]))
        states = output.hidden_states[:, 0]
        torch.testing.assert_close(features.pooled[cut.id], states.mean(1), atol=1e-5, rtol=0)
        kept = features.frames[cut.id]
        assert kept.dtype == torch.float16
        assert kept.shape == states.shape
        torch.testing.assert_close(kept.float(), states, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("seconds", [0.1, 2.0, 1000.0])
def test_batch_size_and_cache_do_not_matter(seconds: float, cuts: list[Cut]) -> None:
    encoder = tiny_encoder()
    expected = run(encoder, cuts)
    assert_same(run(encoder, cuts, batch_seconds=seconds), expected)
    cache = DownsamplerCache()
    assert_same(run(encoder, cuts, batch_seconds=seconds, cache=cache), expected)
    assert_same(run(encoder, cuts, batch_seconds=1.5, cache=cache), expected)


def test_frames_are_kept_only_where_asked(cuts: list[Cut]) -> None:
    features = run(tiny_encoder(), cuts, frames=frozenset({cuts[2].id}))
    assert list(features.frames) == [cuts[2].id]
    assert len(features.pooled) == len(cuts)


def test_cached_outputs_are_used(cuts: list[Cut], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, cache = tiny_encoder(), DownsamplerCache()
    run(encoder, cuts, cache=cache)

    def refuse(*_: object) -> None:
        raise AssertionError("the downsampler ran again")

    twin = tiny_encoder()
    with torch.no_grad():
        twin.model.encoder.layer_norm.weight.mul_(2)  # another encoder on the same downsampler
    expected = run(twin, cuts)
    monkeypatch.setattr(twin, "downsample", refuse)
    assert_same(run(twin, cuts, cache=cache), expected)


def test_another_downsampler_does_not_hit_the_cache(cuts: list[Cut]) -> None:
    cache = DownsamplerCache()
    run(tiny_encoder(), cuts, cache=cache)
    other = tiny_encoder(seed=1)
    assert_same(run(other, cuts, cache=cache), run(other, cuts))


def test_key_follows_weights_settings_and_precision() -> None:
    encoder = tiny_encoder()
    key = downsampler_key(encoder)
    assert key == downsampler_key(tiny_encoder())
    assert key != downsampler_key(encoder, "bf16")
    assert key != downsampler_key(tiny_encoder(seed=1))
    encoder.normalize = True
    assert key != downsampler_key(encoder)
    assert downsampler_key(MfccEncoder()) is None


def test_cache_keeps_precisions_apart(cuts: list[Cut]) -> None:
    encoder, cache = tiny_encoder(), DownsamplerCache()
    expected = {
        precision: run(encoder, cuts, precision=precision) for precision in ("fp32", "bf16")
    }
    name = cuts[0].id
    assert not torch.equal(expected["fp32"].pooled[name], expected["bf16"].pooled[name])
    for precision in ("fp32", "bf16", "fp32"):
        found = run(encoder, cuts, precision=precision, cache=cache)
        for cut in cuts:
            torch.testing.assert_close(
                found.pooled[cut.id], expected[precision].pooled[cut.id], atol=1e-5, rtol=0
            )


def test_padding_dependent_features_are_not_cached(cuts: list[Cut]) -> None:
    encoder, cache = speech_encoder("hubert", mode="s3prl"), DownsamplerCache()
    expected = run(encoder, cuts)
    assert_same(run(encoder, cuts, cache=cache), expected)
    assert_same(run(encoder, cuts, cache=cache), expected)


def test_encoder_without_a_downsampler_needs_no_cache(cuts: list[Cut]) -> None:
    assert_same(run(MfccEncoder(), cuts, cache=DownsamplerCache()), run(MfccEncoder(), cuts))


def test_cache_tells_apart_what_has_the_same_id(cuts: list[Cut]) -> None:
    encoder, cache = tiny_encoder(), DownsamplerCache()
    run(encoder, cuts[:1], cache=cache)
    other = cuts[1].with_id(cuts[0].id)
    assert_same(run(encoder, [other], cache=cache), run(encoder, [other]))
    found = downsample_all(encoder, [other], cache, CPU)
    torch.testing.assert_close(found, downsample_all(encoder, [other], DownsamplerCache(), CPU))


def test_full_cache_keeps_nothing_more(cuts: list[Cut]) -> None:
    encoder, row = tiny_encoder(), torch.zeros(10, 8)
    cache = DownsamplerCache(limit_bytes=2 * row.nbytes + 1)
    for cut in cuts[:3]:
        cache.put("key", cut, row, 3_200)
    assert [cache.get("key", cut) is not None for cut in cuts[:3]] == [True, True, False]
    assert cache.get("other key", cuts[0]) is None
    assert_same(run(encoder, cuts, cache=DownsamplerCache(limit_bytes=5_000)), run(encoder, cuts))


def held(cache: DownsamplerCache, cuts: list[Cut]) -> int:
    stored = {id(item): item for cut in cuts if (item := cache.get("key", cut)) is not None}
    return sum(row.nbytes for row, _ in stored.values())


@pytest.mark.parametrize("frames", [(10,), (10, 10, 10), (10, 4), (4, 10), (10, 4, 10, 20)])
def test_an_output_that_is_put_again_counts_once(frames: tuple[int, ...], cuts: list[Cut]) -> None:
    row = torch.zeros(10, 8)
    cache = DownsamplerCache(limit_bytes=2 * row.nbytes)
    for count in frames:
        cache.put("key", cuts[0], torch.zeros(count, 8), 3_200)
        assert cache.room.used == held(cache, cuts)
    cache.put("key", cuts[1], row, 3_200)
    if frames[-1] <= 10:
        assert cache.get("key", cuts[1]) is not None, "there was room for two"
    assert cache.room.used == held(cache, cuts) <= 2 * row.nbytes


def test_what_does_not_fit_leaves_what_was_kept(cuts: list[Cut]) -> None:
    cache = DownsamplerCache(limit_bytes=1_000)
    cache.put("key", cuts[0], torch.ones(10, 8), 3_200)
    cache.put("key", cuts[0], torch.zeros(40, 8), 12_800)
    kept = cache.get("key", cuts[0])
    assert kept is not None
    assert (kept[0].shape, kept[1], cache.room.used) == ((10, 8), 3_200, 320)


def test_the_same_audio_under_two_ids_is_charged_once(cuts: list[Cut]) -> None:
    encoder = tiny_encoder()
    alone, twice = DownsamplerCache(), DownsamplerCache()
    downsample_all(encoder, cuts[:2], alone, CPU)
    twins = [cut.with_id(f"twin-{number}") for number, cut in enumerate(cuts[:2])]
    rows = downsample_all(encoder, [*cuts[:2], *twins], twice, CPU)
    assert len(rows) == 4
    assert 0 < twice.room.used == alone.room.used


def test_views_are_charged_for_what_is_copied(cuts: list[Cut]) -> None:
    wide = torch.zeros(10, 1_000)
    cache = DownsamplerCache(limit_bytes=400)
    cache.put("key", cuts[0], wide[:, :10], 3_200)
    kept = cache.get("key", cuts[0])
    assert kept is not None
    assert kept[0].untyped_storage().nbytes() == cache.room.used == 400


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_downsample_all_is_the_downsampler_alone(limit: int, cuts: list[Cut]) -> None:
    encoder, cache = tiny_encoder(), DownsamplerCache(limit)
    run(encoder, cuts[:4], cache=cache)
    rows = downsample_all(encoder, cuts, cache, CPU)
    assert rows.keys() == {cut.id for cut in cuts}
    for cut in cuts:
        waveform = torch.from_numpy(load_waveform(cut))
        with torch.inference_mode():
            expected = encoder.downsample(waveform[None], torch.tensor([len(waveform)]))[0]
        row, samples = rows[cut.id]
        assert samples == len(waveform)
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)


def test_a_batch_is_padded_to_few_shapes_only_where_new_ones_cost() -> None:
    assert batch_limits(tiny_encoder(), CPU) == (48.0, PAD_TO)
    assert batch_limits(MfccEncoder(), CPU) == (48.0, 1)


def test_groups_hold_everything_once_within_the_limit() -> None:
    lengths = [3_000, 160_000, 16_000, 16_000, 48_000, 700_000, 5_000, 32_000]
    cuts = [cut_of(f"cut-{number}", samples) for number, samples in enumerate(lengths)]
    groups = list(group_by_length(cuts, 12.0))
    flat = [cut for group in groups for cut in group]
    assert sorted(cut.id for cut in flat) == sorted(cut.id for cut in cuts)
    durations = [cut.duration for cut in flat]
    assert durations == sorted(durations, reverse=True)
    for group in groups:
        assert len(group) == 1 or group[0].duration * len(group) <= 12.0
    assert len(groups) < len(cuts)
    for group in groups[:-1]:
        assert group[0].duration * (len(group) + 1) > 12.0  # no group is cut short


def test_groups_do_not_depend_on_the_order_of_cuts() -> None:
    cuts = [cut_of(f"cut-{number}", 16_000) for number in range(9)]
    names = [[cut.id for cut in group] for group in group_by_length(cuts, 4.0)]
    assert names == [[cut.id for cut in group] for group in group_by_length(cuts[::-1], 4.0)]
    assert [len(group) for group in names] == [4, 4, 1]


def test_nothing_gives_nothing() -> None:
    assert list(group_by_length([], 4.0)) == []
    nothing = run(tiny_encoder(), [])
    assert (nothing.pooled, nothing.frames, nothing.lengths) == ({}, {}, {})
