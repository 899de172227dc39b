"""Recipes: every packaged one loads and validates; a misspelt name or key finds its neighbour."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechft.config import Config
from speechft.errors import ConfigError
from speechft.finetuning.pretraining import PretrainingConfig
from speechft.recipe import PRETRAIN_PREFIX, Recipe, find_recipe, load_recipe, packaged_recipes

PACKAGED = (
    "demo",
    "decoar2-tedlium3-asr",
    "hubert-base-aishell3-pretraining",
    "hubert-base-iemocap-er",
    "hubert-base-pr-sid-sequential",
    "hubert-base-tedlium3-asr",
    "hubert-base-timit-pc",
    "hubert-base-voxceleb1-sid",
    "pretrain-tiny",
    "pretrain-tiny-2",
    "wav2vec2-base-tedlium3-asr",
    "wavlm-base-plus-tedlium3-asr",
)


def kind_of(name: str) -> type[Config]:
    return PretrainingConfig if name.startswith(PRETRAIN_PREFIX) else Recipe


def test_the_packaged_recipes_are_these() -> None:
    assert tuple(packaged_recipes()) == PACKAGED


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipe_validates_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(kind_of(name), name)
    copy = tmp_path / "copy.yaml"
    copy.write_text(recipe.as_yaml(), encoding="utf-8")
    assert load_recipe(kind_of(name), str(copy)) == recipe


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipe_opens_with_what_it_is_for(name: str) -> None:
    text = packaged_recipes()[name].read_text()
    assert text.startswith("# ")
    assert "title: " in text


@pytest.mark.parametrize(
    ("name", "near"), [("dmo", "demo"), ("Demo", "demo"), ("pretrain_tiny", "pretrain-tiny")]
)
def test_unknown_name_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown recipe '{name}'") as caught:
        load_recipe(Recipe, name)
    assert caught.value.hint == f"did you mean {near!r}?"
    for packaged in PACKAGED:
        assert packaged in caught.value.message


def test_overrides_are_typed_and_checked() -> None:
    recipe = load_recipe(Recipe, "demo", ["finetuning.learning_rate=1e-4", "merging.curve=[0.5]"])
    assert recipe.finetuning.learning_rate == 1e-4
    assert recipe.merging.curve == (0.5,)
    with pytest.raises(ConfigError, match=r"recipe demo: unknown key 'merging\.alhpa'") as caught:
        load_recipe(Recipe, "demo", ["merging.alhpa=0.5"])
    assert caught.value.hint == "did you mean 'alpha'?"


def test_values_from_python_are_taken_as_they_are() -> None:
    changes = {
        "encoder": Path("/data/run #3/encoder"),
        "title": "a: b",
        "baselines": (),
        "finetuning.hidden": None,
        "merging.curve": (0.5,),
        "evaluation.tasks": ("sid",),
    }
    recipe = load_recipe(Recipe, "demo", changes=changes)
    assert (recipe.encoder, recipe.title) == ("/data/run #3/encoder", "a: b")
    assert (recipe.baselines, recipe.finetuning.hidden) == ((), None)
    assert (recipe.merging.curve, recipe.evaluation.tasks) == ((0.5,), ("sid",))
    with pytest.raises(ConfigError, match=r"merging\.curve\.0: Input should be less than"):
        load_recipe(Recipe, "demo", changes={"merging.curve": (1.5,)})


@pytest.mark.parametrize("alpha", ["-0.1", "1.5", "half"])
def test_alpha_outside_its_range(alpha: str) -> None:
    with pytest.raises(ConfigError, match=r"merging\.alpha") as caught:
        load_recipe(Recipe, "demo", [f"merging.alpha={alpha}"])
    assert alpha in caught.value.message


def test_every_merge_setting_can_be_set() -> None:
    overrides = ["merging.method=lines", "merging.options.first=0.1", "merging.dtype=float32"]
    merging = load_recipe(Recipe, "demo", overrides).merging
    assert (merging.method, merging.options) == ("lines", {"first": 0.1})
    assert (merging.alpha, merging.label) == (0.25, "lines, 0.25")
    overrides = ["merging.rules={layers.0-1: 0.1, cnn: 0}", "merging.weight_norm=fused"]
    merging = load_recipe(Recipe, "demo", overrides).merging
    assert merging.rules == {"layers.0-1": 0.1, "cnn": 0.0}
    assert (merging.weight_norm, merging.label) == ("fused", "0.25")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["merging.method=liens"], "did you mean 'lines'"),
        (["merging.method=ties", "merging.options.densty=1"], "did you mean 'density'"),
        (["merging.method=ties", "merging.options.density=2"], "density is 2.0, expected a number"),
        (["merging.options.first=0.1"], "first is for lines"),
        (["merging.options.alpha=0.1"], "alpha is no option of method 'linear'"),
        (["merging.method=lines", "merging.rules={cnn: 0}"], "drop the alpha rules"),
        (["merging.rules={cnn: .nan}"], "expected a finite number"),
        (["merging.method=model-stock"], "finds the alpha of every tensor itself"),
        (["merging.method=model-stock", "merging.alpha=null"], "set merging.curve="),
    ],
)
def test_impossible_merges_are_refused_with_the_recipe(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(Recipe, "demo", overrides)
    assert str(caught.value).startswith("recipe demo: merging")
    assert message in str(caught.value)


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_the_users_own_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    path.write_text(packaged_recipes()["demo"].read_text().replace("seed: 0", "seed: 5"))
    assert find_recipe(str(path)) == path
    assert load_recipe(Recipe, str(path)).seed == 5
    path.write_text("titel: x\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(Recipe, str(path))
    assert str(path) in caught.value.message
    assert caught.value.hint == "did you mean 'title'?"


def test_a_missing_file_of_the_user() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        load_recipe(Recipe, "nowhere.yaml")


def test_a_key_that_is_left_out_is_named() -> None:
    with pytest.raises(ConfigError, match="finetuning"):
        load_recipe(Recipe, "demo", ["finetuning=null"])
