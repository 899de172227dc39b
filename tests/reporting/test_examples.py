"""Alignments: equal to the edits that error rates count, and both sides come out of them."""

from __future__ import annotations

import random

import pytest

from speechft.reporting.examples import Unit, align
from speechft.tasks.metrics import edits


@pytest.mark.parametrize("seed", range(20))
def test_an_alignment_is_a_smallest_one_and_loses_nothing(seed: int) -> None:
    draw = random.Random(seed)
    said, heard = ([draw.choice("ABC") for _ in range(draw.randint(0, 12))] for _ in range(2))
    units = align(said, heard)
    assert [unit.said for unit in units if unit.kind != "inserted"] == said
    assert [unit.heard for unit in units if unit.kind != "left-out"] == heard
    assert all((unit.kind == "same") == (unit.said == unit.heard) for unit in units)
    assert sum(unit.kind != "same" for unit in units) == edits(said, heard).total


def test_every_kind_of_error_has_its_place() -> None:
    assert align("AT NOON THE FAN".split(), "NOON A FAN UM".split()) == [
        Unit("left-out", "AT"),
        Unit("same", "NOON", "NOON"),
        Unit("replaced", "THE", "A"),
        Unit("same", "FAN", "FAN"),
        Unit("inserted", heard="UM"),
    ]
