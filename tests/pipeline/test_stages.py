"""A whole run on a tiny encoder and a corpus of tones: outputs, skipping, going on after a kill."""

from __future__ import annotations

import html
import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import speechft
from helpers import tone_corpus
from processes import Child
from speechft import pipeline
from speechft.analysis.rows import read_analysis
from speechft.data.manifest import Corpus
from speechft.errors import ConfigError
from speechft.recipe import Recipe
from speechft.results import Role, read_rows
from speechft.storage.files import file_digest, read_json

pytestmark = pytest.mark.usefixtures("quick_probes")


def _recipe(encoder: Path, corpus: Corpus, **changes: object) -> Recipe:
    content = {
        "title": "tiny run",
        "encoder": str(encoder),
        "data": {"corpus": str(corpus.folder)},
        "finetuning": {
            "task": "sid",
            "steps": 12,
            "learning_rate": 5e-3,
            "hidden": None,
            "checkpoint_every": 4,
            "head_only": 0.3,
        },
        "merging": {"alpha": 0.25, "curve": [0.5], "curve_tasks": ["sid"]},
        "evaluation": {"tasks": ["sid", "style"], "floors": ["mfcc", "random"]},
        "analysis": {"measures": ["similarity", "weights"]},
        **changes,
    }
    return Recipe.model_validate(content)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_hubert: Path, tones: Corpus, quick_probes: None
) -> tuple[Path, pipeline.Summary]:
    folder = tmp_path_factory.mktemp("run")
    return folder, pipeline.run(_recipe(tiny_hubert, tones), folder)


def test_a_run_writes_what_its_readers_look_for(
    finished: tuple[Path, pipeline.Summary], tiny_hubert: Path
) -> None:
    folder, summary = finished
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    rows = read_rows(folder / "results.jsonl")
    assert {row.encoder for row in rows} == {
        "MFCC",
        "random weights",
        "pre-trained",
        "plain fine-tuning",
        "stable fine-tuning",
        "Speech-FT (0.25)",
        "alpha 0.5",
    }
    assert all(row.n == 18 for row in rows)
    assert {row.split for row in rows if row.encoder == "alpha 0.5"} == {"dev"}
    assert len({row.encoder_digest for row in rows}) == 7
    assert [row.alpha for row in summary.curve] == [0.0, 0.25, 0.5, 1.0]
    assert len(summary.verdict) == 3
    assert "wins" not in " ".join(summary.verdict)


def test_its_report_is_what_its_files_say(
    finished: tuple[Path, pipeline.Summary], tmp_path: Path
) -> None:
    folder, summary = finished
    again = speechft.report(folder, out=tmp_path)
    assert again.read_bytes() == summary.report.read_bytes()
    text = again.read_text()
    for words in ("Read with care", "Examples", "What it cost", "layer by layer", "peak memory"):
        assert words in text
    assert all(sentence in html.unescape(text) for sentence in summary.verdict)


def test_a_run_says_what_happened_layer_by_layer(
    finished: tuple[Path, pipeline.Summary],
) -> None:
    folder, _ = finished
    rows = read_analysis(folder / "analysis" / "analysis.jsonl")
    assert {row.encoder for row in rows} == {"tuned", "merged"}
    moves = {r.encoder: r.value for r in rows if r.measure == "weight_move" and r.layer == 1}
    whole = {r.encoder: r.value for r in rows if r.measure == "cka" and r.layer == 2}
    assert len(moves) == 2
    assert (whole["tuned"] or 1) < (whole["merged"] or 0), "a quarter of the way"
    page = (folder / "analysis" / "analysis.md").read_text()
    assert "similarity.svg" in page
    assert (folder / "analysis" / "similarity.svg").is_file()
    assert not (folder / "analysis" / ".states").exists()


def test_merged_is_the_interpolation_of_base_and_tuned(
    finished: tuple[Path, pipeline.Summary], tiny_hubert: Path
) -> None:
    folder, _ = finished
    base, tuned, merged = (
        load_file(path / "model.safetensors")
        for path in (tiny_hubert, folder / "tuned", folder / "merged")
    )
    assert set(merged) == set(base)
    moved = [name for name in base if not torch.equal(base[name], tuned[name])]
    assert moved
    for name in base:
        expected = base[name] + 0.25 * (tuned[name] - base[name])
        assert torch.equal(merged[name], expected)


def test_predictions_are_sorted_and_add_up(finished: tuple[Path, pipeline.Summary]) -> None:
    folder, summary = finished
    row = next(r for r in summary.rows if r.encoder == "pre-trained" and r.task == "sid")
    path = folder / str(row.predictions)
    items = [json.loads(line) for line in path.read_text().splitlines()]
    assert [item["id"] for item in items] == sorted(item["id"] for item in items)
    hits = sum(item["prediction"] == item["reference"] for item in items)
    assert row.value == pytest.approx(100 * hits / len(items))


