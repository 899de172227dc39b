"""What outputs and errors tell people to type: each command goes through the real parser."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import soundfile
import torch
import typer

from helpers import speech_encoder
from speechft import cli
from speechft.commands import command, option, running, shell, takes
from speechft.data.manifest import Corpus
from speechft.encoders.load import load_encoder

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "speechft"
PARSER: Any = typer.main.get_command(cli.app)
ODD = "my folder/it's (1).wav"


def parse(line: str) -> dict[str, Any]:
    """Give a command line to the parser as a shell would; return what it read."""
    program, verb, *words = shlex.split(line)
    assert program == "speechft"
    with PARSER.commands[verb].make_context(verb, words) as context:
        return dict(context.params)


def test_paths_come_through_as_they_are() -> None:
    read = parse(command("extract", ODD, "-a.wav", "AUDIO...", out="a b", config=ODD, layer=None))
    assert (read["encoder"], list(read["audio"])) == (ODD, ["./-a.wav", "AUDIO..."])
    paths = [Path(read[name]) for name in ("out", "config")]  # older typer makes paths later
    assert (paths, read["layer"]) == ([Path("a b"), Path(ODD)], "all")
    assert parse(command("convert", "x", "y", from_="s3prl", to="hf"))["from_"] == "s3prl"
    given = {"private": True, "overwrite": False, "results": [Path(ODD), Path("b")]}
    read = parse(command("publish", "x", repo_id="a/b", **given))
    assert (read["private"], read["overwrite"]) == (True, False)
    assert list(map(str, read["results"])) == [ODD, "b"]
    assert shlex.split(shell("iconv", ["-f", "UTF-8", ODD]))[-1] == ODD


def trees(text: str) -> Iterator[tuple[Path, ast.Module]]:
    """Yield the files of the package that hold a text."""
    for path in sorted(SRC.rglob("*.py")):
        if text in (content := path.read_text()):
            yield path, ast.parse(content)


def calls() -> Iterator[tuple[str, ast.Call]]:
    for path, tree in trees("command("):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "command":
                yield f"{path.relative_to(SRC)}:{node.lineno}", node


CALLS = dict(calls())


@pytest.mark.parametrize("place", CALLS)
def test_every_command_that_is_told_can_be_parsed(place: str) -> None:
    """What is not known before it runs stands for a path with blanks and quotes."""
    node = CALLS[place]
    verb, *arguments = (_value(argument, ODD) for argument in node.args)
    options: dict[str, Any] = {
        word.arg or "config": _value(word.value, ODD) for word in node.keywords
    }
    flags = (
        {p.name for p in PARSER.commands[verb].params if getattr(p, "is_flag", False)}
        if verb != ODD
        else set()
    )
    options |= dict.fromkeys(flags & options.keys(), True)
    verbs = [verb] if verb != ODD else ["run", "pretrain"]  # of a recipe, by its kind
    for chosen in verbs:
        read = parse(command(chosen, *arguments, **options))
        assert read.keys() >= options.keys() - {"json"}


def _value(node: ast.expr, unknown: str) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else unknown


def test_no_command_is_put_together_elsewhere() -> None:
    verbs = "|".join(PARSER.commands)
    found = []
    for path, tree in trees("speechft "):
        shown = {id(text) for text in _docstrings(tree)}
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            printed = isinstance(text, str) and id(node) not in shown
            if printed and re.search(rf"speechft ({verbs}) ", str(text)):
                found.append(f"{path.relative_to(SRC)}:{node.lineno}: {text.strip()[:60]}")
    assert not found, "use speechft.commands.command"


def _docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield texts that nothing but a reader of the source sees, or that stand alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


@pytest.mark.parametrize("verb", sorted(PARSER.commands))
def test_examples_of_help_can_be_parsed(verb: str) -> None:
    for line in re.findall(r"Example: (speechft .*)", PARSER.commands[verb].help or ""):
        parse(line)


def test_options_that_errors_speak_of_exist() -> None:
    known = {
        option
        for verb in PARSER.commands.values()
        for parameter in verb.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    known |= {"--use_fsdp", "--num_processes", "--mpirun_hostfile", "--cpu"}  # of accelerate
    known |= {"--nproc_per_node"}  # of torchrun
    known |= {"--help", "--version"}  # of all
    told = {}
    for path, tree in trees("--"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for option in re.findall(r"(?<![\w-])--[a-z][a-z_-]+", node.value):
                    told[option] = f"{path.relative_to(SRC)}:{node.lineno}"
    assert told.keys() & known
    assert {o: place for o, place in told.items() if o not in known} == {}


def test_options_that_are_named_in_the_words_of_whoever_is_told_exist() -> None:
    """`option` and `takes` go by names in Python; each is one of some verb."""
    known = {p.name for verb in PARSER.commands.values() for p in verb.params}
    asked = {
        ast.literal_eval(node.args[0])
        for path, tree in trees("speechft.commands import")
        if path.name != "commands.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("option", "takes")
    }
    assert {"config", "force", "allow", "allow_nonfinite"} <= asked <= known


def test_within_python_options_are_arguments() -> None:
    assert (option("force"), option("allow", "a,b")) == ("force=True", "allow='a,b'")
    assert takes("config"), "who calls a function knows what it takes"
    with running("speechft x", ["allow_nonfinite"]):
        assert option("allow_nonfinite") == "--allow-nonfinite"
        assert (takes("allow_nonfinite"), takes("config")) == (True, False)


@pytest.mark.parametrize(
    ("line", "holds"),
    [
        ("evaluate X --corpus C --tasks sid --out o", "speechft convert X encoder --config CONFIG"),
        ("analyze B X --corpus C --out o", "speechft convert X encoder --config CONFIG"),
        ("units fit X A --out o", "speechft convert X encoder --config CONFIG"),
        ("extract X A --out o", "with --config CONFIG"),
        ("convert X o", "with --config CONFIG"),
        ("merge X B --allow settings --out o", "--out NAME.safetensors"),
        ("sweep X B --allow settings --corpus C --tasks sid --out o", "NAME.config.json"),
        ("evaluate N --corpus C --tasks sid --out o", "diverged"),
        ("extract N A --out o", "--allow-nonfinite"),
        ("sweep B B --corpus C --tasks sid --out o", "--force (or --allow equal)"),
    ],
)
def test_a_hint_names_options_that_the_running_verb_has(
    line: str,
    holds: str,
    tones: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Weights X without a configuration, of a size that was never published; N holds NaN."""
    monkeypatch.chdir(tmp_path)
    encoder = speech_encoder("hubert")
    encoder.save(tmp_path / "B")
    state = {f"hubert.{name}": value for name, value in encoder.model.state_dict().items()}
    torch.save(state, tmp_path / "X")
    with torch.no_grad():
        next(encoder.model.parameters()).fill_(float("nan"))
    encoder.save(tmp_path / "N")
    soundfile.write(tmp_path / "A", np.zeros(8_000), 16_000, format="WAV")
    (tmp_path / "C").symlink_to(tones.folder)
    code, _, err = say(f"speechft {line}", monkeypatch, capsys)
    hint = err.partition("hint: ")[2]
    assert (code, holds in hint) == (1, True), err
    commands = re.findall(r"speechft [^,;]+", hint)
    for told in commands:
        assert parse(told)
        hint = hint.replace(told, "")
    verb = PARSER.commands[line.split()[0]]
    known = {name for parameter in verb.params for name in parameter.opts}
    assert set(re.findall(r"--[a-z-]+", hint)) <= known
    if commands:
        code, _, err = say(commands[0].replace("CONFIG", "B"), monkeypatch, capsys)
        assert code == 0, "what is told works"
        code, _, err = say(f"speechft {line}".replace("X", "encoder"), monkeypatch, capsys)
        assert "configuration" not in err


