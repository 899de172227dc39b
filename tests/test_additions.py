"""How many places an addition touches: each is a patch, applied to a copy of the code and used.

A place is a hunk of the patch: a new file, or one spot in an existing one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

from helpers import tiny_encoder

ROOT = Path(__file__).parents[1]
PLACES = {
    "label-task": 1,
    "task-with-metric": 3,
    "merge-method": 2,
    "corpus": 2,
    "hf-family": 2,
    "other-family": 2,
}
"""At most so many places by addition."""

_USE = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import speechft
from speechft.evaluation.config import ProbeConfig
from speechft.evaluation.protocols import PROTOCOLS
root, encoder, tuned, emodb, table = map(Path, sys.argv[1:])
assert speechft.__file__.startswith(str(root / "src")), speechft.__file__
quick = ProbeConfig(learning_rates=(1e-1,), extend=0, epochs=3)
PROTOCOLS["mini"].update(utterance=quick)
corpus = speechft.prepare("emodb", emodb, out=root / "emodb")
rows = speechft.evaluate(encoder, tasks="er", corpus=root / "emodb", out=root / "one")
rows += speechft.evaluate(encoder, tasks="lid,rate", corpus=table, out=root / "two")
report = speechft.merge(encoder, tuned, method="breadcrumbs", out=root / "merged", alpha=1.0,
                        smallest=0.5, largest=0.1)
from transformers import MoonshineConfig, MoonshineModel
from speechft.encoders.families import FAMILIES
small = MoonshineConfig(
    hidden_size=24, intermediate_size=32, encoder_num_hidden_layers=2, vocab_size=20,
    decoder_num_hidden_layers=1, encoder_num_attention_heads=2, decoder_num_attention_heads=2)
torch.manual_seed(0)
moonshine = MoonshineModel(small).eval()
moonshine.save_pretrained(root / "moonshine")
kind, config = FAMILIES["apc"].model_class(
    {"model_type": "apc", "bins": 8, "hidden_size": 24, "num_hidden_layers": 2})
kind(config).save_pretrained(root / "apc")
families = [root / "moonshine", root / "apc"]
waveforms, lengths = torch.randn(2, 9000), torch.tensor([9000, 5000])
seen = {}
for place in families:
    model = speechft.load_encoder(place)
    with torch.inference_mode():
        both, one = model(waveforms, lengths), model(waveforms[1:, :5000], lengths[1:])
        count = int(one.lengths)
        pairs = list(zip(both.layers, one.layers, strict=True))
        if place.name == "moonshine":
            told = moonshine.encoder(waveforms[1:, :5000], output_hidden_states=True)
            pairs += zip(told.hidden_states, one.layers, strict=True)
        worst = max(float((a[-1, :count] - b[-1]).abs().max()) for a, b in pairs)
    [row] = speechft.evaluate(place, tasks="lid", corpus=table, out=root / place.name / "out")
    seen[place.name] = [model.frame_rate, worst, row.n]
(root / "families.json").write_text(json.dumps(seen))
from speechft.cli.app import app
app(["tasks"], standalone_mode=False)
app(["corpora"], standalone_mode=False)
print(json.dumps([[row.task, row.metric, row.value, row.n] for row in rows]))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the code and every addition."""
    folder = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "src", ignore=ignored)
    for name in PLACES:
        patch = ROOT / "tests" / "additions" / f"{name}.patch"
        command = ["git", "apply", "--unidiff-zero", str(patch)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name}: {done.stderr}"
    return folder


@pytest.mark.parametrize("name", PLACES)
def test_an_addition_touches_few_places(name: str) -> None:
    text = (ROOT / "tests" / "additions" / f"{name}.patch").read_text()
    hunks = [line for line in text.splitlines() if line.startswith("@@ ")]
    assert 0 < len(hunks) <= PLACES[name]


def tone(path: Path, pitch: float, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * 16_000)) / 16_000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * time), 16_000)


@pytest.fixture(scope="module")
def used(copy: Path) -> tuple[Path, str, list[list[Any]]]:
    """Return the copy, what it printed, and the rows of an evaluation with its additions."""
    for actor in range(3, 9):
        for number, letter in enumerate("WFT"):
            for version in "ab":
                name = f"{actor:02d}a0{number + 1}{letter}{version}.wav"
                tone(copy / "archive" / "wav" / name, 300.0 * (number + 1) + actor)
    lines = ["path,split,language,text"]
    for split in ("train", "dev", "test"):
        for number in range(8):
            audio = copy / "audio" / f"{split}-{number}.wav"
            tone(audio, (400.0, 900.0)[number % 2] + number, 0.4 + 0.05 * number)
            lines.append(f"{audio},{split},{('de', 'fr')[number % 2]},one two three")
    (copy / "own.csv").write_text("\n".join(lines) + "\n")
    for name, seed in (("base", 0), ("tuned", 0)):
        encoder = tiny_encoder(seed)
        if name == "tuned":
            for number, parameter in enumerate(encoder.model.parameters()):
                parameter.data += 0.01 * np.sin(number + 1.0)
                parameter.data.view(-1)[0] += 0.5
        encoder.save(copy / name)
    places = [copy, copy / "base", copy / "tuned", copy / "archive", copy / "own.csv"]
    done = subprocess.run(
        [sys.executable, "-c", _USE, *map(str, places)],
        env={"PYTHONPATH": str(copy / "src"), "PATH": "", "HOME": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *printed, last = done.stdout.splitlines()
    return copy, "\n".join(printed), json.loads(last)


def test_a_corpus_is_prepared_listed_and_evaluated_on(
    used: tuple[Path, str, list[list[Any]]],
) -> None:
    _, printed, rows = used
    assert "emodb" in printed
    found = {(task, metric): (value, n) for task, metric, value, n in rows}
    assert found["er", "accuracy"][1] == 12, "two of six actors are test"


def test_a_label_task_and_a_metric_are_evaluated(used: tuple[Path, str, list[list[Any]]]) -> None:
    _, printed, rows = used
    assert "language identification" in printed
    assert "speaking rate" in printed
    found = {(task, metric): (value, n) for task, metric, value, n in rows}
    assert found["lid", "accuracy"][1] == 8
    value, n = found["rate", "mae"]
    assert (n, 0.0 < value < 20.0) == (8, True)


def test_a_merge_method_merges(used: tuple[Path, str, list[list[Any]]]) -> None:
    folder = used[0]
    base, tuned, merged = (
        load_file(folder / name / "model.safetensors") for name in ("base", "tuned", "merged")
    )
    name = "encoder.layers.0.feed_forward.intermediate_dense.weight"
    delta = (tuned[name] - base[name]).flatten()
    kept = (merged[name] - base[name]).flatten()
    assert kept[delta.abs().argmax()] == 0.0, "the largest entry is left out"
    assert 0 < int((kept != 0).sum()) < len(kept)


def test_families_load_compute_and_are_evaluated(used: tuple[Path, str, list[list[Any]]]) -> None:
    seen = json.loads((used[0] / "families.json").read_text())
    rates = {name: round(rate, 2) for name, (rate, _, _) in seen.items()}
    assert rates == {"moonshine": 41.67, "apc": 100.0}, "24 and 10 ms a frame"
    assert all(worst < 1e-5 for _, worst, _ in seen.values())
    assert [n for _, _, n in seen.values()] == [8, 8]
