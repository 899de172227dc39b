"""Cuts that do not stay in memory are equal to those that do, in every order that is asked for."""

from __future__ import annotations

import pickle
import tracemalloc

import pytest
from lhotse import AudioSource, MonoCut, Recording
from lhotse.cut import Cut

from speechft.data import kept_cuts
from speechft.data.batching import BatchPlan
from speechft.data.kept_cuts import Cuts, chosen, kept_alike, picked
from speechft.data.utterances import Utterance, to_cut
from speechft.data.waveform import count_samples
from speechft.features.extract import group_by_length


@pytest.fixture(autouse=True, params=[0, 10, 4096], ids="{} stay".format)
def stay(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many cuts may stay in memory: none, fewer than there are, all."""
    monkeypatch.setattr(kept_cuts, "_MADE", request.param)
    return int(request.param)


def made(count: int = 40) -> list[Cut]:
    cuts = [
        to_cut(
            Utterance(
                f"é{count - n}",
                f"/x/{n}.wav",
                8_000 + 100 * (n % 7),
                sample_rate=16_000 if n % 5 else 44_100,
                channels=1 + n % 2,
                text="so it was",
                speaker="s",
                phones=[("A", 0.0, 0.1), ("E", 0.1, 0.3000001)],
                labels={"style": "odd"},
                offset=160 * (n % 3),
                recording_samples=90_000,
            )
        )
        for n in range(count)
    ]
    cuts[1] = cuts[1].truncate(offset=0.05, duration=0.2).with_id("crop#1")
    cuts[2] = cuts[2].resample(22_050)
    return cuts


def test_they_are_what_they_were() -> None:
    cuts = made()
    kept = Cuts.of(cuts)
    assert list(kept) == cuts
    assert kept == cuts
    assert kept != cuts[1:]
    assert (kept[3], kept[-1], kept[4:6]) == (cuts[3], cuts[-1], cuts[4:6])
    assert list(kept.ids) == [cut.id for cut in cuts]
    assert kept.seconds.tolist() == [cut.duration for cut in cuts]
    assert kept.samples.tolist() == [count_samples(cut) for cut in cuts]
    assert Cuts.of(kept) is kept
    assert pickle.loads(pickle.dumps(kept)) == cuts, "as another process has them"


def test_audio_in_memory_is_kept_too() -> None:
    source = AudioSource("memory", [0], b"RIFF\x00\xff")
    cut = MonoCut("a", 0.0, 1.0, 0, recording=Recording("a", [source], 16_000, 16_000, 1.0))
    assert Cuts.of([cut])[0] == cut


def test_orders_are_those_of_a_list() -> None:
    cuts = made()
    kept = Cuts.of(cuts)
    ordered = sorted(cuts, key=lambda cut: (-cut.duration, cut.id))
    assert kept.longest_first() == ordered
    assert Cuts.of([]).longest_first() == []
    assert list(group_by_length(kept, 2.0)) == list(group_by_length(cuts, 2.0))
    for count in (1, 7, 39, 40, 50):
        assert kept.longest(count) == ordered[:count]
    capped = sorted(cuts, key=lambda cut: (-min(cut.duration, 0.51), cut.id))
    assert kept.longest(9, 0.51) == capped[:9]


def test_choices_are_kept_as_what_they_were_made_of() -> None:
    cuts = made()
    kept = Cuts.of(cuts)
    for some in (cuts, kept):
        assert chosen(some, lambda cut: cut.num_channels == 2) == cuts[1::2]
        assert picked(some, [5, 1]) == [cuts[5], cuts[1]]
        assert type(picked(some, [])) is type(kept_alike(iter(cuts), some)) is type(some)
    assert list(Cuts.different([cuts[:3], cuts[2:5]]).ids) == [cut.id for cut in cuts[:5]]


@pytest.mark.parametrize("count", [2_000])
def test_planning_ten_times_the_utterances_takes_hardly_more(count: int) -> None:
    peaks = []
    for times in (1, 10):
        cuts = (
            to_cut(Utterance(f"utterance-{n:08d}", f"/x/{n}.wav", 16_000 + n % 9_999, speaker="s"))
            for n in range(times * count)
        )
        tracemalloc.start()
        plan = BatchPlan(cuts, seconds=60.0, utterances=8, seed=0)
        assert len(plan.batch(0)) > 0
        assert len(plan.largest()) > 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    more = (peaks[1] - peaks[0]) / (9 * count)
    assert more < 200, "bytes an utterance: a cut in memory takes some 4,000"


def test_few_stay_in_memory_once_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_cuts, "_MADE", 3)
    cuts = made(6)
    kept = Cuts.of(cuts)
    assert list(kept) == list(kept) == cuts
    same = [kept[number] is kept[number] for number in range(6)]
    assert same == [True] * 3 + [False] * 3
    assert kept[2:][0] is kept[2]
    assert list(pickle.loads(pickle.dumps(kept))) == cuts