def commands_of_docs() -> Iterator[tuple[str, str]]:
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text()
        for block in re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", text, re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"(\$ )?speechft [a-z]", line):
                    yield path.name, line.removeprefix("$ ").split("  #")[0]


@pytest.mark.parametrize(("page", "line"), list(commands_of_docs()))
def test_commands_of_the_docs_can_be_parsed(page: str, line: str) -> None:
    with contextlib.suppress(click.exceptions.Exit):  # --help and its like
        parse(re.split(r"\s(?:&&|\||>)\s", line)[0])


def say(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[str], str]:
    """Run a command line in this process; return exit code, what it says is next, and stderr."""
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, re.findall(r"^next: (.*)$", said.out, re.M), said.err


def test_what_is_next_runs_as_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders with blanks; weights that need a configuration; a corpus that no task can use."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / ODD.replace("/", " - ")
    (home / "mine").mkdir(parents=True)
    speech_encoder("hubert").save(home / "base")
    torch.save(load_encoder(home / "base").model.state_dict(), home / "w.pt")
    for n in range(2):
        samples = 0.1 * np.random.default_rng(n).standard_normal(8_000)
        soundfile.write(home / "mine" / f"{n}.wav", samples, 16_000)
    (home / "t.csv").write_text("path,split\nmine/0.wav,train\nmine/1.wav,test\n")

    def follow(line: str) -> list[str]:
        shutil.rmtree("feats", ignore_errors=True)
        code, following, err = say(line, monkeypatch, capsys)
        assert code == 0, (line, err)
        return following

    given = command("inspect", home / "w.pt", config=home / "base")
    for line in follow(given):
        run = parse if "TUNED" in line or "evaluate" in line else follow
        run(line.replace("AUDIO...", shlex.quote(str(home / "mine"))))
    for line in follow(command("convert", home / "base", "-out.pt", to="s3prl")):
        parse(line)
    for place in ("t.csv", "mine", "mine/0.wav"):
        for line in follow(command("inspect", home / place)):
            for after in follow(line):
                follow(after)
