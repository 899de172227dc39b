"""The command line as a user meets it: help, lists, and one clear message for every mistake."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import speechft
from speechft import cli
from speechft.data.manifest import Corpus


def _run(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run a verb in this process; return exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["speechft", *arguments])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


VERBS = sorted(command.callback.__name__ for command in cli.app.registered_commands)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ([["--help"], *([verb, "--help"] for verb in VERBS)], "evaluate"),
        ([["recipes"], ["recipes", "--json"]], "demo"),
        ([["corpora"], ["corpora", "--json"]], "tedlium3"),
        ([["tasks"], ["tasks", "--json"]], "qbe"),
    ],
)
def test_help_and_lists_import_nothing_heavy(commands: list[list[str]], expected: str) -> None:
    script = (
        "import sys\n"
        "from speechft.cli import main\n"
        f"for given in {commands}:\n"
        "    sys.argv = ['speechft', *given]\n"
        "    try: main()\n"
        "    except SystemExit as stop: assert not stop.code, given\n"
        "    heavy = {'torch', 'transformers', 'lhotse', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "    assert not heavy, (given, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_verbs_that_need_no_encoder_import_none(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.1), 16_000)
    (tmp_path / "results.jsonl").write_text("")
    given = [["status"], ["compare"], ["report"], ["inspect"], ["inspect", "a.wav"]]
    script = (
        "import sys\n"
        "from speechft.cli import main\n"
        f"for verb, *name in {given}:\n"
        f"    sys.argv = ['speechft', verb, '/'.join([{str(tmp_path)!r}, *name])]\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "    heavy = {'torch', 'transformers', 'lhotse', 'scipy'} & set(sys.modules)\n"
        "    assert not heavy, (verb, name, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "16000 Hz" in done.stdout


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(["--version"], monkeypatch, capsys)
    assert (code, out) == (0, f"speechft {speechft.__version__}\n")


@pytest.mark.parametrize(
    ("verb", "first"), [("recipes", "demo"), ("corpora", "synthetic"), ("tasks", "pr")]
)
def test_lists_begin_with_the_name(
    verb: str,
    first: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = _run([verb], monkeypatch, capsys)
    assert code == 0
    assert out.split()[0] == first
    if verb == "recipes":
        assert all(
            line.endswith((" (run or finetune)", " (pretrain)")) for line in out.splitlines()
        )
    _, as_json, _ = _run([verb, "--json"], monkeypatch, capsys)
    assert list(json.loads(as_json)) == [line.split()[0] for line in out.splitlines()]


def test_ctrl_c_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("speechft.recipe_files.packaged_recipes", interrupt)
    code, _, err = _run(["recipes"], monkeypatch, capsys)
    assert code == 130
    assert err.strip() == "interrupted; give the same command again to go on"


def test_every_verb_has_an_example() -> None:
    for command in cli.app.registered_commands:
        text = (command.callback.__doc__ or "") if command.callback else ""
        listing = command.callback is not None and command.callback.__name__ in (
            "recipes",
            "corpora",
            "tasks",
        )
        assert listing or "Example: speechft" in text, command.callback


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demoo", "--out", "OUT"], "did you mean 'demo'?"),
        (["run", "missing.yaml", "--out", "OUT"], "missing.yaml does not exist"),
        (["run", "demo", "--out", "OUT", "--set", "finetuning.step=3"], "did you mean 'steps'?"),
        (["run", "demo", "--out", "OUT", "--set", "seed"], "not of the form key=value"),
        (["run", "demo", "--out", "OUT", "--set", "merging.alpha=2"], "merging.alpha"),
        (["run", "demo", "--out", "OUT", "--set", "encoder=/nowhere"], "no encoder at /nowhere"),
        (["run", "demo", "--out", "OUT", "--set", "data.corpus=none.csv"], "none.csv does not"),
        (["run", "demo", "--out", "OUT", "--set", "data.corpus=synthetik"], "'synthetic'"),
        (["finetune", "demo", "--out", "OUT", "--strategy", "steady"], "finetuning.strategy"),
        (["evaluate", "/nowhere", "--out", "OUT"], "no encoder at /nowhere"),
        (["merge", "tiny-hubert", "/nowhere", "--out", "OUT"], "no encoder at /nowhere"),
        (["merge", "tiny-hubert", "--out", "OUT"], "merge lacks tuned"),
        (["prepare", "generic"], "needs a CSV"),
        (["prepare", "librispeach", "--out", "OUT"], "did you mean 'librispeech'"),
        (["prepare", "librispeech", "/nowhere", "--out", "OUT"], "/nowhere does not exist"),
        (["prepare", "timit", "/", "--out", "OUT", "--set", "phone=39"], "did you mean 'phones'?"),
        (["pretrain", "pretrain-tiny", "--out", "OUT", "--set", "seeds=1"], "'seed'"),
    ],
)
def test_mistakes_end_with_one_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    given = [str(out) if item == "OUT" else item for item in arguments]
    code, stdout, err = _run(given, monkeypatch, capsys)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert stdout == ""
    left = [path for path in out.rglob("*") if path.is_file() and path.name != ".lock"]
    assert left == []


def test_a_folder_in_use_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(tmp_path / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, _, err = _run(["run", "demo", "--out", str(tmp_path)], monkeypatch, capsys)
    assert code == 1
    assert "in use by another process" in err


def test_unknown_task_and_protocol_of_evaluate(
    tmp_path: Path,
    tiny_hubert: Path,
    tones: Corpus,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = ["evaluate", str(tiny_hubert), "--corpus", str(tones.folder), "--out", str(tmp_path)]
    code, _, err = _run([*start, "--tasks", "sit"], monkeypatch, capsys)
    assert (code, "did you mean 'sid'?" in err) == (1, True)
    code, _, err = _run([*start, "--protocol", "minni"], monkeypatch, capsys)
    assert (code, "did you mean 'mini'?" in err) == (1, True)


def test_merge_prints_what_it_did(
    tmp_path: Path,
    tiny_hubert: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from helpers import tiny_encoder

    tuned = tiny_encoder()
    for parameter in tuned.parameters():
        parameter.data *= 1.01
    tuned.save(tmp_path / "tuned")
    given = ["merge", str(tiny_hubert), str(tmp_path / "tuned"), "--alpha", "0.5"]
    out = str(tmp_path / "merged")
    code, stdout, _ = _run([*given, "--out", out], monkeypatch, capsys)
    assert code == 0
    assert "alpha 0.5" in stdout
    assert f"wrote {out}" in stdout
    code, _, err = _run([*given, "--out", out, "--option", "density=1"], monkeypatch, capsys)
    assert (code, "density" in err) == (1, True)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Return a CSV of the user's own recordings, of many kinds, with bad ones among them."""
    rng = np.random.default_rng(0)
    lines = ["path,split,speaker,text"]
    for split, count in (("train", 12), ("dev", 6), ("test", 6)):
        for number in range(count):
            rate = (8000, 16000, 22050, 44100)[number % 4]
            suffix = ("wav", "flac")[number % 2]
            time = np.arange(rate // 2) / rate
            tone = 0.3 * np.sin(2 * np.pi * (200 + 400 * (number % 3)) * time)
            channels = np.stack([tone, tone], 1) if number % 5 == 0 else tone
            noisy = channels + 0.01 * rng.standard_normal(channels.shape)
            soundfile.write(tmp_path / f"{split}{number}.{suffix}", noisy, rate)
            lines.append(f"{split}{number}.{suffix},{split},s{number % 3},tone {'abc'[number % 3]}")
    (tmp_path / "broken.wav").write_bytes(b"not audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    lines += ["broken.wav,train,s0,x", "empty.wav,train,s1,x", "missing.wav,train,s2,x"]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.integration
@pytest.mark.usefixtures("quick_probes")
def test_the_demo_runs_on_the_users_own_recordings(
    recordings: Path,
    tiny_hubert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    settings = [
        f"data.corpus={recordings}",
        f"encoder={tiny_hubert}",
        "finetuning.steps=6",
        "evaluation.tasks=available",
        "evaluation.floors=[mfcc]",
        "merging.curve=[]",
        "evaluation.max_left_out=0.2",
        "finetuning.max_left_out=0.2",
    ]
    given = [item for setting in settings for item in ("--set", setting)]
    code, stdout, err = _run(["run", "demo", "--out", str(out), *given], monkeypatch, capsys)
    assert code == 0, err
    assert "3 of 27 recordings are left out" in err
    issues = (out / "corpus" / "issues.tsv").read_text()
    assert all(name in issues for name in ("broken.wav", "empty.wav", "missing.wav"))
    assert "sid accuracy" in stdout
    assert "asr WER" in stdout
    assert (out / "report.html").is_file()
    tasks = [f"--set=evaluation.tasks={text}" for text in ("[pr]",)]
    code, _, err = _run(["run", "demo", "--out", str(out), *given, *tasks], monkeypatch, capsys)
    assert code == 1
    assert "tasks that this corpus supports: asr, sid" in err
