"""Alignments: equal to the edits that error rates count, and both sides come out of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from speechft.evaluation.predictions import write_items
from speechft.reporting.examples import Unit, align, examples_of
from speechft.results import ResultRow
from speechft.tasks.measures import Item
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


@pytest.mark.parametrize(
    "items",
    [
        [Item("a|b", "0.31", "1", 0.31, 1.0), Item("a|c", "0.1", "0", 0.1, 0.0)],
        [Item("a|b", "1.0", "1", 1.0, 1.0), Item("a|c", "0.0", "0", 0.0, 0.0)],
        [Item("a", '[["x", 0, 1]]', '[["x", 0, 2]]', 50.0, 200.0, {"missed": 50.0})],
        [Item("a", "AA AA B", "AA B B", 2.0, 3.0)],
        [],
    ],
    ids=["trials", "sure trials", "turns", "frames", "nothing"],
)
def test_answers_that_are_neither_texts_nor_labels_have_no_examples(
    make_row: Callable[..., ResultRow], items: list[Item], tmp_path: Path
) -> None:
    rows = []
    for name in ("a", "b"):
        write_items(tmp_path / f"{name}.jsonl", items)
        rows.append(make_row(name, "sid", 50.0, predictions=f"{name}.jsonl"))
    assert examples_of(rows, tmp_path) == []


def test_every_kind_of_error_has_its_place() -> None:
    assert align("AT NOON THE FAN".split(), "NOON A FAN UM".split()) == [
        Unit("left-out", "AT"),
        Unit("same", "NOON", "NOON"),
        Unit("replaced", "THE", "A"),
        Unit("same", "FAN", "FAN"),
        Unit("inserted", heard="UM"),
    ]
