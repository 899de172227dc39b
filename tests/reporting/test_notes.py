"""Warnings and costs: each is said where it is true, and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from speechft.reporting.notes import costs_of, duration, warnings_of
from speechft.results import ResultRow

MakeRow = Callable[..., ResultRow]
HEARD = {"utterances": [0, 9], "speakers": [2, 3]}


def test_sure_figures_have_no_warnings(make_row: MakeRow) -> None:
    rows = [make_row(name, "sid", 50.0) for name in ("a", "b")]
    assert warnings_of(rows, {"stable": {"skipped": 0}}, 30) == []


@pytest.mark.parametrize(
    ("details", "changes", "words"),
    [
        ({"converged": False}, {}, "still improving when their training ended: sid (b)."),
        ({"converged": False}, {"layer": 3}, "training ended: sid (single layers of b)."),
        ({"grid": {"0.01": 1, "0.1": 2}}, {}, "edge of the grid that was tried: sid (b)."),
        ({"tuned_on": HEARD}, {}, "Test speakers that were tuned on: sid 2 of 3."),
        ({"pretrained_on": HEARD}, {}, "speakers that were heard in pre-training: sid 2 of 3."),
        ({"clean": {"value": 40.0}}, {}, "without items tuned on: 40.00 instead of 50.00."),
        ({"clean": {"value": None}}, {}, "without items tuned on: no figure."),
        ({"precision": "bf16"}, {}, "different precision stand side by side: fp32 (1 figures)"),
        ({}, {"protocol": "s3prl"}, "different protocols stand side by side: mini, s3prl."),
        ({}, {"left_out": {"silent": 3}}, "could not use were left out: 3 (silent)"),
        (
            {},
            {"left_out": {"when the corpus was prepared: silence": 3, "odd": 1}},
            "Recordings that the corpus of sid lost when it was prepared: 3 (silence); its issues",
        ),
        ({}, {"n": 60}, "different numbers of items of test"),
        ({}, {"n": 7}, "Fewer than 30 items, too few for a verdict: sid 7."),
    ],
)
def test_what_makes_a_figure_less_sure_is_said(
    make_row: MakeRow, details: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    first = make_row("a", "sid", 50.0)
    first = first.model_copy(update={"details": {**first.details, "precision": "fp32"}})
    other = {**first.details, **details}
    said = warnings_of([first, make_row("b", "sid", 50.0, details=other, **changes)], {}, 30)
    assert any(words in sentence for sentence in said), said


def test_what_nobody_knows_is_said_once(make_row: MakeRow) -> None:
    rows = [make_row(n, "sid", 1.0, details={"pretrained_on": "unknown"}) for n in "ab"]
    assert [s for s in warnings_of(rows, {}, 30) if "not known" in s] == [
        "What pre-training heard is not known here, nor whether test items were in it."
    ]


def test_what_fine_tunings_left_out_is_said_where_it_is_told_as_counts() -> None:
    told = {"pr": {"no label": 2, "when the corpus was prepared: silence": 3}, "sid": {}}
    found = warnings_of([], {"stable": {"left_out": told}}, 30)
    assert found == [
        "Items that fine-tuning stable on pr could not use were left out: 2 (no label); "
        "left_out.jsonl names them.",
        "Recordings that the corpus of fine-tuning stable on pr lost when it was prepared: "
        "3 (silence); its issues.tsv names them.",
    ]
    assert warnings_of([], {"a": {"left_out": 3}, "b": {"left_out": {"pr": {"x": "y"}}}}, 30) == []


def test_skipped_updates_are_said() -> None:
    (said,) = warnings_of([], {"stable": {"skipped": 2}, "plain": {}}, 30)
    assert said == "Fine-tuning stable skipped 2 updates whose gradient was not finite."


def test_costs_say_what_was_recorded() -> None:
    history = {"losses": [1.0] * 30, "hours_of_audio": 0.3033, "seconds": 102.1, "skipped": 0}
    lines = costs_of({"stable": history, "lost": {}}, {"evaluation": 7265}, {"resident": 0.5})
    assert lines == [
        ("fine-tuning, stable", "1 min 42 s", "", "30", "0.303", "0"),
        ("fine-tuning, lost", "", "", "", "", ""),
        ("last call: evaluation", "2 h 1 min", "", "", "", ""),
        ("last call, in all", "2 h 1 min", "0.50 GB resident", "", "", ""),
    ]


@pytest.mark.parametrize("value", [None, "3", True, math.nan, -1.0])
def test_no_time_is_nothing(value: Any) -> None:
    assert duration(value) == ""
