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
from speechft.evaluation.config import EvaluationConfig, ProbeConfig
from speechft.evaluation.protocols import PROTOCOLS
from speechft.evaluation.suite import choose_tasks
from speechft.recipe import Recipe, load_recipe, packaged_recipes
from speechft.recipe_files import packaged_bases
from speechft.storage.files import read_json
from speechft.tasks import SUPERB, TASKS
from speechft.tasks.label import classification

MINIATURE = "-miniature"
_ALL = [name for name in packaged_recipes() if name.split("-")[0] not in ("demo", "pretrain")]
MINIATURES = [name for name in _ALL if name.endswith(MINIATURE)]
PAPER = [name for name in _ALL if name not in MINIATURES]
SOURCES = packaged_bases() | {name: packaged_recipes()[name] for name in _ALL}
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
        "crema-d": {"speakers": 10, "per_speaker": 2},
        "snips": {"labels": _slots},
        "speech-commands": {"labels": _keyword},
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


OURS = 29
"""Settings that no source gives, over all paper recipes; sources may be found, so it only falls."""
TABLES = {
    "I": (
        "hubert-base-tedlium3-asr",
        "hubert-base-voxceleb1-sid",
        "hubert-base-iemocap-er",
        "hubert-base-timit-pc",
        "hubert-base-crema-d-er",
        "hubert-base-snips-sf",
        "hubert-base-librispeech-pr",
        "hubert-base-speech-commands-ks",
    ),
    "II": ("hubert-base-aishell3-pretraining",),
    "III": (
        "hubert-base-pr-sid-joint",
        "hubert-base-pr-sid-average",
        "hubert-base-pr-sid-ties",
        "hubert-base-pr-sid-sequential",
    ),
    "VII": ("hubert-base-voxceleb1-sid-ablation",),
    "VIII": ("hubert-base-voxceleb1-sid-baselines",),
}
SMALLER = {
    "title",
    "encoder",
    "finetuning.steps",
    "finetuning.evaluate_every",
    "finetuning.hidden",
    "finetuning.recurrent.size",
    "finetuning.targets.layer",
    "finetuning.targets.clusters",
    "evaluation.protocol",
    "evaluation.limit",
}
"""All that a miniature may say otherwise beside ``data``: encoder, steps and sizes of heads."""


def _pinyin(split: str, who: int, number: int) -> dict[str, str]:
    return {"pinyin": "guang3 zhou1"}


def _slots(split: str, who: int, number: int) -> dict[str, str]:
    return {"slots": "O B-playlist", "intent": "AddToPlaylist"}


def _keyword(split: str, who: int, number: int) -> dict[str, str]:
    word = ("yes", "left")[number % 2]
    return {"keyword": word, "word": word}


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


_SAME_TUNING = ("-ablation", "-baselines", "-average", "-ties")
"""Recipes whose fine-tunings are those of another one."""


@pytest.mark.integration
@pytest.mark.parametrize("name", [n for n in PAPER if not n.endswith(_SAME_TUNING)])
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


