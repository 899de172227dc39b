"""Real units of the evidence on a tiny encoder and tones: every kind, and killed on the way."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from helpers import STUDIES, study
from processes import Child
from speechft.data.manifest import Corpus

UNITS = {
    "base": ("", 0, ""),
    "path": ("sid", 101, ""),
    "weaker": ("pr", 101, ""),
    "stronger": ("sid", 101, "10"),
    "cells": ("sid", 101, ""),
    "home": ("pr", 102, ""),
    "layers": ("sid", 101, ""),
    "arm": ("sid", 101, "frozen-1"),
    "rival": ("sid", 101, "l2sp"),
    "early": ("sid", 101, ""),
    "attempt": ("sid", 101, "layer-decay-2"),
    "lines": ("sid", 101, ""),
    "other": ("pc", 101, ""),
    "several": ("pr+sid", 101, "sequence"),
    "several joint": ("pr+sid", 101, "joint"),
    "several ties": ("pr+sid", 101, "ties"),
}
"""Task, seed and variant of a unit of each kind."""
LONG = ("home", "cells", "several joint", "several ties")


def make_small(units: Any, work: Any, corpus: Corpus, out: Path, rows: Path) -> Any:
    """Return a `Work` on tones, with few updates and brief probes."""
    units.UPDATES = work.UPDATES = 6
    work.WEAKER, work.PATH, work.SHORT_PATH, work.ROWS = (2, 4), (0.5, 1.0), (0.5, 1.0), rows
    work.EARLY = (0.5,)
    work.SIMILARITY = work.Settings(measures=work.SIMILARITY.measures, split="test", limit=12)
    for name, epochs in (("evidence", 2), ("evidence-long", 3)):
        brief = {"epochs": epochs, "extend": 0, "halve_at": ()}
        parts = units.PROTOCOLS["mini"]
        units.PROTOCOLS[name] = {
            n: parts[n].model_copy(update=brief) for n in ("frame", "utterance")
        }
    small = work.Work(out, "a processor")
    names = ["study", "tune-home", *(cell.name for cell in work.CELLS)]
    small._corpora.update(dict.fromkeys(names, corpus))
    return small


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Return units and work; what a test changes in them is put back."""
    units, work = study("evidence_units"), study("evidence_work")
    for name in ("UPDATES", "WEAKER", "PATH", "SHORT_PATH", "ROWS", "EARLY", "SIMILARITY"):
        monkeypatch.setattr(work, name, getattr(work, name))
    monkeypatch.setattr(units, "UPDATES", units.UPDATES)
    for name in ("evidence", "evidence-long"):
        monkeypatch.setitem(units.PROTOCOLS, name, units.PROTOCOLS[name])
    return units, work


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.long] * (k in LONG)) for k in UNITS],
)
@pytest.mark.integration
def test_a_unit_of_each_kind(
    kind: str, modules: tuple[Any, Any], tones: Corpus, tiny_hubert: Path, tmp_path: Path
) -> None:
    units, module = modules
    task, seed, variant = UNITS[kind]
    kind = kind.partition(" ")[0]
    unit = units.Unit(kind, 1, task, seed, variant)
    (tmp_path / "rows").mkdir()
    work = make_small(units, module, tones, tmp_path / "out", tmp_path / "rows")
    rows = work.measure(unit, str(tiny_hubert))
    probes = [row for row in rows if row["measure"] == "probe"]
    assert {row["task"] for row in probes} == {"pr", "sid", "ic"}
    assert all(row["arithmetic"].startswith("fp32 ") for row in probes)
    assert {row["processor"] for row in rows} == {"a processor"}
    alphas = sorted({row["alpha"] for row in probes})
    cells = {row["cell"] for row in probes}
    if kind in ("cells", "home", "other", "several"):
        assert alphas == [0.25, 1.0]
    if kind in ("cells", "home"):
        assert (alphas, cells) == ([0.25, 1.0], {cell.name for cell in module.CELLS})
    elif kind == "base":
        assert alphas == [0.0]
        assert cells == {"study", *(cell.name for cell in module.CELLS)}
    elif kind in ("weaker", "early", "layers"):
        assert alphas == ([0.25, 1.0] if kind == "layers" else [1.0])
    elif kind not in ("other", "several"):
        assert alphas == [0.5, 1.0]
    if kind in ("base", "layers"):
        assert {row["layer"] for row in probes} == {None, 0, 1, 2}
    updates = {"weaker": {2, 4}, "stronger": {10}, "early": {3}}
    assert {row["updates"] for row in probes if "updates" in row} >= updates.get(kind, set())
    assert ("test" in probes[0]) == (kind != "attempt")
    scored = study("rows").unpacked(probes[0]["dev_amounts"])
    assert len(scored) == 18
    features = [row for row in rows if row["measure"] == "features"]
    if kind not in ("cells", "home", "layers"):
        assert all(len(row["cka"]) == len(row["eer"]) == 3 for row in features)
        assert all((row["move"] > 0) == (kind != "base") for row in features)
    assert not (tmp_path / "out" / "units" / unit.name).exists()
    if kind == "base":
        content = json.loads((tmp_path / "rows" / "items-study.json").read_text())
        assert len(content["sid test"]["speakers"]) == len(content["pr dev"]["totals"]) == 18


