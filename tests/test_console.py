"""Console: logs and bars on stderr and from one process only, tables on stdout and never cut."""

from __future__ import annotations

import io
import sys

import pytest

from speechft.console import log, print_table, progress_bar, warn


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_log_and_warn_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    log("one")
    warn("two")
    captured = capsys.readouterr()
    assert captured.err == "one\nwarning: two\n"
    assert captured.out == ""


def test_only_the_main_process_logs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    log("one")
    warn("two")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    log("three")
    assert capsys.readouterr().err == "three\n"


def test_bar_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("work", 3) as bar:
        bar.advance()
        bar.note("half way")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize(("rank", "shown"), [("0", True), ("1", False)])
def test_bar_on_a_terminal_goes_on_from_what_is_done(
    rank: str, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("RANK", rank)
    with progress_bar("tuning", 9, done=4) as bar:
        bar.advance(2)
        bar.note("loss 1.25")
        if bar.progress is not None:
            bar.progress.refresh()
    for text in ("tuning", "6/9", "loss 1.25"):
        assert (text in terminal.getvalue()) is shown


def test_table_goes_to_stdout_whole(capsys: pytest.CaptureFixture[str]) -> None:
    name = "an-encoder-with-a-name-of-some-length-" * 2
    print_table("results", ["encoder", "per", "acc"], [[name, "12.3", "9"], ["b", "4", "100.0"]])
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert "results" in lines[0]
    row = next(line for line in lines if name in line)
    short = next(line for line in lines if "100.0" in line)
    assert "12.3" in row
    assert row.index(name) == short.index("b"), "the first column is left-aligned"
    assert row.index("12.3") + 3 == short.index("4"), "the others are right-aligned"