@pytest.mark.integration
def test_a_miniature_runs_from_archives_to_the_row_beside_published_ones(
    tmp_path: Path,
    archives: Callable[[str], Corpus],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The ablation: plain beside stable, both merged, on the four tasks of SUPERB_S."""
    quick = ProbeConfig(learning_rates=(1e-2, 3e-2), extend=0, units=(8,), epochs=2, batch=16)
    monkeypatch.setitem(PROTOCOLS, "quick", {"frame": quick, "utterance": quick})
    places = {"pr": "librispeech", "sid": "voxceleb1", "er": "iemocap", "sf": "snips"}
    changes = {
        "encoder": str(_encoder("hubert-base", tmp_path / "base")),
        "data.corpus": str(archives("voxceleb1").folder),
        "data.evaluation": {task: str(archives(name).folder) for task, name in places.items()},
        "finetuning.steps": 10,
        "finetuning.head_only": 0.3,
        "finetuning.precision": "fp32",
        "evaluation.protocol": "quick",
        "evaluation.precision": "fp32",
        "evaluation.max_left_out": 1.0,
    }
    name = f"hubert-base-voxceleb1-sid-ablation{MINIATURE}"
    summary = pipeline.run(load_recipe(Recipe, name, changes=changes), tmp_path / "run")
    assert {row.task for row in summary.rows} == set(places)
    merged = [row.encoder for row in summary.rows if row.alpha == 0.25 and row.task == "pr"]
    assert merged == ["Speech-FT (0.25)", "plain merged (0.25)"]
    assert len({row.encoder_digest for row in summary.rows}) == 5
    shown = capsys.readouterr()
    assert "estimate: 20 updates" in shown.err
    assert "SUPERB_S beside published rows" in shown.out
    report = summary.report.read_text()
    assert "HuBERT Base, Speech-FT on ASR" in report
    assert "905.79" in report


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


def test_settings_of_our_own_only_become_fewer() -> None:
    settings = [
        line.partition("#")
        for name in (*packaged_bases(), *PAPER)
        if name != "miniature"
        for line in SOURCES[name].read_text().splitlines()
    ]
    count = sum(bool(s.strip()) and "ours" in comment for s, _, comment in settings)
    assert count == OURS, "fewer: set OURS to it; more: find a source"


def flat(content: Any, before: str = "") -> dict[str, Any]:
    """Return a nested mapping with its keys joined by dots."""
    if not isinstance(content, dict) or not content:
        return {before: content}
    return {
        key: value
        for name, part in content.items()
        for key, value in flat(part, f"{before}.{name}" if before else name).items()
    }


def test_every_paper_recipe_has_its_miniature() -> None:
    assert {name + MINIATURE for name in PAPER} == set(MINIATURES)


@pytest.mark.parametrize("name", MINIATURES)
def test_a_miniature_differs_in_nothing_but_size(name: str) -> None:
    small, whole = (
        flat(load_recipe(Recipe, n).as_dict()) for n in (name, name.removesuffix(MINIATURE))
    )
    different = {key for key in {*small, *whole} if small.get(key) != whole.get(key)}
    assert {key for key in different if not key.startswith("data.")} <= SMALLER
    corpora = {v for k, v in small.items() if k.startswith("data.") and isinstance(v, str)}
    assert corpora == {"synthetic-archives"}
    assert {k for k in small if k.startswith("data.")} == {
        k for k in whole if k.startswith("data.")
    }, "the same tasks are tuned and evaluated on"
    assert small["finetuning.steps"] < 100


@pytest.mark.parametrize("table", TABLES)
def test_every_table_of_the_paper_has_its_recipes(table: str) -> None:
    for name in TABLES[table]:
        recipe = load_recipe(Recipe, name)
        assert set(recipe.evaluation.tasks) >= {"pr", "sid", "er", "sf"}, "SUPERB_S by default"
        everything = load_recipe(Recipe, name, ["evaluation.tasks=all"])
        assert isinstance(recipe.data.evaluation, dict)
        assert set(everything.evaluation.tasks) == set(SUPERB) == set(recipe.data.evaluation)


def test_recipes_of_tables_have_what_their_tables_need() -> None:
    three = [load_recipe(Recipe, name) for name in TABLES["III"]]
    kinds = {"single", "average", "ties", "sequential"}
    assert {recipe.composition.kind for recipe in three} == kinds
    assert len({str(r.finetuning.model_copy(update={"tasks": {}})) for r in three}) == 1
    [ablation] = (load_recipe(Recipe, name) for name in TABLES["VII"])
    assert ablation.merged_at() == {"stable": [], "plain": [0.25]}
    [rivals] = (load_recipe(Recipe, name) for name in TABLES["VIII"])
    assert list(rivals.merged_at()) == ["stable", "l2sp", "lora", "dora", "early-checkpoint"]
    assert rivals.finetuning.early.share == 0.2
    assert "asr" in load_recipe(Recipe, TABLES["II"][0]).evaluation.tasks


def test_values_that_the_released_code_says() -> None:
    """Read in `downstream/asr_ted/config_finetune.yaml` and fairseq's pre-training settings."""
    for family in ("hubert-base", "wav2vec2-base", "wavlm-base-plus", "decoar2"):
        config = load_recipe(Recipe, f"{family}-tedlium3-asr").finetuning
        assert config.steps == 50_000
        expected = 0.0 if family.startswith("wavlm") else 0.1
        assert config.dropout["feat_proj_dropout"] == expected


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