@pytest.mark.integration
def test_a_unit_that_suggests(
    modules: tuple[Any, Any], tones: Corpus, tiny_hubert: Path, tmp_path: Path
) -> None:
    units, module = modules
    work = make_small(units, module, tones, tmp_path / "out", tmp_path)
    (row,) = work.measure(units.Unit("suggest", 1, "sid", 101), str(tiny_hubert))
    assert row["measure"] == "suggestion"
    assert 0 <= row["alpha"] <= 1
    assert len(row["alphas"]) == len(row["loss"]) == 21
    assert json.loads(json.dumps(row)) == row


def test_outputs_of_the_cnn_do_not_pile_up(modules: tuple[Any, Any], tmp_path: Path) -> None:
    units, module = modules
    work = module.Work(tmp_path, "p")
    first = work.cache(units.Unit("path", 4, "sid", 101))
    assert work.cache(units.Unit("cells", 4, "pr", 102)) is first
    assert work.cache(units.Unit("arm", 4, "sid", 101, "trained-0")) is not first
    assert work.cache(units.Unit("path", 4, "sid", 101)) is first
    assert work.cache(units.Unit("path", 5, "sid", 101)) is not first


REAL = """
import sys
from pathlib import Path
tests, studies, corpus, base, folder = sys.argv[1:]
sys.path[:0] = [tests, studies]
import torch
torch.set_num_threads(1)
import evidence, evidence_units, evidence_work
from speechft.data.manifest import open_corpus
from test_evidence_work import make_small
folder = Path(folder)
rows = folder / "rows"
rows.mkdir(exist_ok=True)
work = make_small(evidence_units, evidence_work, open_corpus(corpus), folder / "out", rows)
units = [evidence_units.Unit("path", 1, "sid", seed) for seed in (101, 102)]
measure = lambda unit: work.measure(unit, base)
stamp = lambda unit: {"design": "d"}
sys.exit(evidence.run_units(units, measure, stamp, rows, folder))
"""


@pytest.mark.long
@pytest.mark.integration
def test_real_units_killed_ten_times_have_the_same_rows(
    tones: Corpus, tiny_hubert: Path, tmp_path: Path
) -> None:
    def start(folder: Path, name: str = "child") -> Child:
        folder.mkdir(exist_ok=True)
        places = [Path(__file__).parent, STUDIES, tones.folder, tiny_hubert, folder]
        return Child(REAL, list(map(str, places)), folder, name=name)

    def rows(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (folder / "rows").glob("*.jsonl")}

    def files() -> int:
        return sum(len(names) for _, _, names in os.walk(tmp_path / "killed"))

    code, _, err = start(tmp_path / "whole").wait()
    assert code == 0, err
    draw, killed = random.Random(1), 0
    for number in range(10):
        child = start(tmp_path / "killed", f"child-{number}")
        enough = files() + draw.randint(3, 25)  # that it has written; then a little later
        while child.running and files() < enough:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        if child.running:
            child.kill()
            killed += 1
    code, _, err = start(tmp_path / "killed", "last").wait()
    assert code == 0, err
    assert len(rows(tmp_path / "whole")) == 2
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert killed >= 5
