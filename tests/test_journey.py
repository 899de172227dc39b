"""The whole journey of ``docs/journey.sh``, as a new user walks it, on tones; and bad inputs."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import tone_corpus

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "docs" / "journey.sh"
BRIEFLY = [
    *("--set", "baselines=[]", "--set", "evaluation.floors=[]"),
    *("--set", "merging.curve=[]", "--set", "analysis.measures=[]"),
]


def recordings(folder: Path) -> Path:
    """Write a table of tones, with one recording in its middle that nobody can read."""
    (folder / "recordings").mkdir()
    corpus = tone_corpus(folder / "recordings")
    rows = [
        (f"recordings/{cut.id}.wav", split, cut.supervisions[0].speaker)
        for split in ("train", "dev", "test")
        for cut in corpus.split(split)
    ]
    (folder / "recordings" / "torn.wav").write_bytes(b"RIFF")
    rows.insert(9, ("recordings/torn.wav", "train", rows[0][2]))
    with (folder / "my.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "split", "speaker"), *rows])
    (folder / "new").mkdir()
    for number in range(3):
        (folder / "new" / f"{number}.wav").symlink_to(
            folder / "recordings" / f"test-{number:03d}.wav"
        )
    return folder


def walk(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script as a user would; nothing of it may ask the network."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
        **variables,
    }
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long
def test_the_whole_journey(tmp_path: Path) -> None:
    recordings(tmp_path)
    done = walk(tmp_path, "my.csv", "new", "out", *BRIEFLY, STEPS="3", LIMIT="9")
    assert done.returncode == 0, done.stderr
    assert "recordings/torn.wav (unreadable-audio)" in done.stdout
    assert "1 of 55 recordings are left out" in done.stderr
    assert "next: speechft predict out/run AUDIO... --out answers.jsonl" in done.stdout
    assert (tmp_path / "out" / "run" / "report.html").is_file()
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    assert [answer["id"] for answer in answers] == ["0", "1", "2"]
    told = re.findall(r"^(\d)\.wav (\S+) ([\d.]+)$", done.stdout, re.MULTILINE)
    for answer, (name, label, probability) in zip(answers, told, strict=True):
        assert (answer["id"], answer["label"]) == (name, label), "transformers says the same"
        ours = float(answer["probability"])  # in bf16 where the processor has it
        assert ours == pytest.approx(float(probability), abs=0.02)
    card = done.stdout.partition("\n---\n")[2]
    for told in ("license: cc-by-4.0", "pipeline_tag: audio-classification", "model-index:"):
        assert told in card
    assert "nothing was uploaded" in card

    again = walk(tmp_path, "my.csv", "new", "out", *BRIEFLY, STEPS="3", LIMIT="9")
    assert again.returncode == 0, again.stderr
    assert "fine-tuning on sid: dev" not in again.stderr, "each step goes on where it was"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (None, "table my.csv does not exist"),
        ("path,speaker\na.wav,ann\n", "lacks the column split; it has: path, speaker"),
        ("path,split\na.wav,train\n", "none of the 1 recordings"),
    ],
)
def test_the_first_step_that_fails_is_the_last(
    table: str | None, expected: str, tmp_path: Path
) -> None:
    if table is not None:
        (tmp_path / "my.csv").write_text(table)
    done = walk(tmp_path, "my.csv", "new", "out")
    assert done.returncode != 0
    assert expected in done.stdout + done.stderr
    assert done.stderr.count("error:") == 1
    assert not (tmp_path / "out" / "run").exists()
