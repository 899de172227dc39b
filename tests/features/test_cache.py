"""Feature caches: keys, codecs with their error, quota, and frames that lie nowhere."""

from __future__ import annotations

import random
from pathlib import Path
from typing import get_args

import pytest
import torch
from lhotse.cut import Cut
from safetensors.torch import save

from helpers import cut_of, tiny_encoder
from speechft.data.manifest import Corpus
from speechft.features.cache import (
    Codec,
    FrameCache,
    PooledCache,
    Room,
    audio_key,
    decode,
    encode,
)
from speechft.features.extract import extract
from speechft.features.keeping import Features, Storage
from speechft.storage.scratch import Names

CPU = torch.device("cpu")


def states(seed: int = 0, frames: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3.0 * torch.randn(3, frames, 16, generator=generator)


@pytest.mark.parametrize(
    ("codec", "limit"), [("float16", 3e-4), ("bfloat16", 2e-3), ("int8", 6e-3)]
)
def test_codecs_have_the_error_that_they_report(codec: str, limit: float, tmp_path: Path) -> None:
    cache = FrameCache(tmp_path, 1 << 20, codec)  # type: ignore[arg-type]
    assert cache.put("a", states())
    found = cache.get("a")
    assert found is not None
    error = float(((found.float() - states()).square().sum() / states().square().sum()).sqrt())
    assert error == pytest.approx(cache.relative_error, rel=1e-3)
    assert 0 < error < limit
    assert torch.equal(decode(encode(states(), codec)), found)  # type: ignore[arg-type]


def test_quota_is_kept_across_runs(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path, 9000, "bfloat16")
    assert [cache.put(name, states(n)) for n, name in enumerate("abc")] == [True, True, False]
    again = FrameCache(tmp_path, 9000, "bfloat16")
    assert not again.put("d", states())
    assert again.get("a") is not None
    assert again.get("c") is None


def on_disk(cache: FrameCache) -> int:
    return sum(path.stat().st_size for path in cache.folder.iterdir())


def test_room_is_what_is_held_whatever_is_put() -> None:
    rng, room, held = random.Random(0), Room(1_000, {"a": 100}), {"a": 100}
    refused = 0
    for _ in range(2_000):
        key, size = rng.choice("abcdefgh"), rng.randrange(400)
        others = sum(value for name, value in held.items() if name != key)
        assert room.fits(key, size) == (others + size <= 1_000)
        if room.fits(key, size):
            room.hold(key, size)
            held[key] = size
        else:
            refused += 1
        assert room.used == sum(held.values()) <= 1_000
    assert 100 < refused < 1_900


def test_frames_that_are_put_again_count_once(tmp_path: Path) -> None:
    quota = 9_000
    cache = FrameCache(tmp_path, quota, "bfloat16")
    for frames in (40, 40, 20, 60, 40):  # the same, fewer, more: what counts is what lies there
        assert cache.put("a", states(frames=frames))
        assert cache.room.used == on_disk(cache)
    assert cache.put("b", states(1))
    assert not cache.put("a", states(frames=100)), "too long beside b"
    found = cache.get("a")
    assert found is not None
    assert found.shape[1] == 40, "what was there stays"
    assert cache.room.used == on_disk(cache) == FrameCache(tmp_path, quota, "bfloat16").room.used


def test_damaged_frames_are_replaced_at_their_own_cost(tmp_path: Path) -> None:
    one = len(save(encode(states(), "bfloat16")))
    FrameCache(tmp_path, 2 * one, "bfloat16").put("a", states())
    path = tmp_path / "bfloat16" / "a.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    cache = FrameCache(tmp_path, 2 * one, "bfloat16")
    assert cache.get("a") is None
    assert cache.put("a", states())
    assert cache.put("b", states())
    assert cache.room.used == on_disk(cache) == 2 * one


def test_frames_that_could_not_be_written_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FrameCache(tmp_path, 1 << 20, "bfloat16")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("speechft.features.cache.atomic_write", full)
        with pytest.raises(OSError, match="No space"):
            cache.put("a", states())
    assert cache.room.used == 0
    assert cache.put("a", states())


def test_pooled_statistics_survive_and_damage_is_forgotten(tmp_path: Path) -> None:
    PooledCache(tmp_path).put({"a": torch.ones(2, 3), "b": torch.zeros(2, 3)})
    PooledCache(tmp_path).put({"a": torch.full((2, 3), 9.0), "c": torch.ones(2, 3)})
    found = dict(PooledCache(tmp_path).read(Names("acd")))
    assert found.keys() == {0, 1}
    assert torch.equal(found[0], torch.ones(2, 3))
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:20])
    assert dict(PooledCache(tmp_path).read(Names("a"))) == {}


