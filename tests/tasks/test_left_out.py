"""What a task cannot use is left out, counted by reason and named, up to a limit; see left_out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lhotse.cut import Cut

from helpers import TIMING, cut_of, tiny_encoder
from speechft.data.waveform import count_samples, load_waveform
from speechft.encoders.mfcc import MfccEncoder
from speechft.errors import DataError
from speechft.features.extract import count_frames
from speechft.tasks import TASKS, find_task
from speechft.tasks.left_out import LeftOut, usable_splits

PHONES = [("A", 0.0, 0.3), ("B", 0.3, 0.7)]
TURNS = [["a", 0.0, 0.5], ["b", 0.4, 1.0]]
GOOD: dict[str, Any] = {
    "text": "play adele",
    "speaker": "s",
    "phones": PHONES,
    "labels": {
        "intent": "bring/lamp",
        "slots": "O artist",
        "turns": json.dumps(TURNS),
        **dict.fromkeys(("keyword", "emotion", "style", "label"), "x"),
    },
}
ENCODER = tiny_encoder()
CLASSES = {
    "sid": "speaker",
    "ks": "keyword",
    "er": "emotion",
    "style": "style",
    "label": "label",
}


def item(name: str, seconds: float = 1.0, **known: Any) -> Cut:
    """Return an utterance with all labels but those that are given; None takes one away."""
    fields = {**GOOD, **{key: known.pop(key) for key in tuple(known) if key in GOOD}}
    labels = {k: v for k, v in {**GOOD["labels"], **known}.items() if v is not None}
    fields["phones"] = fields["phones"] or []
    return cut_of(name, round(16_000 * seconds), **{**fields, "labels": labels})


def good(count: int, prefix: str = "good") -> list[Cut]:
    """Return utterances of two classes."""
    other = {**dict.fromkeys(CLASSES.values(), "y"), "intent": "take/shoes"}
    return [item(f"{prefix}{number}", **(other if number % 2 else {})) for number in range(count)]


def frames(cuts: Sequence[Cut]) -> list[int]:
    return count_frames(ENCODER, cuts)


def usable(task: str, *splits: list[Cut], limit: float = 0.5) -> tuple[list[list[str]], LeftOut]:
    names = ("train", "dev", "test")[: len(splits)]
    left_out = LeftOut(task, limit, "evaluation.max_left_out")
    kept, _ = usable_splits(find_task(task).at(TIMING), names, splits, frames, left_out)
    return [[cut.id for cut in cuts] for cuts in kept], left_out


NONE = "no label"
ALL_SPLITS = [
    *((task, {CLASSES[task]: None}, NONE) for task in CLASSES),
    ("pr", {"phones": None}, NONE),
    ("pr", {"phones": [("SIL", 0.0, 1.0)]}, "text without a known symbol"),
    ("asr", {"text": None}, NONE),
    ("asr", {"text": "?!"}, "text without a known symbol"),
    ("asv", {"speaker": None}, NONE),
    ("asv", {"seconds": 0.3}, "too short for the head"),
    ("sd", {"turns": None}, NONE),
    ("sd", {"turns": "[1, 2]"}, "turns that cannot be read"),
    ("sd", {"turns": json.dumps([[n, 0, 1] for n in "abcde"])}, "more than 4 speakers"),
    ("ic", {"intent": None}, NONE),
    ("ic", {"intent": "bring//lamp"}, "slot without a value"),
    ("ic", {"intent": "bring"}, "another number of slots"),
    ("sf", {"text": None}, NONE),
    ("sf", {"slots": None}, NONE),
    ("sf", {"slots": "O O O"}, "slots that do not match the words"),
    ("sf", {"slots": "O B-"}, "slot without a type"),
    ("sf", {"text": "? !", "slots": "O O"}, "text without a known symbol"),
    ("pc", {"phones": [("A", 0.0, 0.0)]}, NONE),
    ("pc", {"phones": [("A", 0.5, 0.2)]}, "alignment that cannot be read"),
    ("pc", {"phones": [("A", 0.0, float("inf"))]}, "alignment that cannot be read"),
    ("pc", {"phones": [("A", 7.0, 8.0)]}, "alignment without a frame"),
    *((task, {"seconds": 0.01}, "shorter than one frame") for task in TASKS),
]


@pytest.mark.parametrize(("task", "bad", "reason"), ALL_SPLITS)
def test_items_that_no_split_can_use(task: str, bad: dict[str, Any], reason: str) -> None:
    splits = [[*good(4, name), item(f"bad-{name}", **bad)] for name in ("train", "dev", "test")]
    kept, left_out = usable(task, *splits)
    assert kept == [[cut.id for cut in cuts[:4]] for cuts in splits]
    assert left_out.counts() == {reason: 3}


UNSEEN = "class unseen in training"
OTHERS = [
    *((task, {CLASSES[task]: "z"}, UNSEEN) for task in CLASSES),
    ("ic", {"intent": "bring/door"}, UNSEEN),
    ("sd", {"turns": json.dumps([[n, 0, 1] for n in "abc"])}, "more speakers than in training"),
]


@pytest.mark.parametrize(("task", "bad", "reason"), OTHERS)
def test_labels_that_training_does_not_hold(task: str, bad: dict[str, Any], reason: str) -> None:
    kept, left_out = usable(task, good(4), good(4), [*good(4), item("bad", **bad)])
    assert [len(cuts) for cuts in kept] == [4, 4, 4]
    assert left_out.of("test") == {"bad": reason}
    assert not left_out.of("train")


def test_a_label_that_only_falls_with_another_item_is_unseen_too() -> None:
    """The one utterance of a class has no slots as the others do: the class goes with it."""
    train = [*good(4), item("odd", intent="open/door/now")]
    kept, left_out = usable("ic", train, [*good(4), item("bad", intent="open/lamp")])
    assert kept[0] == [cut.id for cut in good(4)]
    assert left_out.counts() == {"another number of slots": 1, UNSEEN: 1}


@pytest.mark.parametrize("task", ["pr", "asr", "sf"])
def test_what_ctc_cannot_align_counts_in_dev_and_test_but_is_not_trained_on(task: str) -> None:
    long = item(
        "long",
        phones=[("AB"[n % 2], 0.0, 0.0) for n in range(60)],
        text=" ".join(["adele"] * 30),
        slots=" ".join(["artist"] * 30),
    )
    splits = [[*good(4), long] for _ in range(3)]
    kept, left_out = usable(task, *splits)
    assert [len(cuts) for cuts in kept] == [4, 5, 5]
    assert left_out.of("train") == {"long": "target longer than the frames"}


@pytest.mark.parametrize("task", ["pr", "asr", "sf", "pc"])
def test_symbols_that_training_does_not_hold_still_count(task: str) -> None:
    new = item("new", phones=[("X", 0.0, 1.0)], text="xxx xxx", slots="O city")
    kept, left_out = usable(task, good(4), [*good(4), new])
    assert len(kept[1]) == 5
    assert not left_out.counts()


def test_the_limit_is_a_share_of_each_split_and_its_error_names_what_is_wrong() -> None:
    splits = [good(19), good(4), [*good(18), *(item(f"bad{n}", text="") for n in range(2))]]
    assert usable("asr", *splits, limit=0.1)[1].counts() == {NONE: 2}
    with pytest.raises(DataError) as caught:
        usable("asr", *splits, limit=0.09)
    assert str(caught.value) == (
        "task asr cannot use 2 of the 20 items of split test, more than the 9 % that may be left "
        "out: bad0 (no label), bad1 (no label)\nhint: mend these items or take them out, or raise "
        "evaluation.max_left_out (1 never refuses)"
    )
    many = [item(f"bad{n}", text="") for n in range(12)]
    with pytest.raises(DataError, match=r"bad7 \(no label\), and 2 more"):
        usable("asr", good(4), [*good(2), *many], limit=0.8)
    assert usable("asr", good(4), [*good(2), *many], limit=1.0)[0][1] == ["good0", "good1"]


def test_a_split_without_anything_usable_is_refused_whatever_the_limit() -> None:
    bad = [item(f"bad{n}", seconds=0.3) for n in range(2)]
    with pytest.raises(DataError, match=r"cannot use any of the 2 items of split dev: bad0 \(too"):
        usable("asv", good(4), bad, limit=1.0)
    with pytest.raises(DataError, match="cannot use any of the 2 items of split train"):
        usable("asv", bad, good(4), limit=1.0)


def test_one_class_that_is_left_says_what_the_others_were() -> None:
    train = [item("a"), item("b"), item("c", style=None), item("d", seconds=0.01, style="y")]
    with pytest.raises(DataError) as caught:
        usable("style", train, good(2))
    assert caught.value.message == (
        "task style needs at least two values of 'style' in the training split, found 1; left "
        "out: 1 (no label), 1 (shorter than one frame)"
    )


def test_chunks_are_looked_at_as_they_are_trained_on() -> None:
    """Training on chunks of recordings knows no more speakers than a chunk has."""
    turns = [["a", 0, 10], ["b", 10, 40], ["c", 45, 80]]
    splits = [[item("long", seconds=80, turns=json.dumps(turns)), *good(2)], [item("dev")]]
    splits += [[item("test", turns=json.dumps([["a", 0, 1], ["b", 0, 1], ["c", 0, 1]])), *good(2)]]
    task = find_task("sd").at(TIMING)
    left_out = LeftOut("sd", 0.5, "")
    kept, known = usable_splits(
        task,
        ("train", "dev", "test"),
        splits,
        frames,
        left_out,
        divide=lambda train, dev: (task.expand(train), dev),
    )
    assert [cut.id for cut in kept[0]][:2] == ["long@0", "long@40"]
    assert len(known) == 2
    assert left_out.of("test") == {"test": "more speakers than in training"}


def test_file_and_warnings_name_every_item(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [item(f"bad{n}", text=None) for n in range(4)]
    _, left_out = usable("asr", [*good(8), *bad], [*good(4), item("short", seconds=0.01)])
    left_out.add_pairs("test", ["one|two"], "pair of a recording that is left out")
    left_out.report()
    assert capsys.readouterr().err.splitlines() == [
        "warning: task asr: 4 left out, no label: bad0, bad1, bad2, ...",
        "warning: task asr: 1 left out, pair of a recording that is left out: one|two",
        "warning: task asr: 1 left out, shorter than one frame: short",
    ]
    left_out.write(tmp_path / "left_out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "left_out.jsonl").read_text().splitlines()]
    assert lines[0] == {"id": "short", "split": "dev", "reason": "shorter than one frame"}
    assert [line["id"] for line in lines] == ["short", "one|two", "bad0", "bad1", "bad2", "bad3"]
    usable("asr", good(2))[1].write(tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize("samples", [1, 399, 400, 719, 720, 16_000])
def test_frames_are_counted_without_reading(samples: int) -> None:
    for encoder in (ENCODER, MfccEncoder()):
        [count] = count_frames(encoder, [cut_of("a", samples)])
        assert count == max(0, (samples - 400) // 320 + 1)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_samples_are_counted_as_they_are_resampled(rate: int, tmp_path: Path) -> None:
    import numpy as np
    import soundfile

    from speechft.data.utterances import Utterance, to_cut

    for samples in (rate // 3, rate // 3 + 1, 4321):
        path = tmp_path / f"{samples}.wav"
        soundfile.write(path, np.zeros(samples), rate)
        cut = to_cut(Utterance(id="a", path=str(path), samples=samples, sample_rate=rate))
        assert count_samples(cut) == len(load_waveform(cut))
