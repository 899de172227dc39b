"""Verbs for machines: stdout is JSON and nothing else, what people read is on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from speechft import api, cli
from speechft.cli.app import app
from speechft.console import print_table, say
from speechft.pipeline.stages import Summary
from speechft.results import ResultRow, Role

ROW = ResultRow(
    encoder="merged",
    encoder_digest="0" * 64,
    task="sid",
    metric="accuracy",
    value=81.5,
    higher_is_better=True,
    n=7,
    interval=None,
    split="test",
    seed=0,
    protocol="mini",
    learning_rate=None,
    role=Role.MERGED,
)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("demo", {"rows", "curve", "verdict", "report"}),
        ("run demo", {"rows", "curve", "verdict", "report"}),
        ("finetune demo", {"encoder"}),
        ("pretrain pretrain-tiny", {"encoder"}),
        ("report", {"report"}),
    ],
)
def test_stdout_is_json(
    line: str,
    told: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def works(*_: Any, **__: Any) -> Any:
        say("what people read")
        print_table("a table", ["x"], [["1"]])
        verb = "run" if "demo" in line and "finetune" not in line else line.split()[0]
        return Summary([ROW], [], ("merged 81.5",), tmp_path) if verb == "run" else tmp_path

    verb, *arguments = line.split()
    monkeypatch.setattr(api, "run" if verb == "demo" else verb, works)
    words = [str(tmp_path)] if verb == "report" else arguments
    typed = ["speechft", verb, *words, "--out", str(tmp_path / "out"), "--json"]
    monkeypatch.setattr(sys, "argv", typed)
    with contextlib.suppress(SystemExit):
        cli.main()
    shown = capsys.readouterr()
    if verb != "report":  # which says nothing before
        found = json.loads(shown.out)
        assert set(found) == told
        assert "what people read" in shown.err
        assert "┏━━━┓" in shown.err
        if "rows" in found:
            assert [ResultRow(**row) for row in found["rows"]] == [ROW]
    else:
        assert set(json.loads(shown.out.splitlines()[-1])) == told
    say("again")
    assert capsys.readouterr().out == "again\n"


def test_every_verb_has_json() -> None:
    command = typer.main.get_command(app)
    without = []
    verbs = dict(command.commands)  # type: ignore[attr-defined]
    while verbs:
        name, verb = verbs.popitem()
        if inner := getattr(verb, "commands", None):
            verbs |= {f"{name} {sub}": one for sub, one in inner.items()}
        elif not any("--json" in option.opts for option in verb.params):
            without.append(name)
    assert without == []
