"""Tables: columns, roles by name, numbers, differences and details."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from speechft.reporting.cells import detail_table, main_lines
from speechft.reporting.figures import Figures, Role, number, role_of
from speechft.reporting.report import table
from speechft.reporting.sections import alpha_points, trades_of
from speechft.results import ResultRow, read_rows, write_rows

MakeRow = Callable[..., ResultRow]


def test_table_has_a_column_per_task_with_metric_and_arrow(rows: tuple[ResultRow, ...]) -> None:
    header, cells = table(rows, {"pre-trained": 712.4, "MFCC": -3.0})
    assert header == ["encoder", "pr PER % ↓", "sid accuracy % ↑", "style accuracy % ↑", "score ↑"]
    assert [line[0] for line in cells][:3] == ["MFCC", "random init", "pre-trained"]
    assert cells[2] == ["pre-trained", "24.0", "60.0", "83.0", "712"]
    assert cells[0][-1] == "−3"
    assert cells[3][-1] == "–"


def test_table_without_scores_has_no_score_column(rows: tuple[ResultRow, ...]) -> None:
    for scores in ({}, dict.fromkeys(("pre-trained", "MFCC"))):
        header, cells = table(rows, scores)
        assert len(header) == 4
        assert all(len(line) == 4 for line in cells)


def test_table_of_nothing() -> None:
    assert table((), {"pre-trained": 1.0}) == (["encoder"], [])


def test_missing_and_nan_are_dashes(make_row: MakeRow) -> None:
    rows = [make_row("a", "sid", math.nan), make_row("b", "pr", 3.0)]
    assert table(rows, {})[1] == [["a", "–", "–"], ["b", "–", "3.0"]]


def test_a_task_may_have_two_metrics(make_row: MakeRow) -> None:
    rows = [make_row("a", "pr", 20.0), make_row("a", "pr", 80.0, metric="frame_accuracy")]
    header, cells = table(rows, {})
    assert header[1:] == ["pr PER % ↓", "pr frame accuracy % ↓"]
    assert cells == [["a", "20.0", "80.0"]]


@pytest.mark.parametrize(
    ("value", "signed", "expected"),
    [
        (-1.26, False, "−1.3"),
        (1.26, True, "+1.3"),
        (-0.01, True, "±0.0"),
        (0.0, True, "±0.0"),
        (10.0, True, "+10.0"),
        (math.inf, True, "–"),
        (None, False, "–"),
    ],
)
def test_numbers(value: float | None, signed: bool, expected: str) -> None:
    assert number(value, signed=signed) == expected


@pytest.mark.parametrize(
    ("name", "alpha", "role"),
    [
        ("mfcc", None, Role.FLOOR),
        ("random init", None, Role.FLOOR),
        ("Pre-trained", None, Role.REFERENCE),
        ("plain", None, Role.PLAIN),
        ("stable fine-tuning", 1.0, Role.TUNED),
        ("Speech-FT", None, Role.MERGED),
        ("alpha 0.5", 0.5, Role.MERGED),
        ("alpha 0", 0.0, Role.REFERENCE),
        ("my encoder", None, Role.OTHER),
    ],
)
def test_roles(name: str, alpha: float | None, role: Role) -> None:
    assert role_of(name, alpha) is role


def test_best_leaves_floors_out_and_follows_the_direction(
    rows: tuple[ResultRow, ...], make_row: MakeRow
) -> None:
    floor = make_row("MFCC", "sid", 99.0)
    lines = {line.encoder: line for line in main_lines(Figures([*rows, floor]), {})}
    best = {name: [cell.best for cell in line.cells] for name, line in lines.items()}
    assert best["pre-trained"] == [True, False, True]
    assert best["plain fine-tuning"] == [False, True, False]
    assert best["MFCC"] == [False, False, False]


def test_differences_have_a_sign_and_a_word(rows: tuple[ResultRow, ...]) -> None:
    lines = {line.encoder: line for line in main_lines(Figures(rows), {})}
    plain = [(cell.delta, cell.verdict) for cell in lines["plain fine-tuning"].cells]
    assert plain == [("+15.0", "worse"), ("+28.0", "better"), ("−13.0", "worse")]
    assert lines["Speech-FT (alpha 0.25)"].cells[0].verdict == "near"
    assert not any(c.delta for name in ("MFCC", "pre-trained") for c in lines[name].cells)


def test_without_an_interval_nothing_is_judged(make_row: MakeRow) -> None:
    rows = [make_row("pre-trained", "sid", 60.0, interval=None), make_row("x", "sid", 90.0)]
    cell = main_lines(Figures(rows), {})[1].cells[0]
    assert (cell.delta, cell.verdict) == ("+30.0", "near")


def test_trade_counts_better_as_positive(rows: tuple[ResultRow, ...]) -> None:
    trades = {trade.encoder: trade for trade in trades_of(Figures(rows), "sid")}
    assert next(iter(trades)) == "pre-trained"
    plain = trades["plain fine-tuning"]
    assert (plain.on_task, plain.others, plain.off_task) == (28.0, (-15.0, -13.0), -14.0)
    assert trades_of(Figures(rows), "unknown") == []


def test_curve_is_sorted_and_ends_are_known_by_name(make_row: MakeRow) -> None:
    rows = [make_row("stable fine-tuning", "sid", 9.0), make_row("pre-trained", "sid", 1.0)]
    figures = Figures([*rows, make_row("m", "sid", 5.0, alpha=0.25), make_row("?", "sid", 3.0)])
    assert alpha_points(figures, figures.columns[0]) == [(0.0, 1.0), (0.25, 5.0), (1.0, 9.0)]


def test_details_keep_everything_that_is_known(rows: tuple[ResultRow, ...], tmp_path: Path) -> None:
    write_rows(tmp_path / "results.jsonl", rows)
    header, cells = detail_table(read_rows(tmp_path / "results.jsonl"))
    line = dict(zip(header, cells[0], strict=True))
    assert line["grid on dev"] == "0.01: 70"
    assert (line["converged"], line["insertions"], line["n"]) == ("yes", "2.25", "300")
    assert "dev" not in header
