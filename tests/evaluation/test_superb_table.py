"""The SUPERB row beside published ones: figures, scores, warnings, and its three forms."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from speechft import cli
from speechft.errors import DataError
from speechft.evaluation.superb_score import CONSTANTS, FITTED
from speechft.evaluation.superb_table import (
    PUBLISHED,
    as_csv,
    as_latex,
    at_edge,
    is_ranked,
    scored_table,
    superb_table,
)
from speechft.results import ResultRow, write_rows

FIGURES = {
    ("pr", "per"): 5.17,
    ("sid", "accuracy"): 81.86,
    ("er", "accuracy"): 64.99,
    ("sf", "slot_type_f1"): 88.54,
    ("sf", "slot_value_cer"): 24.70,
}


def rows(encoder: str, shift: float = 0.0, **changes: Any) -> list[ResultRow]:
    made = []
    for (task, metric), value in FIGURES.items():
        fields: dict[str, Any] = {
            "encoder": encoder,
            "encoder_digest": encoder,
            "task": task,
            "metric": metric,
            "value": value + (shift if task == "sid" else 0.0),
            "higher_is_better": metric not in ("per", "slot_value_cer"),
            "n": 10,
            "interval": (value - 1, value + 1),
            "split": "test",
            "seed": 0,
            "protocol": "default",
            "learning_rate": 1e-3,
            "details": {"grid": {"0.0001": 1.0, "0.001": 2.0, "0.01": 1.0}, "precision": "fp32"},
        }
        made.append(ResultRow.model_validate({**fields, **changes}))
    return made


def test_published_rows_are_reproduced() -> None:
    table = superb_table(rows("mine"))
    published = {line.name: line for line in table.lines if line.protocol == "published"}
    assert set(published) == {row.name for row in PUBLISHED}
    scored = [row for row in PUBLISHED if row.score is not None]
    assert len(scored) == 6
    for row in scored:
        for name in FITTED:
            assert published[row.name].scores[name] == pytest.approx(row.score, abs=0.0101)
    large = published["WavLM Large"]
    assert large.scores["wavlm-large"] == pytest.approx(1000.0)
    mine = table.lines[0]
    assert mine.scores["speech-ft"] == pytest.approx(870.20, abs=0.0101)
    assert mine.scores.keys() == CONSTANTS.keys()


def test_a_row_says_protocol_rates_and_what_is_doubtful() -> None:
    grid = {"grid": {"0.001": 2.0, "0.01": 1.0}, "precision": "bf16"}
    edge = rows("edge", shift=9.0, details=grid)
    table = superb_table([*rows("one"), *rows("near", shift=0.5), *edge])
    header, cells = table.cells()
    assert cells[0][:3] == ["one", "5.17", "81.86"]
    assert cells[0][header.index("protocol")] == "default"
    assert cells[0][header.index("learning rates")] == "pr 0.001, sid 0.001, er 0.001, sf 0.001"
    text = "\n".join(table.notes)
    for task in ("pr", "sid", "er", "sf"):
        assert f"edge, {task}: the learning rate 0.001 lies at the edge" in text
    assert "one, pr: the learning rate" not in text
    assert "one and near are not ranked" in text
    assert "one and edge" not in text
    assert "different precision stand side by side: fp32, bf16" in text
    assert "fitted to six published rows" in text


def test_test_items_that_were_tuned_on_are_named_with_the_score_without_them() -> None:
    seen = rows("mine")
    details = {**seen[2].details, "tuned_on": {"utterances": [8, 12]}}
    seen[2] = seen[2].model_copy(update={"details": {**details, "clean": {"value": 60.0, "n": 4}}})
    [note] = [note for note in superb_table(seen).notes if "tuned on" in note]
    assert note.startswith("mine, er: 8 of 12 test utterances were tuned on; accuracy 64.99, ")
    lower = 870.20 - 250 * 4.99 / (70.67 - 35.39)
    assert note.endswith(f"without them 60.00; SUPERB_S 870.20, without them {lower:.2f}")
    seen[2].details["clean"] = {"value": None, "n": 0}
    assert any("none is left without them" in note for note in superb_table(seen).notes)


def test_encoders_are_ranked_only_where_every_set_of_constants_agrees() -> None:
    def scores(*values: float) -> dict[str, float]:
        return dict(zip(FITTED, values, strict=True))

    base = scores(800, 800, 800)
    assert is_ranked(base, scores(806, 805, 807))
    assert is_ranked(scores(806, 805, 807), base)
    assert not is_ranked(base, scores(806, 804.9, 807))
    assert not is_ranked(base, scores(806, 790, 807))


@pytest.mark.parametrize(
    ("rate", "grid", "expected"),
    [
        (1e-3, (1e-4, 1e-3, 1e-2), False),
        (1e-2, (1e-4, 1e-3, 1e-2), True),
        (1e-4, (1e-4, 1e-3, 1e-2), True),
        (0.031622776, (0.01, 0.0316), True),
        (1e-4, (1e-4,), False),
        (None, (), False),
    ],
)
def test_a_single_rate_has_no_edge(rate: float | None, grid: Any, expected: bool) -> None:
    details = {"grid": {f"{r:.3g}": 1.0 for r in grid}}
    assert at_edge(rows("a", learning_rate=rate, details=details)[0]) is expected


def test_csv_and_latex_hold_the_same_cells() -> None:
    table = superb_table(rows("my_encoder & co"))
    header, cells = table.cells()
    assert list(csv.reader(io.StringIO(as_csv(table)))) == [header, *cells]
    latex = as_latex(table)
    assert r"PR PER \% $\downarrow$" in latex
    short, brief = table.cells(brief=True)
    assert (short, brief[0]) == (header[:-2], cells[0][:-2])
    assert r"my\_encoder \& co" in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(body) == 1 + len(cells)
    assert {line.replace(r"\&", "").count("&") for line in body} == {len(header) - 1}
    assert latex.startswith(r"\begin{tabular}{l")
    assert all(note in latex for note in table.notes)


def test_other_tasks_and_dev_figures_are_left_out() -> None:
    style = rows("mine", task="style", metric="accuracy")[:1]
    assert superb_table([*rows("mine"), *style]).keys == tuple(FIGURES)
    some = [row for row in rows("mine") if row.task != "er"]
    assert superb_table(some).lines[0].scores == {}
    assert scored_table(some) is None
    assert scored_table(rows("mine")) is not None
    for nothing in (style, rows("mine", part="dev")):
        assert scored_table(nothing) is None
        with pytest.raises(DataError, match="no test figure of a task of SUPERB"):
            superb_table(nothing)


def test_notes_stand_beside_csv_not_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "results.jsonl", rows("a"))
    typed = ["speechft", "compare", str(tmp_path), "--format", "csv"]
    monkeypatch.setattr(sys, "argv", typed)
    with contextlib.suppress(SystemExit):
        cli.main()
    shown = capsys.readouterr()
    table = superb_table(rows("a"))
    assert list(csv.reader(io.StringIO(shown.out))) == [table.cells()[0], *table.cells()[1]]
    assert all(note in shown.err for note in table.notes)


@pytest.mark.parametrize("typed", [["--baseline", "a"], ["--json"], ["--baseline", "a", "--json"]])
def test_what_csv_and_latex_cannot_take_is_refused(
    typed: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_rows(tmp_path / "results.jsonl", rows("a"))
    for form in ("csv", "latex"):
        line = ["speechft", "compare", str(tmp_path), "--format", form, *typed]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit):
            cli.main()
        shown = capsys.readouterr()
        assert shown.out == ""
        assert f"{typed[0]} " in shown.err
        assert f"cannot be used with --format {form}" in shown.err