def test_keys_go_by_audio_not_by_name() -> None:
    one, two = (cut_of(name, labels={"x": name}) for name in ("one", "two"))
    assert audio_key(one) != audio_key(two)
    same = one.with_id("three")
    assert audio_key(one) == audio_key(same)
    assert audio_key(one.truncate(offset=0.2, duration=0.5)) != audio_key(one)


def run(cuts: list[Cut], storage: Storage | None = None) -> Features:
    framed = frozenset(cut.id for cut in cuts)
    return extract(
        tiny_encoder(), cuts, frames=framed, device=CPU, precision="fp32", storage=storage
    )


def test_frames_are_the_same_wherever_they_come_from(tones: Corpus, tmp_path: Path) -> None:
    cuts = list(tones.split("dev"))[:6]
    kept = run(cuts)
    streamed = run(cuts, Storage(room=0))
    assert not streamed.frames
    cached = run(cuts, Storage(frames=FrameCache(tmp_path, 1 << 24, "float16"), room=0))
    for cut, one, two, three in zip(
        cuts, kept.rows(cuts), streamed.rows(cuts), cached.rows(cuts), strict=True
    ):
        assert kept.length(cut) == streamed.length(cut) == one.shape[1]
        torch.testing.assert_close(one.float(), two.float(), atol=4e-3, rtol=2e-3)
        assert torch.equal(one, three)


def test_frames_of_a_cut_that_comes_twice_count_once_in_memory(tones: Corpus) -> None:
    cuts = list(tones.split("dev"))[:3]
    needed = sum(run([cut]).frames[cut.id].nbytes for cut in cuts)
    features = run([cuts[0], *cuts, cuts[0]], Storage(room=needed))
    assert features.frames.keys() == {cut.id for cut in cuts}
    assert not features.lengths


@pytest.mark.parametrize("codec", get_args(Codec))
def test_what_is_on_disk_is_not_computed_again_and_the_same(
    codec: Codec, tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speechft.features import extract as module

    cuts = list(tones.split("dev"))[:4]

    def storage() -> Storage:
        return Storage(PooledCache(tmp_path), FrameCache(tmp_path, 1 << 24, codec))

    first = run(cuts, storage())
    encoded: list[int] = []
    original = module.encode
    monkeypatch.setattr(
        module, "encode", lambda *args: (encoded.append(len(args[1])), original(*args))[1]
    )
    second = run(cuts, storage())
    assert encoded == []
    for cut, one, two in zip(cuts, first.rows(cuts), second.rows(cuts), strict=True):
        assert torch.equal(first.pooled[cut.id], second.pooled[cut.id])
        assert torch.equal(one, two)
    tight = run(cuts, Storage(frames=FrameCache(tmp_path / "no", 0, codec), room=0))
    for first_states, again in zip(first.rows(cuts), tight.rows(cuts), strict=True):
        torch.testing.assert_close(first_states, again, atol=4e-3, rtol=1e-2)
    encoded.clear()
    more = list(tones.split("dev"))[:6]
    run(more, storage())
    assert sum(encoded) == 2
