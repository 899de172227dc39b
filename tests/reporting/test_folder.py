"""A report from the files of folders: what is read, what is said of damage, where it is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import speechft
from pages import HOSTILE, Page
from speechft.analysis.rows import AnalysisRow, write_analysis
from speechft.errors import SpeechftError
from speechft.evaluation.predictions import write_items
from speechft.recipe import Recipe, load_recipe
from speechft.reporting.folder import curve_of, read_report, write_report
from speechft.reporting.report import render
from speechft.results import ResultRow, Role, read_rows, write_rows
from speechft.storage.files import write_json, write_text
from speechft.tasks.measures import Item

MakeRow = Callable[..., ResultRow]

SAID = ("AT NOON FETCH THE FAN", "PLEASE RAISE THE LAMP")
HEARD = {
    "pre-trained": ("AT NOON FETCH THE FAN", "PLEASE RAISE LAMP"),
    "stable fine-tuning": ("NOON NOON FETCHED A FAN UM", "PLEASE RAISE LAMP"),
    "Speech-FT": ("AT NOON FETCH THE FAN", "PLEASE RAISE THE RAMP"),
}


def sweep_json() -> dict[str, Any]:
    """Return what `speechft sweep` writes, of three merges."""
    points = [
        {
            "name": f"alpha {alpha:g}",
            "alpha": alpha,
            "part": None,
            "dev": {
                "sid": {"gain": 20 * alpha, "interval": [10 * alpha, 30 * alpha]},
                "pr": {"gain": -4 * alpha, "interval": [-6 * alpha, -2 * alpha]},
            },
            "gain": 20 * alpha,
            "kept": -6 * alpha,
            "front": True,
        }
        for alpha in (0.0, 0.25, 1.0)
    ]
    rule = {"keep_within": 2, "text": "at most 2 points lost"}
    return {
        "tuned_on": ["sid"],
        "rule": rule,
        "points": points,
        "choice": "alpha 0.25",
        "said": "alpha 0.25 gains 5.0 points on sid over the base.",
        "command": "speechft merge base tuned --alpha 0.25 --out merged",
    }


def suggestion_json() -> dict[str, Any]:
    return {
        "alpha": 0.35,
        "task": "sid",
        "reason": "gain - drift is largest there",
        "status": "not yet judged",
        "alphas": [0.0, 0.5, 1.0],
        "gain": [0.0, 0.8, 1.0],
        "gain_of_kept_head": [-1.0, 0.2, 1.0],
        "drift": [0.0, 0.3, 1.0],
    }


def analysis_rows() -> list[AnalysisRow]:
    return [
        AnalysisRow(
            encoder="tuned",
            encoder_digest="ab" * 32,
            question="similarity",
            measure="cka",
            layer=layer,
            value=1 - 0.1 * layer,
            interval=(0.9 - 0.1 * layer, 1.0),
            against="base",
        )
        for layer in range(4)
    ]


def write_items_of(folder: Path, row: ResultRow, items: list[Item]) -> ResultRow:
    place = f"evaluation/{row.encoder.replace(' ', '-')}/{row.task}/predictions-seed0.jsonl"
    write_items(folder / place, items)
    return row.model_copy(update={"predictions": place})


@pytest.fixture
def run(tmp_path: Path, make_row: MakeRow) -> Path:
    """Return a folder with the files of a run."""
    folder, rows = tmp_path / "run", []
    for name, heard in HEARD.items():
        texts = [
            Item(f"u{n}", h, said, float(h != said), 4.0, {"substitutions": 1.0}, f"s{n}")
            for n, (h, said) in enumerate(zip(heard, SAID, strict=True))
        ]
        labels = [
            Item("u0", "anna", "anna", 1.0, 1.0, group="s0"),
            Item("u1", "bob" if name == "Speech-FT" else "eve", "bob", 0.0, 1.0, group="s1"),
        ]
        labels[1] = Item("u1", labels[1].prediction, "bob", float(name == "Speech-FT"), 1.0, {})
        trials = [Item("u0|u1", "0.3", "1", 0.3, 1.0), Item("u0|u2", "0.1", "0", 0.1, 0.0)]
        alpha = 0.25 if name == "Speech-FT" else None
        for task, items in (("asr", texts), ("sid", labels), ("asv", trials)):
            metric = {"asr": "wer", "sid": "accuracy", "asv": "eer"}[task]
            changes = {"metric": metric, "higher_is_better": task == "sid", "alpha": alpha}
            row = make_row(name, task, 50.0, n=2, **changes)
            details = {**row.details, "dev": 40.0, "dev_n": 2}
            rows.append(write_items_of(folder, row, items).model_copy(update={"details": details}))
    write_rows(folder / "results.jsonl", rows)
    write_text(folder / "recipe.yaml", load_recipe(Recipe, "demo").as_yaml())
    record = {
        "facts": {"command": "speechft run demo"},
        "seconds": {"evaluation": 75.0},
        "memory_gb": {"resident": 1.25},
        "scores": {"pre-trained": 500.0},
        "dev_splits": {"sid": "sid-dev"},
        "failed": [],
    }
    write_json(folder / "run.json", record)
    history = {"losses": [2.0, 1.0], "hours_of_audio": 0.5, "seconds": 200.0, "skipped": 1}
    write_json(folder / "finetuning" / "stable" / "history.json", history)
    return folder


def test_a_run_is_read_from_its_files_alone(run: Path) -> None:
    report = read_report(run)
    assert (report.tuned_on, len(report.rows)) == (("sid",), 9)
    assert report.facts == {"command": "speechft run demo"}
    assert report.scores == {"pre-trained": 500.0}
    assert [name for name, *_ in report.costs] == [
        "fine-tuning, stable",
        "last call: evaluation",
        "last call, in all",
    ]
    assert report.costs[0][1:] == ("3 min 20 s", "", "2", "0.5", "1")
    text = render(report)
    for words in ("Read with care", "What it cost", "Examples", "1 min 15 s"):
        assert words in text
    assert {row.split for row in report.curve if row.task == "sid"} == {"sid-dev"}


def test_tasks_of_one_fine_tuning_are_all_tuned_on(run: Path) -> None:
    (run / "recipe.yaml").unlink()
    config = {"strategy": "stable", "task": "asr", "tasks": {"asr": 1.0, "sid": 0.5}}
    write_json(run / "finetuning" / "stable" / "stage.json", {"config": config})
    report = read_report(run)
    assert report.tuned_on == ("asr", "sid")
    assert render(report).count("tuned on this") >= 2
    assert "Fine-tuned on asr (" in render(report)


def test_same_files_same_bytes_whoever_writes_them(run: Path, tmp_path: Path) -> None:
    write_report([run], tmp_path / "page.html")
    page = speechft.report(run)
    assert page == run / "report.html"
    assert page.read_bytes() == (tmp_path / "page.html").read_bytes()


def test_examples_come_from_predictions_those_first_that_differ_most(run: Path) -> None:
    texts, labels = read_report(run).examples
    assert (texts.task, texts.is_text, labels.task, labels.is_text) == ("asr", True, "sid", False)
    assert [one.id for one in texts.examples] == ["u0", "u1"]
    assert (texts.differing, texts.total) == (1, 2)
    assert texts.encoders == ("pre-trained", "stable fine-tuning", "Speech-FT")
    assert [answer.errors for answer in texts.examples[0].answers] == [0, 4, 0]
    assert [one.id for one in labels.examples] == ["u1"], "all were right on u0"
    page = render(read_report(run))
    assert "left out: </span>THE" in page
    assert ", instead of </span>LAMP" in page
    assert "wrong: </span>eve" in page


def test_a_sweep_a_suggestion_and_an_analysis_have_sections(tmp_path: Path) -> None:
    write_json(tmp_path / "sweep.json", sweep_json())
    write_json(tmp_path / "suggestion.json", suggestion_json())
    write_analysis(tmp_path / "analysis.jsonl", analysis_rows())
    report = read_report(tmp_path)
    assert (report.tuned_on, report.warnings) == (("sid",), ())
    text = render(report)
    page = Page(text)
    assert len(page.all("figure")) == 2 + 1 + 1 + 1
    assert "Chosen: alpha 0.25, the dark diamond. alpha 0.25 gains 5.0 points" in text
    assert "Suggested: alpha 0.35" in text
    assert "not yet judged" in text
    assert "least like the base" in text
    assert "--alpha 0.25 --out merged" in text


def test_a_report_tells_no_paths_and_no_secrets(tmp_path: Path) -> None:
    mark, secret = "alice-of-7f3q", "Pa55-w0rd"
    folder = tmp_path / mark / "run"
    content = sweep_json()
    content["command"] = f"speechft merge /home/{mark}/base b --out {tmp_path}/{mark}/merged"
    write_json(folder / "sweep.json", content)
    facts = {"command": f"speechft run /{mark}/x.yaml", "corpus": f"https://me:{secret}@host/x"}
    write_json(folder / "run.json", {"facts": facts})
    write_text(folder / "recipe.yaml", f"title: x\nencoder: /home/{mark}/base\nlost: 1\n")
    write_text(folder / "suggestion.json", "{")
    write_text(folder / "results.jsonl", "{}\n")
    report = read_report(folder)
    assert len(report.warnings) == 3, report.warnings
    text = render(report)
    assert mark not in text
    assert secret not in text
    assert "speechft merge base b --out merged" in text
    assert "encoder: base" in text


def test_a_search_has_a_front_and_no_curve(tmp_path: Path) -> None:
    write_json(tmp_path / "search.json", sweep_json())
    assert len(Page(render(read_report(tmp_path))).all("figure")) == 1


def test_parts_that_were_swept_apart_have_places_of_their_own(tmp_path: Path) -> None:
    content = sweep_json()
    for number, point in enumerate(content["points"]):
        point["part"] = point["name"] = f"layer {number}"
    write_json(tmp_path / "sweep.json", content)
    text = render(read_report(tmp_path))
    assert ">layer 2<" in text
    assert "alpha (0 base, 1 tuned)" not in text


def test_several_runs_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "swept" / "sweep.json", sweep_json())
    write_analysis(tmp_path / "run-2" / "analysis.jsonl", analysis_rows())
    page = speechft.report([run, tmp_path / "swept", tmp_path / "run-2"], out=tmp_path / "both")
    assert page == tmp_path / "both" / "report.html"
    text = page.read_text()
    found = Page(text)
    assert len(found.all("article")) == 3
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(a["href"]) for a in found.all("a")]
    assert len(links) == 3
    assert {link.removeprefix("#") for link in links} <= set(ids)
    named = {a.get("aria-labelledby") for _, a in found.elements} - {None}
    assert named <= set(ids)
    assert [tag for tag, _ in found.elements if tag in ("h1", "h4")] == ["h1"]
    regions = [a for _, a in found.elements if a.get("role") == "region"]
    assert len(regions) > 5
    assert all(a["tabindex"] == "0" and {"aria-label", "aria-labelledby"} & set(a) for a in regions)
    assert all(a.get("aria-label") for a in found.all("svg") if a.get("role") == "img")


def test_runs_of_one_title_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    places = [tmp_path / name / "run" for name in ("first", "second")]
    for place in places:
        write_analysis(place / "analysis.jsonl", analysis_rows())
    reports = write_report(places, tmp_path / "page.html")
    assert [report.title for report in reports] == ["first/run", "second/run"]


def test_the_verb_says_where_the_page_is(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from speechft.cli import app

    folder = str(tmp_path)
    write_json(tmp_path / "search.json", sweep_json())
    arguments = ["report", folder, folder, "--out", str(tmp_path / "page")]
    done = CliRunner().invoke(app, arguments)
    assert done.output.strip() == f"wrote {tmp_path / 'page' / 'report.html'}"
    text = (tmp_path / "page" / "report.html").read_text()
    assert "side by side" not in text, "a folder that is given twice counts once"


def test_probes_on_single_layers_have_a_section_and_no_place_in_the_table(run: Path) -> None:
    rows = read_rows(run / "results.jsonl")
    alone = [
        row.model_copy(update={"layer": layer, "value": 10.0 * layer})
        for row in rows
        for layer in (0, 1)
    ]
    write_rows(run / "results.jsonl", [*rows, *alone])
    report = read_report(run)
    assert {row.value for row in report.rows} == {50.0}
    assert len(report.by_layer) == len(alone)
    text = render(report)
    assert "What single layers can do" in text
    assert "best at layer 1 with 10.0" in text


@pytest.mark.parametrize("name", ["recipe.yaml", "sweep.json", "suggestion.json", "run.json"])
@pytest.mark.parametrize("content", ["{", "[]", '{"points": [{}], "alphas": 3}', "null"])
def test_what_cannot_be_read_is_said_and_the_rest_is_shown(
    run: Path, name: str, content: str
) -> None:
    (run / name).write_text(content)
    report = read_report(run)
    assert len(report.rows) == 9
    said = any(f"No {name}: " in sentence for sentence in report.warnings)
    assert said or (name == "run.json" and content != "{"), report.warnings
    if content == "[]" and name == "recipe.yaml":
        Page(render(report))


def test_lost_predictions_and_odd_values_end_nothing(run: Path) -> None:
    next(run.rglob("asr/predictions-seed0.jsonl")).unlink()
    odd = {"losses": 3, "evaluations": [1, {"step": "x"}], "seconds": "long", "skipped": None}
    write_json(run / "finetuning" / "stable" / "history.json", odd)
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    for row in rows:
        row["details"] |= {"dev": "x", "grid": {"y": 1}, "tuned_on": 3, "clean": {"value": "z"}}
    (run / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_text(run / "analysis" / "analysis.jsonl", "{}\n")
    report = read_report(run)
    assert any(s.startswith("No examples: ") for s in report.warnings)
    assert any(s.startswith("No analysis/analysis.jsonl: ") for s in report.warnings)
    Page(render(report))


def test_names_in_files_are_escaped(tmp_path: Path, make_row: MakeRow) -> None:
    hostile = HOSTILE.encode("utf-8", "replace").decode().replace("\0", "")
    content = sweep_json()
    content |= {"tuned_on": [hostile], "choice": hostile, "command": hostile}
    content["rule"]["text"] = hostile
    for point in content["points"]:
        point["name"] = point["part"] = hostile
        point["dev"][hostile] = point["dev"]["sid"]
    write_json(tmp_path / "sweep.json", content)
    suggested = suggestion_json() | {"task": hostile, "reason": hostile, "status": hostile}
    write_json(tmp_path / "suggestion.json", suggested)
    write_analysis(
        tmp_path / "analysis.jsonl",
        [row.model_copy(update={"encoder": hostile}) for row in analysis_rows()],
    )
    items = [Item(hostile, f"a {hostile} c", f"{hostile} b d", 1, 2, {"substitutions": 1.0})]
    labels = [Item(hostile, hostile, "x", 0, 1)]
    rows = []
    for number, encoder in enumerate(("a", hostile)):
        for task, found in ((hostile, items), ("sid", labels)):
            place = f"p-{number}-{len(found[0].counts)}.jsonl"
            write_items(tmp_path / place, found)
            changes = {"predictions": place, "left_out": {hostile: 1}, "protocol": hostile}
            row = make_row(encoder, task, 50.0, **changes)
            rows += [row, row.model_copy(update={"layer": 1, "predictions": None})]
    write_rows(tmp_path / "results.jsonl", rows)
    write_json(tmp_path / "run.json", {"seconds": {hostile: 3}, "failed": ["none", hostile * 2]})
    write_json(tmp_path / "finetuning" / "a" / "b" / "history.json", {"losses": [2.0, 1.0]})
    text = render(read_report(tmp_path), read_report(tmp_path))
    assert "<script" not in text
    page = Page(text)
    assert not page.all("script")
    assert "Examples" in text
    assert text.count('class="example"') == 2


def test_a_place_is_needed_and_must_hold_something(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folders, out, words in (
        ([run, tmp_path / "empty"], None, "2 folders need a place"),
        ([], None, "0 folders need a place"),
        ([tmp_path / "lost"], None, "is no folder"),
        ([run / "results.jsonl"], None, "is no folder"),
        ([tmp_path / "empty"], None, "holds nothing to report"),
        ([run, tmp_path / "empty"], tmp_path / "out", "holds nothing to report"),
    ):
        with pytest.raises(SpeechftError, match=words):
            speechft.report(folders, out=out)
    assert not list((tmp_path / "empty").glob("*.html"))
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_page_of_somebody_else_stays(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_json(run / "search.json", sweep_json())
    page = run / "report.html"
    page.write_text("mine")
    with pytest.raises(SpeechftError, match="not written by"):
        speechft.report(run)
    assert page.read_text() == "mine"
    assert speechft.report(run, out=tmp_path / "other").is_file()
    speechft.report(run, overwrite=True)
    assert "speechft report" in page.read_text()
    page.write_text('older, <p class="eyebrow">speechft report</p>')
    (run / ".speechft.json").unlink()
    assert len(speechft.report(run).read_text()) > 10_000, "of a version without records"


def test_the_curve_takes_dev_figures_of_tested_ends(make_row: MakeRow) -> None:
    recipe = load_recipe(Recipe, "demo", ["merging.curve=[0.5]", "merging.curve_tasks=[sid]"])
    dev = {"details": {"dev": 30.0, "dev_n": 7}}
    rows = [
        make_row("pre-trained", "sid", 50.0, **dev),
        make_row("pre-trained", "pr", 50.0, **dev),
        make_row("stable fine-tuning", "sid", 60.0, **dev),
        make_row("plain fine-tuning", "sid", 70.0, **dev),
        make_row("Speech-FT", "sid", 55.0, alpha=0.25, **dev),
    ]
    merged = {"role": Role.MERGED, "strategy": "stable", "n": 7, "split": "d", "part": "dev"}
    between = make_row("alpha 0.5", "sid", 30.0, alpha=0.5, **merged, **dev)
    curve = curve_of([*rows, between], recipe, {})
    assert [(row.alpha, row.value, row.split, row.n) for row in curve] == [
        (alpha, 30.0, "d", 7) for alpha in (0.0, 0.25, 0.5, 1.0)
    ]
    base = make_row("alpha 0", "sid", 20.0, alpha=0.0, **merged, details={"dev": 20.0, "dev_n": 7})
    sequence = curve_of([*rows, between, base], recipe, {"sid": "s"})
    assert [row.value for row in sequence] == [20.0, 30.0, 30.0, 30.0], "base is no pre-trained one"
    assert curve_of(rows, load_recipe(Recipe, "demo", ["merging.curve=[]"]), {}) == []
