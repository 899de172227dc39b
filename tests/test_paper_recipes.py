"""The recipes of the paper: each trains a tiny encoder; every number says where it is from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers import speech_encoder
from speechft import pipeline
from speechft.checkpoint import read_json
from speechft.data.manifest import Corpus
from speechft.recipe import Recipe, load_recipe, packaged_recipes
from speechft.tasks import TASKS

PAPER = [name for name in packaged_recipes() if name.split("-")[0] not in ("demo", "pretrain")]
_SOURCES = ("official", "ours", "s3prl", "HuBERT", "paper", "same", "configuration")


def _family(name: str) -> str:
    return name.split("-")[0]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for family in ("hubert", "wav2vec2", "wavlm"):
        folders[family] = tmp_path_factory.mktemp(family)
        speech_encoder(family).save(folders[family])
    return folders


@pytest.mark.integration
@pytest.mark.parametrize("name", [name for name in PAPER if _family(name) != "decoar2"])
def test_a_recipe_of_the_paper_trains(
    name: str, tmp_path: Path, encoders: dict[str, Path], tones: Corpus
) -> None:
    recipe = load_recipe(Recipe, name)
    base = encoders[_family(name)]
    small = {
        "steps": 10,
        "head_only": 0.3,
        "learning_rate": 5e-3,
        "batch_utterances": min(6, recipe.finetuning.batch_utterances),
        "accumulation": 1,
        "evaluate_every": 5,
        "precision": "fp32",
        "trackers": [],
    }
    if recipe.finetuning.task not in (*TASKS, "hubert"):
        small["task"] = "style"
    if recipe.finetuning.task == "hubert":
        small["targets"] = {"source": "self", "layer": 1, "clusters": 4}
    small["hidden"] = None if recipe.finetuning.hidden is None else 12
    if recipe.finetuning.recurrent is not None:
        small["recurrent"] = {"layers": 3, "size": 8, "dropout": 0.2}
    changed = {
        "encoder": str(base),
        "data": {"corpus": str(tones.folder)},
        "finetuning": {**recipe.finetuning.as_dict(), **small},
        "composition": {**recipe.composition.as_dict(), "overrides": {}},
    }
    shrunk = Recipe.model_validate({**recipe.as_dict(), **changed})
    encoder = pipeline.finetune_recipe(shrunk, tmp_path / "run")
    before, after = (load_file(folder / "model.safetensors") for folder in (base, encoder))
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved, "the encoder learned"
    assert not any(n.startswith("feature_extractor.") for n in moved), "the CNN did not"
    for path in tmp_path.rglob("history.json"):
        history = read_json(path)
        assert len(history["losses"]) == 10
        assert history["dropout"]["hidden_dropout"] == 0.1


@pytest.mark.parametrize("name", PAPER)
def test_every_number_of_a_recipe_says_where_it_is_from(name: str) -> None:
    text = packaged_recipes()[name].read_text()
    section = text[text.index("\nfinetuning:") :].splitlines()[2:]
    within = [
        line
        for line in section[
            : section.index("merging: {alpha: 0.25}         # the paper's coefficient")
        ]
        if line.startswith("  ")
    ]
    named = False
    for line in within:
        setting, _, comment = line.partition("#")
        nested = setting.startswith("    ")
        named = any(s.lower() in comment.lower() for s in _SOURCES) or (nested and named)
        if re.search(r"\d", setting):
            assert named, f"{name}: {line.strip()!r} does not say where it is from"


def test_the_official_schedule_is_in_every_recipe() -> None:
    for name in PAPER:
        config = load_recipe(Recipe, name).finetuning
        assert (config.schedule.warmup, config.schedule.hold) == (0.1, 0.4)
        assert (config.head_only, config.clip, config.weight_decay) == (0.1, 1.0, 0.0)
        assert config.strategy == "stable"
        assert set(config.dropout) == {
            "hidden_dropout",
            "attention_dropout",
            "activation_dropout",
            "feat_proj_dropout",
            "layerdrop",
        }
        assert config.dropout["layerdrop"] == 0.0
