"""The recipes of the paper: each trains a tiny encoder; every number says where it is from."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from corpora import miniature, prepared
from helpers import speech_encoder
from speechft import pipeline
from speechft.compositions import check_recipe
from speechft.data.manifest import Corpus
from speechft.encoders.families.decoar2.model import Decoar2Config, Decoar2Model
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.suite import choose_tasks
from speechft.files import read_json
from speechft.recipe import Recipe, load_recipe, packaged_recipes
from speechft.recipe_files import packaged_bases
from speechft.tasks import TASKS
from speechft.tasks.label import classification

PAPER = [name for name in packaged_recipes() if name.split("-")[0] not in ("demo", "pretrain")]
SOURCES = packaged_bases() | {name: packaged_recipes()[name] for name in PAPER}
"""The files that hold their settings."""
_SOURCES = ("official", "ours", "s3prl", "HuBERT", "paper", "same", "configuration")


_DECOAR2 = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Corpus]:
    """Return a function that writes and prepares a miniature of an archive, once."""
    place, made = tmp_path_factory.mktemp("archives"), {}
    shapes: dict[str, dict[str, Any]] = {
        "tedlium3": {"seconds": 1.2},
        "voxceleb1": {"speakers": 4, "shared": True},
        "iemocap": {"speakers": 10, "per_speaker": 2, "shared": True},
        "timit": {},
        "librispeech": {},
        "aishell3": {"per_speaker": 12, "text": "广州", "labels": _pinyin},
    }

    def archive(name: str) -> Corpus:
        if name not in made:
            root = place / name
            miniature(root, name, **shapes[name])
            if name == "librispeech":
                lexicon = "GO  G OW1\nON  AA1 N\nYES  Y EH1 S\nLEFT  L EH1 F T\n"
                (root / "LibriSpeech" / "librispeech-lexicon.txt").write_text(lexicon)
            made[name] = prepared(name, root)
        return made[name]

    return archive


def _pinyin(split: str, who: int, number: int) -> dict[str, str]:
    return {"pinyin": "guang3 zhou1"}


def _encoder(name: str, folder: Path) -> Path:
    family = name.split("-")[0]
    if family == "decoar2":
        torch.manual_seed(0)
        HuggingFaceEncoder(Decoar2Model(Decoar2Config(**_DECOAR2))).save(folder)
    else:
        speech_encoder(family).save(folder)
    return folder


def _shrunk(recipe: Recipe, encoder: Path, archives: Callable[[str], Corpus]) -> Recipe:
    """Return the recipe for a tiny encoder, seconds of data and ten updates."""
    config = recipe.finetuning
    changes: dict[str, Any] = {
        "steps": 10,
        "head_only": 0.3,
        "learning_rate": 5e-3,
        "batch_utterances": min(6, config.batch_utterances),
        "accumulation": min(2, config.accumulation),
        "evaluate_every": 5,
        "precision": "fp32",
        "trackers": [],
        "hidden": 12,
    }
    if config.task == "hubert":
        changes["targets"] = {"source": "self", "layer": 1, "clusters": 4}
    if config.specaugment is not None:
        changes["specaugment"] = {"time_width": (0, 6), "channel_width": (0, 4)}
    if config.recurrent is not None:
        changes["recurrent"] = {"layers": 3, "size": 8, "dropout": 0.2}
    places = {n: str(archives(Path(p).name).folder) for n, p in recipe.data.corpora.items()}
    content = {
        "encoder": str(encoder),
        "data": {
            "corpus": str(archives(Path(recipe.data.corpus).name).folder),
            "corpora": places,
        },
        "finetuning": {**config.as_dict(), **changes},
        "composition": {**recipe.composition.as_dict(), "overrides": {}},
    }
    return Recipe.model_validate({**recipe.as_dict(), **content})


@pytest.mark.integration
@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_trains_from_the_archive_on(
    name: str,
    tmp_path: Path,
    archives: Callable[[str], Corpus],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "er" not in TASKS:
        emotion = classification("er", "emotion recognition", label="emotion")
        monkeypatch.setitem(TASKS, "er", emotion)
    base = _encoder(name, tmp_path / "base")
    recipe = _shrunk(load_recipe(Recipe, name), base, archives)
    encoder = pipeline.finetune_recipe(recipe, tmp_path / "run")
    before, after = (load_file(folder / "model.safetensors") for folder in (base, encoder))
    assert set(before) == set(after)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    frozen = {n for n in before if n.startswith("feature_extractor.")}
    assert bool(frozen) == (not name.startswith("decoar2")), "DeCoAR 2.0 has no CNN"
    unused = set() if recipe.finetuning.task == "hubert" else {"masked_spec_embed"}
    assert moved == set(before) - frozen - unused
    histories = [read_json(path) for path in tmp_path.rglob("history.json")]
    assert len(histories) == max(1, len(recipe.composition.tasks))
    for history in histories:
        assert len(history["losses"]) == 10
        assert history["skipped"] == 0
        assert history["dropout"]["hidden_dropout"] == 0.1


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_contradicts_nothing(name: str) -> None:
    check_recipe(load_recipe(Recipe, name))


@pytest.mark.integration
@pytest.mark.parametrize("name", ["tedlium3", "librispeech", "timit"])
def test_speakers_are_no_task_where_those_of_test_are_new(
    name: str, archives: Callable[[str], Corpus]
) -> None:
    chosen = choose_tasks(EvaluationConfig(tasks="available"), archives(name))
    assert "asr" in {task.name for task in chosen}
    assert "sid" not in {task.name for task in chosen}


@pytest.mark.parametrize("name", SOURCES)
def test_every_number_of_a_recipe_says_where_it_is_from(name: str) -> None:
    text = SOURCES[name].read_text()
    if "\nfinetuning:" not in text:
        assert "extends: " in text, "its settings are another recipe's"
        return
    section = text[text.index("\nfinetuning:") :].splitlines()[2:]
    within = list(itertools.takewhile(lambda line: line.startswith("  "), section))
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