def test_a_finished_run_is_skipped_and_a_changed_one_redone(
    finished: tuple[Path, pipeline.Summary],
    tiny_hubert: Path,
    tones: Corpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, summary = finished

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("speechft.compositions.finetune", refuse)
    again = pipeline.run(_recipe(tiny_hubert, tones), folder)
    assert again.rows == summary.rows
    with pytest.raises(AssertionError, match="trained again"):
        pipeline.run(_recipe(tiny_hubert, tones, seed=1), folder)


def test_a_run_may_evaluate_on_other_corpora(
    tmp_path: Path, tiny_hubert: Path, tones: Corpus
) -> None:
    (tmp_path / "other").mkdir()
    other = tone_corpus(tmp_path / "other", speakers=4, per_speaker=3, seed=9)
    data = {"corpus": str(tones.folder), "evaluation": [str(other.folder)]}
    recipe = _recipe(tiny_hubert, tones, data=data)
    quick = recipe.finetuning.model_copy(update={"steps": 4})
    recipe = recipe.model_copy(update={"finetuning": quick, "baselines": ()})
    summary = pipeline.run(recipe, tmp_path / "run")
    assert {row.n for row in summary.rows} == {12}, "of the other corpus"
    assert other.digest[:12] in (tmp_path / "run" / "report.html").read_text()


def test_wrong_floors_are_refused_before_anything_is_done(
    tmp_path: Path, tiny_hubert: Path, tones: Corpus
) -> None:
    recipe = _recipe(tiny_hubert, tones, evaluation={"tasks": ["sid"], "floors": ["mffc"]})
    with pytest.raises(ConfigError, match="unknown floor 'mffc'"):
        pipeline.run(recipe, tmp_path)
    assert not (tmp_path / "finetuning").exists()


_CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from helpers import quicken_probes
quicken_probes()
from speechft import pipeline
from speechft.config import build
from speechft.storage.files import read_yaml
from speechft.recipe import Recipe
pipeline.run(build(Recipe, read_yaml(Path(sys.argv[1])), "recipe"), Path(sys.argv[2]))
"""


@pytest.mark.integration
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(
    tmp_path: Path, tiny_hubert: Path, tones: Corpus, finished: tuple[Path, pipeline.Summary]
) -> None:
    recipe, folder = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(_recipe(tiny_hubert, tones).as_yaml())
    marks = [
        "finetuning/*/.partial/*/.checkpoints/step-*",
        "evaluation/pre-trained-*/*/results.jsonl",
    ]
    for mark in marks:
        child = Child(_CHILD, [str(recipe), str(folder), str(Path(__file__).parents[1])], tmp_path)
        deadline = time.monotonic() + 600  # a loaded machine
        while not list(folder.glob(mark)) and child.running:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.kill()
    pipeline.run(_recipe(tiny_hubert, tones), folder)
    whole = finished[0]
    for name in ("tuned", "merged"):
        weights = f"{name}/model.safetensors"
        assert file_digest(folder / weights) == file_digest(whole / weights)
    ours, theirs = (read_rows(f / "results.jsonl") for f in (folder, whole))
    assert [(r.encoder, r.task, r.value) for r in ours] == [
        (r.encoder, r.task, r.value) for r in theirs
    ]
    assert read_json(folder / "finetuning" / "stable" / "stage.json")["stage"] == "finetune"


def test_baselines_are_merged_and_tasks_have_their_corpora(
    tiny_hubert: Path, tones: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Corpora of tasks that are not evaluated need not be there."""
    place = str(tones.folder)
    recipe = _recipe(
        tiny_hubert,
        tones,
        data={"corpus": place, "evaluation": {"sid": place, "er": "not/prepared"}},
        baselines=[{"strategy": "plain", "alpha": 0.25}],
        evaluation={"tasks": ["sid"], "floors": []},
    )
    summary = pipeline.run(recipe, tmp_path / "run")
    assert "estimate: 24 updates" in capsys.readouterr().err
    rows = {row.encoder: row for row in summary.rows}
    assert list(rows) == [
        "pre-trained",
        "plain fine-tuning",
        "stable fine-tuning",
        "Speech-FT (0.25)",
        "plain merged (0.25)",
    ]
    assert len({row.encoder_digest for row in rows.values()}) == 5
    plain = rows["plain merged (0.25)"]
    assert (plain.role, plain.strategy, plain.alpha) == (Role.MERGED, "plain", 0.25)
    assert [row.alpha for row in summary.curve] == [0.0, 0.25, 0.5, 1.0], "of the recipe's own"
    digests = {row.alpha: row.encoder_digest for row in summary.curve}
    assert digests[0.25] == rows["Speech-FT (0.25)"].encoder_digest
    assert summary.verdict[1].startswith("Speech-FT (0.25) ")
    assert all(r.details["tuned_on"]["utterances"][0] == 0 for r in summary.rows)
    merged = tmp_path / "run" / "merged" / "model.safetensors"
    own = tmp_path / "run" / "merging" / "alpha-0.25" / "encoder" / "model.safetensors"
    assert merged.read_bytes() == own.read_bytes()
    with pytest.raises(ConfigError, match="names no corpus for task pr; it has: sid, er"):
        pipeline.run(
            recipe.model_copy(
                update={"evaluation": recipe.evaluation.model_copy(update={"tasks": ("pr",)})}
            ),
            tmp_path / "other",
        )
