"""Console: logs and bars on stderr and from one process only, tables on stdout and never cut."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import speechft
from speechft import cli
from speechft.console import fail, log, print_table, progress_bar, say, visible, warn
from speechft.results import ResultRow

HOSTILE = (
    "\x1b[31mred\x1b]0;title\x07\rover\x9bm\u202eback[bold]loud[/bold][link=http://x]l[/link]\udcff"
)
SHOWN = (
    r"\x1b[31mred\x1b]0;title\x07\rover\x9bm\u202eback[bold]loud[/bold][link=http://x]l[/link]\xff"
).replace(r"\rover", r"\x0dover")


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


def obeyed(text: str) -> set[str]:
    """Return the characters of a text that a terminal would obey."""
    return {c for c in text if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e")}


def test_names_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    log(f"encoder: {HOSTILE}")
    warn(HOSTILE)
    fail(f"error: {HOSTILE}\nhint: {HOSTILE}")
    say(f"corpus: {HOSTILE}")
    print_table(HOSTILE, ["task", HOSTILE], [[HOSTILE, "1"]])
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"encoder: {SHOWN}",
        f"warning: {SHOWN}",
        f"error: {SHOWN}",
        f"hint: {SHOWN}",
    ]
    assert captured.out.count(SHOWN) == 4
    assert not obeyed(captured.out + captured.err)


def test_results_are_printed_by_the_first_process_and_errors_by_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")

    def spoken(rank: int, error: str) -> tuple[str, str]:
        monkeypatch.setenv("RANK", str(rank))
        say("result")
        print_table("t", ["x"], [["1"]])
        fail(error)
        captured = capsys.readouterr()
        return captured.out, captured.err

    alike = [spoken(rank, "error: the same") for rank in range(2)]
    assert [bool(out) for out, _ in alike] == [True, False]
    assert [err for _, err in alike] == ["error: the same\n"] * 2, "nobody tells them of each other"
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    said = []
    for rank, error in ((1, "error: of one"), (1, "error: of both"), (0, "error: of both")):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / str(rank) / "error.json"))
        said.append(spoken(rank, error)[1])
    assert said == ["error: of one\n", "error: of both\n", ""]
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "gone" / "0" / "error.json"))
    assert spoken(0, "error: of both")[1] == "error: of both\n"


def test_line_feeds_in_names_begin_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    log("speaker a\nerror: b")
    print_table("t", ["x\ny"], [["a\nb"]])
    captured = capsys.readouterr()
    assert captured.err == "speaker a\\nerror: b\n"
    assert "x\\ny" in captured.out
    assert "a\\nb" in captured.out


def test_marked_up_names_stay_apart(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("t", ["encoder", "x"], [["hubert[best]", "1"], ["hubert[last]", ":smile:"]])
    out = capsys.readouterr().out
    for name in ("hubert[best]", "hubert[last]", ":smile:"):
        assert name in out


@settings(max_examples=50)
@given(st.text())
def test_any_text_can_be_shown(text: str) -> None:
    shown = visible(text)
    assert not obeyed(shown)
    shown.encode()
    assert visible(shown) == shown


def test_what_the_terminal_cannot_write_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    say("per ↓")
    assert raw.getvalue() == b"per \\u2193\n"


def test_bars_show_names(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with progress_bar("tune hubert[best]\x1b]0;t\x07", 9) as bar:
        bar.note("file[bold]\x07.wav")
        if bar.progress is not None:
            bar.progress.refresh()
    for text in ("hubert[best]\\x1b]0;t\\x07", "file[bold]\\x07.wav"):
        assert text in terminal.getvalue()


def test_verbs_show_names_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "e\x1b[31m[bold]"
    row = ResultRow(
        encoder=name,
        encoder_digest="0" * 64,
        task="label:col\x1b[2J[red]",
        metric="accuracy",
        value=50.0,
        higher_is_better=True,
        n=2,
        split="te\x07st",
        seed=0,
        protocol="mini",
        learning_rate=None,
        interval=None,
    )
    lines = [json.dumps(row.as_dict() | {"encoder": n}) + "\n" for n in (name, "other")]
    (tmp_path / "results.jsonl").write_text("".join(lines))
    wrong = tmp_path / "\x1b[31m[bold].wav"
    wrong.write_bytes(b"no audio")
    (tmp_path / "table.csv").write_text("path,\x1b[31mlabel\n\x1b[2Jx.wav,a\n")
    for arguments in (
        ["compare", str(tmp_path)],
        ["inspect", str(wrong)],
        ["inspect", str(tmp_path / "table.csv")],
        ["inspect", str(tmp_path / "no\x1b[31m")],
        ["extract", "tiny-hubert", str(wrong), "--out", str(tmp_path / "out")],
        ["evaluate", "mfcc", "--corpus", "\x1b[31m.csv", "--out", str(tmp_path / "out")],
        ["run", "\x1b[31m[bold]", "--out", str(tmp_path / "out")],
        ["merge", "\x1b[31m/\x07", "b", "--out", str(tmp_path / "out")],
    ):
        monkeypatch.setattr(sys, "argv", ["speechft", *arguments])
        with contextlib.suppress(SystemExit):
            cli.main()
        captured = capsys.readouterr()
        assert captured.out + captured.err, arguments
        assert not obeyed(captured.out + captured.err), arguments


def test_nothing_else_prints() -> None:
    root = Path(speechft.__file__).parent
    alone = {"console.py", "data/corpora/synthetic/speak.py", "data/corpora/synthetic/worker.py"}
    found = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        text = "" if name in alone else path.read_text()
        if not any(word in text for word in ("print(", "echo(", "std")):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("print", "typer.echo", "sys.stdout.write", "sys.stderr.write"):
                    found.append(f"{name}:{node.lineno}")
    assert not found
