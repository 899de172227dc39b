"""What is sampled: frames far enough apart, segments, triphones; nothing depends on other cuts."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import TIMING, cut_of
from speechft.analysis import choosing
from speechft.analysis.choosing import (
    Segment,
    choose,
    frames_of,
    labels_of,
    sample_frames,
    speakers_of,
)


@pytest.mark.parametrize("count", [1, 2, 10, 11, 70, 71, 72, 500])
def test_frames_are_apart_and_as_many_as_fit(count: int) -> None:
    drawn = [sample_frames(count, TIMING, seed, "a") for seed in range(200)]
    for frames in drawn:
        assert len(frames) == min(8, 1 + (count - 1) // 10)
        assert (np.diff(frames) >= 10).all()
        assert frames[0] >= 0
        assert frames[-1] < count
    if count == 72:  # one frame of room: every place is as likely as any other
        assert {tuple(frames) for frames in drawn} == {
            tuple(10 * np.arange(8) + (np.arange(8) >= late)) for late in range(9)
        }
    np.testing.assert_array_equal(drawn[3], sample_frames(count, TIMING, 3, "a"))


def test_frames_of_a_segment_have_their_middle_in_it() -> None:
    middles = 0.0125 + 0.02 * np.arange(50)
    for start, end in ((0.0, 0.1), (0.0125, 0.0325), (0.3, 0.47), (0.9, 2.0)):
        first, last = frames_of(Segment(0, "a", start, end), TIMING, 50)
        inside = np.flatnonzero((middles >= start - 1e-9) & (middles < end - 1e-9))
        assert (first, last) == (inside[0], inside[-1] + 1)


def spoken(name: str, phones: str, **known: str) -> object:
    times = [(phone, 0.1 * n, 0.1 * (n + 1)) for n, phone in enumerate(phones.split())]
    return cut_of(name, 16_000 * len(times) // 10, phones=times, **known)


def test_triphones_have_no_silence_and_only_those_of_cells_are_kept() -> None:
    cuts = [
        spoken("a", "P A T SIL P E T", speaker="x"),
        spoken("b", "P A T P A", speaker="x"),
        spoken("c", "P A T", speaker="y"),
        spoken("d", "K A S", speaker="x"),
    ]
    counts = [round(50 * cut.duration) - 1 for cut in cuts]  # type: ignore[attr-defined]
    found = choose(cuts, TIMING, counts, seed=0, segments=True, triphones=True)  # type: ignore[arg-type]
    assert {(s.cut, s.label) for s in found.triphones} == {(0, "A"), (0, "E"), (1, "A"), (2, "A")}
    (within,) = found.cells["within"]
    assert within.phones == ("A", "E")
    (across,) = found.cells["across"]
    assert across.speakers == ("x", "y")
    assert len(found.segments["phone"]) == 6 + 5 + 3 + 3
    assert "word" not in found.segments
    assert len(found.utterances) == sum(map(len, found.times))


def test_segments_are_capped_by_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "MOST_SEGMENTS", 5)
    cuts = [spoken("a", "A E I O U A E I O U", speaker="x")]
    options = {"segments": True, "triphones": False}
    first = choose(cuts, TIMING, [49], seed=0, **options).segments["phone"]  # type: ignore[arg-type]
    assert len(first) == 5
    other = choose(cuts, TIMING, [49], seed=1, **options).segments["phone"]  # type: ignore[arg-type]
    assert first != other


def test_labels_that_say_something() -> None:
    cuts = [
        cut_of(
            f"c{n}", speaker=f"s{n % 3}", labels={"style": "ab"[n % 2], "id": str(n), "one": "x"}
        )
        for n in range(12)
    ]
    assert list(labels_of(cuts)) == ["speaker", "style"]
    assert speakers_of(cuts) == [f"s{n % 3}" for n in range(12)]
    assert speakers_of([*cuts, cut_of("lost")]) is None
    assert speakers_of(cuts[:1]) is None
