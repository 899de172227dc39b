"""The statistics of the demo's evidence, against closed forms."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers import STUDIES, study

DRAWS = 20_000
_ENCODERS = ("stable", "pre-trained", "MFCC")


@pytest.fixture(scope="module")
def table() -> ModuleType:
    return study("demo_table")


def test_committed_rows_are_of_the_design_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    """New settings with their defaults do not make 30 fine-tunings void; a changed one does."""
    demo = study("demo")
    rows = [
        json.loads(line)
        for path in (STUDIES / "demo").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert {row["design"] for row in rows} == {demo.design()}
    assert {row["encoder"] for row in rows if "tuning_seed" in row} >= {"plain-cnn", "stable"}
    assert "plain" not in {row["encoder"] for row in rows}, "the CNN was trained there"
    fixed, now = {"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2, "new": 0}, "later": 5}
    assert demo.as_fixed(now, {"a": 1}, fixed) == fixed
    assert demo.as_fixed(now, {"later": 5}, fixed) == {**fixed, "later": 5}
    assert demo.as_fixed(now, {"b": {"new": 0}}, fixed) == {"a": 1, "b": {"c": 2, "new": 0}}
    monkeypatch.setattr(demo, "PROBES", demo.PROBES.model_copy(update={"layers": "last"}))
    assert demo.design() not in {row["design"] for row in rows}


def test_item_weights_have_the_variance_of_a_two_stage_bootstrap(table: ModuleType) -> None:
    speakers, utterances = 12, 9
    rng = np.random.default_rng(3)
    values = rng.normal(size=(speakers, 1)) + 0.7 * rng.normal(size=(speakers, utterances))
    names = [f"s{n}" for n in range(speakers) for _ in range(utterances)]
    weights = table.item_weights(names, DRAWS, 0)
    assert np.all(weights.sum(1) == speakers * utterances)
    means = weights @ values.ravel() / weights.sum(1)
    expected = values.mean(1).var() / speakers
    expected += values.var(1).mean() / (speakers * utterances)
    assert means.mean() == pytest.approx(values.mean(), abs=4 * (expected / DRAWS) ** 0.5)
    assert means.var() == pytest.approx(expected, rel=0.05)


def test_level_draws_resample_lineages_and_seeds_within_them(table: ModuleType) -> None:
    cells = [(lineage, seed) for lineage in (1, 2, 3) for seed in range(5)]
    values = np.random.default_rng(5).normal(size=(3, 5)) + np.array([[0.0], [2.0], [5.0]])
    weights = table.level_draws(cells, DRAWS, 1)
    assert weights.sum(1) == pytest.approx(np.ones(DRAWS))
    expected = values.mean(1).var() / 3 + values.var(1).mean() / (3 * 5)
    assert (weights @ values.ravel()).var() == pytest.approx(expected, rel=0.05)


def test_three_lineages_are_few(table: ModuleType) -> None:
    """Of nominal 90 % the interval covers less where lineages differ more than seeds do."""
    rng = np.random.default_rng(7)
    cells = [(lineage, seed) for lineage in (1, 2, 3) for seed in range(5)]
    weights = table.level_draws(cells, 500, 1)

    def coverage(seed_spread: float) -> float:
        lineages = np.repeat(rng.normal(size=(4000, 3)), 5, axis=1)
        means = weights @ (lineages + seed_spread * rng.normal(size=(4000, 15))).T
        low, high = np.quantile(means, [0.05, 0.95], axis=0)
        return float(np.mean((low <= 0) & (high >= 0)))

    few, many = coverage(0.5), coverage(3.3)
    assert 0.66 < few < 0.76
    assert 0.83 < many < 0.92


def test_lineages_count_alike_however_many_seeds_they_have(table: ModuleType) -> None:
    weights = table.level_draws([(1, 1), (1, 2), (1, 3), (2, 1)], DRAWS, 1)
    assert weights.mean(0) == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2], abs=0.01)


def _row(encoder: str, task: str, lineage: int, amounts: str, **more: object) -> dict[str, object]:
    return {"encoder": encoder, "task": task, "lineage": lineage, "amounts": amounts, **more}


def test_figures_average_probe_seeds_then_seeds_then_lineages(table: ModuleType) -> None:
    items = {task: {"speakers": ["a", "a", "b", "b"], "totals": [1] * 4} for task in table.TASKS}
    tables: dict[tuple[str, str], object] = {}

    def add(tuned_on: str, row: dict[str, object]) -> None:
        key = (tuned_on, str(row["encoder"]))
        tables.setdefault(key, table.Table()).add(row)  # type: ignore[attr-defined]

    for task in table.TASKS:
        add("", _row("MFCC", task, 1, "0 0 0 1"))
        for lineage, base in ((1, "1 1 0 0"), (2, "1 1 1 0")):
            add("", _row("pre-trained", task, lineage, base))
        for name in table.TUNED:
            for cell, amounts in (((1, 1), "1 1 1 1"), ((1, 2), "0 0 0 0"), ((2, 1), "1 1 1 0")):
                for probe in (amounts, "1 1 1 1"):
                    where = {"tuned_on": "sid", "tuning_seed": cell[1]}
                    add("sid", _row(name, task, cell[0], probe, **where))
    study = table.Study(tables, items)
    # cells 100 and 50 in lineage 1, 87.5 in lineage 2
    assert study.figures("sid", "stable")["pr"][0] == pytest.approx((75 + 87.5) / 2)
    assert study.figures("sid", "pre-trained")["pr"][0] == pytest.approx(62.5)
    assert study.figures("sid", "MFCC")["pr"] == pytest.approx(study.figures("sid", "MFCC")["ic"])
    alone = study.figures("sid", "stable", lineage=2)["pr"][0]
    assert alone == pytest.approx(87.5)
    kept = table.retention(
        *({task: v[:1] for task, v in study.figures("sid", name).items()} for name in _ENCODERS),
        "sid",
    )
    assert kept[0] == pytest.approx(100 * (81.25 - 25) / (62.5 - 25))


@pytest.mark.parametrize(
    ("center", "spread", "word"),
    [
        (0.0, 0.5, "keeps PR"),
        (0.8, 0.5, "keeps PR, PER significantly higher"),
        (-0.8, 0.5, "keeps PR, PER significantly lower"),
        (0.0, 2.0, "open"),
        (4.0, 1.0, "loses PR"),
        (-4.0, 1.0, "gains PR"),
    ],
)
def test_keeping_is_an_equivalence(
    table: ModuleType, center: float, spread: float, word: str
) -> None:
    difference = np.concatenate([[center], np.linspace(center - spread, center + spread, 2001)])
    assert table.judged(difference) == word


def test_all_points_of_the_curve_are_of_the_same_lineages(table: ModuleType) -> None:
    tables: dict[tuple[str, str], object] = {}
    for task in table.TASKS:
        rows = [("", "pre-trained", 1, 0, 50.0), ("", "pre-trained", 2, 0, 90.0)]
        rows += [("sid", name, 1, 1, 60.0) for name in table.TUNED]
        rows += [("sid", "Speech-FT 0.5", 1, 1, 70.0), ("sid", "Speech-FT 0.25", 1, 2, 99.0)]
        for tuned_on, name, lineage, seed, dev in rows:
            row = _row(name, task, lineage, "1 0", tuning_seed=seed, dev=dev)
            tables.setdefault((tuned_on, name), table.Table()).add(row)  # type: ignore[attr-defined]
    items = {task: {"speakers": ["a", "b"], "totals": [1, 1]} for task in table.TASKS}
    curve = table.curve_of(table.Study(tables, items), "sid")["pr"]
    assert curve == {0.0: [50.0], 0.25: [60.0], 0.5: [70.0], 1.0: [60.0]}


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm", "decoar2"])
def test_packaged_encoders_without_training_are_as_drawn(family: str, tmp_path: Path) -> None:
    drawn = study("random_encoders")
    drawn.write_random(family, tmp_path / "new")
    packaged = load_file(drawn.ASSETS / f"random-{family}" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "new" / "model.safetensors").items():
        torch.testing.assert_close(packaged[name], tensor)
