"""What verbs print about results and corpora."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechft import cli
from speechft.cli.tables import print_results
from speechft.results import ResultRow


def row(encoder: str, task: str, metric: str, value: float, **changes: object) -> ResultRow:
    fields: dict[str, object] = {
        "encoder": encoder,
        "encoder_digest": "0",
        "task": task,
        "metric": metric,
        "value": value,
        "higher_is_better": metric not in ("per", "slot_value_cer"),
        "n": 10,
        "interval": (value - 1, value + 1),
        "split": "test",
        "seed": 0,
        "protocol": "default",
        "learning_rate": 1e-3,
    }
    return ResultRow.model_validate({**fields, **changes})


def test_table_has_the_score_where_its_tasks_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {
        ("pr", "per"): 5.17,
        ("sid", "accuracy"): 81.86,
        ("er", "accuracy"): 64.99,
        ("sf", "slot_type_f1"): 88.54,
        ("sf", "slot_value_cer"): 24.70,
    }
    rows = [row("hubert", *key, value) for key, value in figures.items()]
    rows += [row("other", "pr", "per", 9.0, details={"converged": False})]
    print_results(rows, "default")
    printed = capsys.readouterr().out
    assert "870.2" in printed
    assert "9.00 [8.00, 10.00] *" in printed
    assert "per ↓" in printed


def test_seeds_are_shown_together(capsys: pytest.CaptureFixture[str]) -> None:
    known = {"interval_over_seeds": [45.0, 62.0], "converged": False}
    rows = [row("a", "sid", "accuracy", 50.0 + n, seed=n, details=known) for n in range(3)]
    print_results(rows, "default")
    printed = capsys.readouterr().out
    assert "51.00 [45.00, 62.00] *" in printed
    assert "over test groups and 3 seeds" in " ".join(printed.split())
    assert "* the probe was still improving" in printed


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.1), 16_000)
    path = tmp_path / "my.csv"
    path.write_text("path,split,speaker\na.wav,train,anna\n")
    return path


def prepare(csv: Path, out: Path, *options: str, code: int = 0) -> None:
    given = ["prepare", "generic", str(csv), "--out", str(out), *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["speechft", *given])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert (stop.value.code or 0) == code


def test_summary_of_a_corpus(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(csv, tmp_path / "out")
    text = capsys.readouterr().out
    for part in ("my", "train", "speaker", f"corpus: {tmp_path / 'out'}", "next: speechft extract"):
        assert part in text


def test_what_is_next_is_what_the_corpus_allows(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not all tasks of the demo; nothing that would refuse it for what it lost."""
    names = [(split, who) for split in ("train", "dev", "test") for who in ("anna", "bert")]
    for n, _ in enumerate(names):
        soundfile.write(tmp_path / f"{n}.wav", np.full(16_000, 0.1 + n / 20), 16_000)
    rows = "".join(f"{n}.wav,{split},{who}\n" for n, (split, who) in enumerate(names))
    csv.write_text(f"path,split,speaker\n{rows}")
    prepare(csv, tmp_path / "out")
    demo = f"run demo --corpus {tmp_path / 'out'} --set evaluation.tasks=available --out runs/mine"
    assert f"next: speechft {demo}" in capsys.readouterr().out
    csv.write_text(f"path,split,speaker\n{rows}gone.wav,dev,bert\n")
    prepare(csv, tmp_path / "out", code=1)
    assert f"next: speechft inspect {tmp_path / 'out'}" in capsys.readouterr().out


def test_summary_of_a_corpus_for_programs(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(csv, tmp_path / "out", "--json")
    content = json.loads(capsys.readouterr().out)
    assert content["folder"] == str(tmp_path / "out")
    assert content["splits"]["train"]["utterances"] == 1
    assert content["splits"]["train"]["speakers"] == 1


def test_what_is_left_out_is_named_and_the_exit_code_tells(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also the second time, when nothing is done; and the corpus holds the rest."""
    (tmp_path / "text.wav").write_text("words")
    rows = "a.wav,train,anna\ntext.wav,train,anna\ngone.wav,dev,bert\nc.wav,dev,bert\n"
    soundfile.write(tmp_path / "c.wav", np.full(16_000, 0.2), 16_000)
    csv.write_text(f"{csv.read_text()}{rows}")
    for options in ((), ()):
        prepare(csv, tmp_path / "out", *options, code=1)
        printed = capsys.readouterr()
        assert "left out: text.wav (unreadable-audio): not readable as audio" in printed.out
        assert "left out: a.wav (listed-twice)" in printed.out
        assert "left out: gone.wav (missing-audio): does not exist" in printed.out
        assert "error: 3 of 5 recordings are left out: " in printed.err
        assert f"hint: the corpus holds the rest; what is wrong with each is in {tmp_path}" in (
            printed.err
        )
    prepare(csv, tmp_path / "out", "--json", code=1)
    content = json.loads(capsys.readouterr().out)
    assert content["left_out"].keys() == {"a.wav", "text.wav", "gone.wav"}
    assert {name: v["utterances"] for name, v in content["splits"].items()} == {
        "train": 1,
        "dev": 1,
    }


def test_segments_of_one_recording_count_each(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv.write_text(
        "path,split,start,end\na.wav,train,0,0.5\na.wav,train,0.5,2\na.wav,train,0.6,3\n"
        "gone.wav,train,0,1\ngone.wav,train,1,2\n"
    )
    prepare(csv, tmp_path / "out", "--json", code=1)
    printed = capsys.readouterr()
    assert "warning: 4 of 5 recordings are left out" in printed.err
    assert "error: 4 of 5 recordings are left out: " in printed.err
    assert json.loads(printed.out)["left_out"]["a.wav"] == (
        "seconds 0.5 to 2 of a recording of 1.00 s; seconds 0.6 to 3 of a recording of 1.00 s"
    )


def test_what_was_not_asked_for_does_not_count(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing recordings that are allowed, a recording that no table mentions, remarks."""
    csv.write_text("path,split,text\na.wav,train,...\ngone.wav,dev,b\n")
    soundfile.write(tmp_path / "b.wav", np.full(16_000, 0.1), 16_000)
    prepare(tmp_path, tmp_path / "out", "--allow-missing")
    printed = capsys.readouterr()
    assert "left out: b.wav (no-label): my.csv does not mention it" in printed.out
    assert "the text '...' holds no letter: tasks of text leave it out" in printed.err
    assert "error" not in printed.err
