"""The corpora of H1: items match between cells, and voices are heard where they should be."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from helpers import study
from speechft.data.corpora.synthetic.espeak import variants
from speechft.data.corpora.synthetic.voices import (
    PRETRAIN_ACCENTS,
    TASK_ACCENTS,
    make_speakers,
    variant_pool,
)


@pytest.fixture(scope="module")
def cells() -> ModuleType:
    return study("cells")


def _lines(cells: ModuleType, cell: Any) -> list[dict[str, Any]]:
    small = {split: (40, part, texts) for split, (_, part, texts) in cells.SPLITS.items()}
    return list(cells.command_lines(cell, small))


def test_items_match_between_cells(cells: ModuleType) -> None:
    every = [_lines(cells, cell) for cell in cells.CELLS]
    for lines in every[1:]:
        for one, other in zip(every[0], lines, strict=True):
            for same in ("id", "split", "text", "seed", "noise"):
                assert one[same] == other[same]
            assert one["labels"]["intent"] == other["labels"]["intent"]
    assert len({line["seed"] for line in every[0]}) == len(every[0])


def test_a_speaker_keeps_voice_and_changes_accent_and_way_of_speaking(cells: ModuleType) -> None:
    by_name = {cell.name: _lines(cells, cell) for cell in cells.CELLS}
    for voices in ("unseen", "heard"):
        home, tuning = by_name[f"home-{voices}"], by_name[f"tuning-{voices}"]
        for one, other in zip(home, tuning, strict=True):
            assert (one["speaker"], one["warp"]) == (other["speaker"], other["warp"])
            (first, voice), (second, same) = (line["voice"].split("+") for line in (one, other))
            assert voice == same
            assert first in PRETRAIN_ACCENTS
            assert second in TASK_ACCENTS
            assert one["labels"]["style"] == "free" != other["labels"]["style"]


def test_unseen_voices_are_heard_nowhere_and_heard_ones_in_pretraining(cells: ModuleType) -> None:
    known = variants()
    pretrained, tuned = (set(variant_pool(pool, known)) for pool in ("pretrain", "seen"))
    speakers = {s.name for s in make_speakers("pretrain", cells.PRETRAINED, known)}
    for cell in cells.CELLS:
        parts = {part: cells.speakers(cell, part) for part in cells.SPEAKERS}
        voices = {part: {s.variant for s in people} for part, people in parts.items()}
        assert {part: len(people) for part, people in parts.items()} == cells.SPEAKERS
        assert {part: len(found) for part, found in voices.items()} == {
            "train": 10, "dev": 6, "test": 10,
        }  # fmt: skip
        assert not voices["train"] & voices["test"]
        assert not voices["train"] & voices["dev"] | voices["dev"] & voices["test"]
        every = set().union(*voices.values())
        assert not every & tuned
        heard = cell.voices == "heard"
        assert (every <= pretrained) if heard else not every & pretrained
        assert not heard or {s.name for people in parts.values() for s in people} <= speakers
        assert not heard or all(
            s.accent in (PRETRAIN_ACCENTS if cell.home else TASK_ACCENTS)
            for people in parts.values()
            for s in people
        )
