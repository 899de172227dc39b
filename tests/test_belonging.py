"""Which rows belong together: what counts, what stands apart, and how every reader says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import speechft
from speechft.api import superb_table as table_of
from speechft.belonging import apart, measured_on, newest, newest_test, side_by_side
from speechft.data.manifest import Corpus
from speechft.errors import DataError
from speechft.evaluation.compare import compare, difference_table
from speechft.evaluation.predictions import write_items
from speechft.evaluation.superb_table import superb_table
from speechft.publishing.describing import figures_of
from speechft.recipe import VerdictConfig
from speechft.reporting.examples import examples_of
from speechft.reporting.figures import Figures
from speechft.reporting.folder import read_report
from speechft.results import ResultRow, Role, read_rows, write_rows
from speechft.tasks.measures import Item
from speechft.verdict import Finding, colours, judge


def row(encoder: str, value: float, evaluation: str | None, **changes: Any) -> ResultRow:
    """Return a figure of speaker identification; a corpus and settings are details."""
    told = {key: changes.pop(key) for key in ("corpus", "settings") if key in changes}
    fields: dict[str, Any] = {
        "encoder": encoder,
        "encoder_digest": encoder,
        "task": "sid",
        "metric": "accuracy",
        "value": value,
        "higher_is_better": True,
        "n": 8,
        "interval": None,
        "split": "test",
        "seed": 0,
        "protocol": "mini",
        "learning_rate": value / 100,
        "evaluation": evaluation,
        "details": {"corpus": "my", "converged": True, **told},
    }
    return ResultRow.model_validate({**fields, **changes})


OLD, NEW = "0" * 64, "1" * 64
REPLACED = [row("a", 50.0, OLD), row("a", 100.0, NEW)]
"""The same test twice: its table was corrected in between."""
APART: dict[str, dict[str, Any]] = {
    "limit 7": {"settings": {"limit": "7"}},
    "corpus other": {"corpus": "other"},
    "split test-other": {"split": "test-other"},
    "protocol s3prl": {"protocol": "s3prl"},
    "language model 4-gram.arpa": {"settings": {"language model": "4-gram.arpa"}},
}


def folder_of(place: Path, rows: list[ResultRow]) -> Path:
    """Return a folder with rows, and with 8 items for each, as many right as its figure says."""
    named = []
    for number, one in enumerate(rows):
        right = round(one.value / 100 * one.n)
        items = [
            Item(f"u{k}", "x" if k < right else "y", "x", float(k < right), 1.0)
            for k in range(one.n)
        ]
        write_items(place / f"{number}.jsonl", items)
        named.append(one.model_copy(update={"predictions": f"{number}.jsonl"}))
    write_rows(place / "results.jsonl", named)
    return place


def test_of_one_test_the_newest_evaluation_counts_whole() -> None:
    seeds = [row("a", 40.0, OLD, seed=1), *REPLACED, row("a", 90.0, NEW, seed=1)]
    counted, older = newest(seeds)
    assert [(r.value, r.seed) for r in counted] == [(100.0, 0), (90.0, 1)]
    assert [(r.value, r.seed) for r in older] == [(40.0, 1), (50.0, 0)]
    assert newest([*REPLACED, *REPLACED]) == (REPLACED[1:], REPLACED[:1])


@pytest.mark.parametrize(("name", "changes"), APART.items())
def test_other_tests_stand_apart_by_name(name: str, changes: dict[str, Any]) -> None:
    rows = [row("a", 30.0, OLD, **changes), row("a", 100.0, NEW), row("b", 20.0, OLD, **changes)]
    shown = side_by_side(rows)
    assert {r.encoder: r.value for r in shown.rows} == {
        f"a ({name})": 30.0,
        "a": 100.0,
        f"b ({name})": 20.0,
    }
    [note] = shown.notes
    assert note.startswith("sid was measured on several tests")


@pytest.mark.parametrize("changes", [{"corpus": "renamed"}, {"settings": {"limit": "7"}}])
@pytest.mark.parametrize("turn", [1, -1])
def test_one_evaluation_is_one_test_whatever_its_rows_call_it(
    turn: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    """A corpus was renamed, or an older version did not write what was set."""
    rows = [row("a", 30.0, OLD), row("b", 100.0, OLD, **changes)][::turn]
    assert {r.encoder for r in side_by_side(rows).rows} == {"a", "b"}
    [found] = speechft.compare(folder_of(tmp_path, rows))
    assert (found.warning, found.evaluation) == ("", OLD)


@pytest.mark.parametrize("changes", [{"part": "dev"}, {"layer": 3}, {"task": "ic"}])
def test_other_figures_are_no_other_tests(changes: dict[str, Any]) -> None:
    rows = [row("a", 30.0, OLD, **changes), row("a", 100.0, NEW)]
    assert side_by_side(rows).rows == rows
    assert side_by_side(rows).notes == []


def test_the_newest_test_is_the_one_that_no_encoder_left() -> None:
    x, y = ({"corpus": name} for name in "xy")
    rows = [row("a", 1.0, OLD, **x), row("a", 2.0, NEW, **y), row("b", 3.0, OLD, **x)]
    assert newest_test(rows)["corpus"] == "y"
    crossed = [*rows, row("c", 1.0, NEW, **y), row("c", 1.0, OLD, **x)]
    assert newest_test(crossed)["corpus"] == "x"
    assert apart(measured_on(rows[0]), [measured_on(rows[1])]) == "corpus x"
    assert apart(measured_on(rows[0]), [measured_on(rows[2])]) == ""


def test_two_encoders_of_one_name_never_share_a_line(tmp_path: Path) -> None:
    twins = [row("merged", 50.0, OLD), row("merged", 90.0, NEW, encoder_digest="other")]
    names = [r.encoder for r in side_by_side(twins).rows]
    assert names == ["merged (merged)", "merged (other)"]
    places = [folder_of(tmp_path / name, [one]) for name, one in zip("AB", twins, strict=True)]
    for reader in (speechft.compare, table_of):
        with pytest.raises(DataError, match="'merged' was evaluated on sid in two places"):
            reader(places)


def test_value_and_rate_of_a_published_table_are_of_one_evaluation() -> None:
    table = superb_table(REPLACED)
    [line, *_] = table.lines
    assert (line.figures["sid", "accuracy"], line.learning_rates["sid"]) == (100.0, 1.0)
    left_out = (
        "a, sid: accuracy 50.00 (8 items, evaluation 00000000) is left out; a newer evaluation of "
        "the same test stands for it (8 items, evaluation 11111111)."
    )
    assert left_out in table.notes
    several = superb_table([row("a", 28.57, OLD, **APART["limit 7"], n=7), row("a", 37.5, NEW)])
    figures = {ln.name: ln.figures["sid", "accuracy"] for ln in several.lines if ln.learning_rates}
    assert figures == {"a (limit 7)": 28.57, "a": 37.5}


def test_a_report_and_a_table_say_the_same(tmp_path: Path) -> None:
    limited = row("a", 25.0, "2" * 64, **APART["limit 7"], n=4)
    place = folder_of(tmp_path, [limited, *REPLACED, row("b", 75.0, NEW)])
    report = read_report(place)
    assert {r.encoder: r.value for r in report.rows} == {"a (limit 7)": 25.0, "a": 100.0, "b": 75.0}
    lines = superb_table([limited, *REPLACED, row("b", 75.0, NEW)]).lines
    shown = {ln.name: ln.figures["sid", "accuracy"] for ln in lines if ln.learning_rates}
    assert shown == {r.encoder: r.value for r in report.rows}
    text = " ".join(report.warnings)
    assert "accuracy 50.00 (8 items, evaluation 00000000) is left out" in text
    assert "no limit" in text
    assert "different numbers of items" not in text
    [examples] = report.examples
    assert (examples.encoders, examples.total) == (("a", "b"), 8)


def test_a_column_of_different_evaluations_says_so(tmp_path: Path) -> None:
    place = folder_of(tmp_path, [*REPLACED, row("b", 75.0, OLD)])
    text = " ".join(read_report(place).warnings)
    assert "sid: encoders were measured by different evaluations (a 11111111, b 00000000)" in text


def test_best_and_differences_are_of_one_test() -> None:
    limit = APART["limit 7"]
    base = row("base", 50.0, NEW, role=Role.PRE_TRAINED)
    rows = [row("a", 100.0, OLD, **limit), row("a", 60.0, NEW), base]
    figures = Figures(side_by_side(rows).rows)
    [column] = figures.columns
    assert {name: figures.is_best(name, column) for name in figures.encoders} == {
        "a (limit 7)": False,
        "a": True,
        "base": False,
    }
    assert figures.base("a", column) == 50.0
    assert figures.base("a (limit 7)", column) is None


def test_no_verdict_on_what_the_base_was_not_measured_on(tmp_path: Path) -> None:
    base = row("base", 100.0, OLD, role=Role.PRE_TRAINED)
    rows = [base, row("a", 0.0, NEW, role=Role.MERGED)]
    place = folder_of(tmp_path, rows)
    judged = judge(rows, place, VerdictConfig(min_items=1))
    assert {j.finding for j in judged.values()} == {Finding.OTHER}
    assert set(colours(judged).values()) == {"near"}


def test_differences_are_of_the_newest_shared_evaluation_of_each_test(tmp_path: Path) -> None:
    limit, rows = {**APART["limit 7"], "n": 4}, []
    for name, shift in (("a", 0.0), ("b", 25.0)):
        rows += [row(name, 25.0 + shift, "2" * 64, **limit)]
        rows += [row(name, 50.0 + shift, OLD), row(name, 75.0 + shift, NEW)]
    found = compare([folder_of(tmp_path / "both", rows) / "results.jsonl"])
    assert [(d.value, d.baseline_value, d.evaluation) for d in found] == [
        (50.0, 25.0, "2" * 64),
        (100.0, 75.0, NEW),
    ]
    assert [line[0] for line in difference_table(found)[1]] == ["sid, limit 7", "sid, no limit"]
    assert [d.warning for d in found] == ["", ""]
    older = [*REPLACED, row("b", 75.0, OLD)]
    [old] = compare([folder_of(tmp_path / "old", older) / "results.jsonl"])
    assert (old.value, old.baseline_value, old.evaluation) == (75.0, 50.0, OLD)
    assert old.warning == "a alone evaluated on newer data or settings"


def test_a_card_lists_a_test_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limited = row("c", 25.0, "2" * 64, encoder_digest="a", **APART["limit 7"])
    places = [folder_of(tmp_path / name, [limited, *REPLACED]) for name in ("run", "copy")]
    found = figures_of(places, {"a"})
    assert [(r.value, r.details.get("seeds", 1)) for r in found] == [(25.0, 1), (100.0, 1)]
    assert "accuracy 50.00 (8 items, evaluation 00000000) is left out" in capsys.readouterr().err


def test_examples_are_of_the_newest_test(tmp_path: Path) -> None:
    rows = [row("a", 0.0, OLD, n=4, **APART["limit 7"]), row("a", 50.0, NEW), row("b", 75.0, NEW)]
    place = folder_of(tmp_path, rows)
    shown = side_by_side(read_rows(place / "results.jsonl")).rows
    [found] = examples_of(shown, place)
    assert found.total == 8


@pytest.mark.usefixtures("quick_probes")
def test_rows_say_what_was_set(tiny_hubert: Path, tones: Corpus, tmp_path: Path) -> None:
    def settings(**more: Any) -> Any:
        [found, *_] = speechft.evaluate(
            str(tiny_hubert),
            corpus=tones.place,
            out=tmp_path,
            tasks="style",
            **more,
        )
        return found.details.get("settings")

    assert settings(limit=4) == {"limit": "4"}
    assert settings() is None
    assert settings(layers="1") is None
    rows = side_by_side(read_rows(tmp_path / "results.jsonl"))
    whole = [r.encoder.partition(" ")[2] for r in rows.rows if r.layer is None]
    assert whole == ["(limit 4)", ""]


def test_lost_predictions_are_the_reason_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = folder_of(tmp_path, [row("a", 50.0, OLD), row("b", 75.0, OLD)])
    items = place / "1.jsonl"
    items.write_text("damaged")
    [found] = speechft.compare(place)
    assert found.note == "no interval: predictions of b cannot be read"
    assert "missing" not in capsys.readouterr().err
    for lost in place.glob("?.jsonl"):
        lost.unlink()
    [found] = speechft.compare(place)
    assert found.note == "no interval: predictions of b and a cannot be read"
    told = capsys.readouterr().err
    assert f"predictions are missing: {place / '0.jsonl'} and 1 more" in told
    assert "copy the folder evaluation beside results.jsonl" in told
    write_items(items, [Item("other", "x", "x", 1.0, 1.0)])
    write_items(place / "0.jsonl", [Item("one", "x", "x", 1.0, 1.0)])
    assert speechft.compare(place)[0].note == "no interval: items differ"


@pytest.mark.parametrize("name", ["results.jsonl", "analysis.jsonl", "recipe.yaml", "sweep.json"])
def test_a_report_of_damaged_files_alone_says_what_is_wrong(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"encoder": "cut of')
    with pytest.raises(DataError, match=f"nothing that can be reported: No {name}: ") as caught:
        read_report(tmp_path)
    assert "mend these files" in str(caught.value.hint)


@pytest.mark.parametrize("reader", [speechft.compare, table_of, lambda p: figures_of([p], set())])
def test_a_folder_without_results_has_a_hint(reader: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"results\.jsonl cannot be read: No such file") as missing:
        reader(tmp_path)
    assert "speechft evaluate ENCODER --out OUT" in str(missing.value.hint)
    (tmp_path / "results.jsonl").write_text("cut off")
    with pytest.raises(DataError, match="line 1, is not a result row") as damaged:
        reader(tmp_path)
    assert "take that line out" in str(damaged.value.hint)


def test_a_score_says_which_of_its_tasks_were_limited(tmp_path: Path) -> None:
    metrics = {
        "pr": ("per",),
        "sid": ("accuracy",),
        "er": ("accuracy",),
        "sf": ("slot_type_f1", "slot_value_cer"),
    }
    counts = dict.fromkeys(("type_f1", "value_edits", "value_length"), 1.0)
    rows = []
    for encoder in "ab":
        for task, names in metrics.items():
            changes = APART["limit 7"] if task == "er" else {}
            file = f"{encoder}-{task}.jsonl"
            items = [Item(f"u{k}", "x", "x", float(k % 2), 1.0, counts) for k in range(8)]
            write_items(tmp_path / file, items)
            rows += [
                row(encoder, 50.0, task, task=task, metric=name, predictions=file, **changes)
                for name in names
            ]
    write_rows(tmp_path / "results.jsonl", rows)
    found = {d.task: d for d in speechft.compare(tmp_path)}
    assert "er with limit 7" in found["SUPERB_S"].warning
    assert "sid with" not in found["SUPERB_S"].warning
    write_items(tmp_path / "a-sf.jsonl", [Item(f"u{k}", "x", "x", 1.0, 1.0) for k in range(8)])
    lacking = {d.metric: d for d in speechft.compare(tmp_path)}
    assert lacking["slot_value_cer"].note == "no interval: predictions of a cannot be read"
    assert "SUPERB_S" not in lacking
