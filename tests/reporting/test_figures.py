"""Tables: columns, roles by name, numbers, differences and details."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from speechft.reporting.cells import detail_table, main_lines
from speechft.reporting.figures import Figures, Look, number
from speechft.reporting.report import table
from speechft.reporting.sections import alpha_points, layer_section, trade_section, trades_of
from speechft.results import ResultRow, Role, read_rows, write_rows

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


@pytest.mark.parametrize("strategy", ["stable", "lora", "dora", "l2sp", "distill", "early-decayed"])
def test_looks_go_by_role_and_strategy_whatever_the_names(make_row: MakeRow, strategy: str) -> None:
    rows = [
        make_row("plain old MFCC", "sid", 1.0, role=Role.PRE_TRAINED),
        make_row("pre-trained", "sid", 1.0, role=Role.TUNED, strategy="plain"),
        make_row("mine", "sid", 1.0, role=Role.TUNED, strategy=strategy),
        make_row("another", "sid", 1.0, role=Role.TUNED, strategy="early-checkpoint"),
        make_row("stable", "sid", 1.0, role=Role.MERGED, strategy=strategy, alpha=0.5),
        make_row("Speech-FT", "sid", 1.0, role=Role.FURTHER),
        make_row("random", "sid", 1.0, role=Role.FLOOR),
    ]
    assert list(Figures(rows).looks.values()) == [
        *(Look.REFERENCE, Look.PLAIN, Look.TUNED, Look.OTHER, Look.MERGED, Look.OTHER, Look.FLOOR)
    ]
    assert Figures(rows[:2]).looks["pre-trained"] is Look.TUNED, "alone, plain is what was tuned"


@pytest.mark.parametrize("strategy", ["stable", "lora", "dora", "l2sp", "distill", "early-decayed"])
def test_layers_are_shown_for_the_tuned_encoder_of_every_strategy(
    make_row: MakeRow, strategy: str
) -> None:
    rows = [
        make_row("pre-trained", "sid", 1.0),
        make_row(f"{strategy} fine-tuning", "sid", 1.0, role=Role.TUNED, strategy=strategy),
        make_row("Speech-FT", "sid", 1.0, strategy=strategy),
    ]
    section = layer_section(Figures(rows), "sid")
    assert section is not None
    assert [name for _, name in section.legend] == [row.encoder for row in rows]


def test_best_leaves_floors_out_and_follows_the_direction(
    rows: tuple[ResultRow, ...], make_row: MakeRow
) -> None:
    floor = make_row("MFCC", "sid", 99.0)
    lines = {line.encoder: line for line in main_lines(Figures([*rows, floor]), {}, {})}
    best = {name: [cell.best for cell in line.cells] for name, line in lines.items()}
    assert best["pre-trained"] == [True, False, True]
    assert best["plain fine-tuning"] == [False, True, False]
    assert best["MFCC"] == [False, False, False]


def test_differences_have_a_sign_and_the_word_of_the_paired_comparison(
    rows: tuple[ResultRow, ...],
) -> None:
    plain = "plain fine-tuning"
    colours = {(plain, "pr", "per"): "worse", (plain, "sid", "accuracy"): "better"}
    lines = {line.encoder: line for line in main_lines(Figures(rows), {}, colours)}
    found = [(cell.delta, cell.verdict) for cell in lines[plain].cells]
    assert found == [("+15.0", "worse"), ("+28.0", "better"), ("−13.0", "near")]
    assert lines["Speech-FT (alpha 0.25)"].cells[0].verdict == "near"
    assert not any(c.delta for name in ("MFCC", "pre-trained") for c in lines[name].cells)


def test_trade_counts_better_as_positive(rows: tuple[ResultRow, ...]) -> None:
    trades = {trade.encoder: trade for trade in trades_of(Figures(rows), ["sid"])}
    assert next(iter(trades)) == "pre-trained"
    plain = trades["plain fine-tuning"]
    assert (plain.on_task, plain.others, plain.off_task) == (28.0, (-15.0, -13.0), -14.0)
    assert trades_of(Figures(rows), ["unknown"]) == []


def test_trade_of_several_tuned_tasks_is_their_mean(rows: tuple[ResultRow, ...]) -> None:
    figures = Figures(rows)
    alone = {t: {one.encoder: one for one in trades_of(figures, [t])} for t in ("sid", "pr")}
    both = {trade.encoder: trade for trade in trades_of(figures, ["sid", "pr", "unknown"])}
    for name, trade in both.items():
        assert trade.on_task == pytest.approx(
            (alone["sid"][name].on_task + alone["pr"][name].on_task) / 2
        )
        assert len(trade.others) == len(figures.columns) - 2
    text = trade_section(figures, ["sid", "pr", "unknown"])
    assert text is not None
    assert text.text.startswith("Fine-tuning on sid and pr should")


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
