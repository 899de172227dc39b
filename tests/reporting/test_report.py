"""The page: structure, escaping, degradations, determinism."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from pages import HOSTILE, Page
from speechft.errors import PackageError
from speechft.reporting.figures import Column, Look
from speechft.reporting.plots import alpha_curve
from speechft.reporting.report import Report, render
from speechft.reporting.svg import DARK, LIGHT, styles_of
from speechft.results import ResultRow

MakeRow = Callable[..., ResultRow]


def test_page_is_whole_accessible_and_alone(report: Report) -> None:
    text = render(report)
    page = Page(text)
    assert page.all("html") == [{"lang": "en"}]
    assert "viewport" in {meta.get("name") for meta in page.all("meta")}
    assert len(page.all("h1")) == 1
    assert not page.all("script")
    assert not page.all("img")
    assert set(re.findall(r'https?://[^"\s]+', text)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    figures = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(figures) == len(page.all("figure")) == 1 + 2 + 3 + 2
    assert all(svg["aria-label"] for svg in figures)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    assert referred <= set(ids)
    assert all(sentence in text for sentence in report.verdict)
    assert "2.25" in text
    assert "only the head learns in the first 9 updates" in text


def test_same_report_same_bytes(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    first = render(report)
    monkeypatch.setitem(mpl.rcParams, "font.size", 30.0)
    monkeypatch.setitem(mpl.rcParams, "svg.hashsalt", "other")
    assert render(report) == first
    assert mpl.rcParams["font.size"] == 30.0


def test_untrusted_names_are_escaped(report: Report, make_row: MakeRow) -> None:
    pairs = [(encoder, task) for encoder in ("pre-trained", HOSTILE) for task in ("sid", HOSTILE)]
    rows = tuple(
        make_row(
            encoder,
            task,
            50.0 + number,
            metric=HOSTILE,
            protocol=HOSTILE,
            details={HOSTILE: HOSTILE, "layer_weights": [0.4, 0.6]},
        )
        for number, (encoder, task) in enumerate(pairs)
    )
    curve = tuple(row.model_copy(update={"alpha": n // 2}) for n, row in enumerate(rows))
    hostile = replace(
        report,
        title=HOSTILE,
        verdict=(HOSTILE,),
        tuned_on=(HOSTILE,),
        rows=rows,
        curve=curve,
        scores={HOSTILE: 1.0},
        histories={HOSTILE: {"strategy": HOSTILE, "losses": [2.0, 1.0]}},
        recipe=HOSTILE,
        facts={HOSTILE: HOSTILE},
    )
    text = render(hostile)
    assert "<script" not in text
    page = Page(text)
    assert not page.all("script")
    assert len(page.all("figure")) == 1 + 2 + 2 + 1
    text.encode("utf-8")


def test_an_empty_run_is_still_a_page() -> None:
    page = Page(render(Report("", "sid", (), (), (), {}, {}, "", {})))
    assert not page.all("table")
    assert not page.all("figure")


def test_one_encoder_alone(report: Report, make_row: MakeRow) -> None:
    rows = (make_row("my encoder", "sid", 50.0, interval=None, learning_rate=None, details={}),)
    text = render(replace(report, rows=rows, curve=(), scores={}, histories={}))
    page = Page(text)
    assert len(page.all("table")) == 2
    assert not page.all("figure")
    assert "mini SUPERB" not in text


def test_holes_are_dashes_and_nothing_breaks(report: Report, make_row: MakeRow) -> None:
    odd = {"layer_weights": "none", "grid": 3, "converged": False}
    rows = (
        make_row("pre-trained", "sid", 50.0, interval=(math.nan, 1.0), details=odd),
        make_row("pre-trained", "pr", math.nan, interval=None, details={"layer_weights": [1.0]}),
        make_row("Speech-FT", "pr", 20.0, details={"layer_weights": [0.5, math.nan]}),
        make_row("stable fine-tuning", "sid", math.inf, interval=None, details={}),
    )
    histories = {
        "stable": {"losses": [math.nan, None, 2.0, 1.0]},
        "plain": {},
        "l2sp": {"losses": []},
    }
    text = render(
        replace(report, rows=rows, curve=rows, scores={"x": math.nan}, histories=histories)
    )
    page = Page(text)
    assert len(page.all("figure")) == 1
    assert ">–<" in text
    assert "nan" not in re.sub(r"<[^>]*>", "", text).lower()
    assert "had not converged" in text


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_up_is_better_in_the_alpha_curve(higher_is_better: bool) -> None:
    column = Column("pr", "per", higher_is_better)
    svg = alpha_curve("a", column, [(1.0, 30.0), (0.0, 20.0)], 0.25)
    found = re.findall(r'text-anchor: end[^>]* y="([\d.]+)"[^>]*>(\d+)</text>', svg)
    heights = {int(label): float(down) for down, label in found}
    assert (heights[30] < heights[20]) is higher_is_better
    assert "alpha 0: 20.0; alpha 1: 30.0" in svg


def test_styles_differ_by_more_than_colour() -> None:
    looks = {str(look): look for look in Look} | {"another": Look.OTHER, "pre": Look.REFERENCE}
    styles = styles_of({name: look for name, look in looks.items() if look is not Look.FLOOR})
    assert len({style.marker for style in styles.values()}) == len(styles)
    assert len({style.dash for style in styles.values()}) == len(styles)
    assert set(LIGHT) == set(DARK)


@pytest.mark.parametrize("module", ["jinja2", "matplotlib"])
def test_missing_extra_says_what_to_install(
    report: Report, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PackageError) as caught:
        render(report)
    assert module in caught.value.message
    assert caught.value.hint == "pip install 'speechft[report]'"


def test_plain_table_needs_no_extra(report: Report) -> None:
    import subprocess

    code = "import sys; import speechft.reporting.report; print('matplotlib' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_figures_by_language_have_a_table_where_there_are_several(
    report: Report, make_row: MakeRow
) -> None:
    assert "By language" not in render(report)
    told = {"de": {"value": 12.34, "n": 3}, HOSTILE: {"value": 56.78, "n": 5}, "xx": "damaged"}
    spoken = make_row("pre-trained", "asr", 30.0, metric="wer", details={"languages": told})
    alone = make_row("pre-trained", "pr", 20.0, details={"languages": {"de": {"value": 1.0}}})
    text = render(replace(report, rows=(spoken, alone), curve=()))
    assert "By language" in text
    assert "<td>56.8</td><td>12.3</td><td>30.0</td>" in text
    assert text.count("<td>WER %</td>") == 1
    assert HOSTILE not in text
