"""Recipes: every packaged one loads and validates; a misspelt name or key finds its neighbour."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from speechft.compositions import check_recipe
from speechft.config import Config
from speechft.errors import ConfigError
from speechft.recipe import KINDS, Baseline, Recipe, find_recipe, load_recipe, packaged_recipes
from speechft.recipe_files import packaged_bases, read_recipe, verbs_of

PACKAGED = (
    "demo",
    "decoar2-tedlium3-asr",
    "hubert-base-aishell3-pretraining",
    "hubert-base-crema-d-er",
    "hubert-base-iemocap-er",
    "hubert-base-librispeech-pr",
    "hubert-base-pr-sid-average",
    "hubert-base-pr-sid-joint",
    "hubert-base-pr-sid-sequential",
    "hubert-base-pr-sid-ties",
    "hubert-base-snips-sf",
    "hubert-base-speech-commands-ks",
    "hubert-base-tedlium3-asr",
    "hubert-base-timit-pc",
    "hubert-base-voxceleb1-sid",
    "hubert-base-voxceleb1-sid-ablation",
    "hubert-base-voxceleb1-sid-baselines",
    "pretrain-hubert-base-aishell3",
    "pretrain-hubert-base-librispeech",
    "pretrain-hubert-base-librispeech-2",
    "pretrain-tiny",
    "pretrain-tiny-2",
    "wav2vec2-base-tedlium3-asr",
    "wavlm-base-plus-tedlium3-asr",
)


def kind_of(name: str) -> type[Config]:
    return KINDS[verbs_of(read_recipe(name))[0]]


def test_the_packaged_recipes_are_these() -> None:
    whole = tuple(name for name in packaged_recipes() if not name.endswith("-miniature"))
    assert whole == PACKAGED


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
        "data": {"corpus": Path("/data/a"), "evaluation": (Path("/data/b"), "c")},
    }
    recipe = load_recipe(Recipe, "demo", changes=changes)
    assert (recipe.encoder, recipe.title) == ("/data/run #3/encoder", "a: b")
    assert (recipe.baselines, recipe.finetuning.hidden) == ((), None)
    assert (recipe.merging.curve, recipe.evaluation.tasks) == ((0.5,), ("sid",))
    assert recipe.data.corpus == "/data/a"
    assert recipe.data.evaluation == ("/data/b", "c")
    with pytest.raises(ConfigError, match=r"merging\.curve\.0: expected a value less than"):
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


def test_the_schemas_of_recipes_import_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from speechft.recipe import Recipe, load_recipe\n"
        "load_recipe(Recipe, 'hubert-base-iemocap-er')\n"
        "heavy = {'torch', 'transformers', 'lhotse', 'numpy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("kind", "name", "message", "hint"),
    [
        ("run", "pretrain-tiny", "is for pretrain, not for run or finetune", "pretrain pretrain-"),
        ("pretrain", "demo", "is for run or finetune, not for pretrain", "speechft run demo"),
    ],
)
def test_a_recipe_for_another_verb(kind: str, name: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(KINDS[kind], name)
    assert hint in (caught.value.hint or "")


def test_extending_merges_sections_and_replaces_the_rest(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "base.yaml").write_text(
        "extends: demo\ntitle: base\nbaselines: [plain, lora]\nfinetuning: {steps: 7, hidden: 9}\n"
        "verdict: {margins: {sid: 2.0}}\n"
    )
    mine = tmp_path / "below" / "mine.yaml"
    mine.write_text(
        "extends: ../base.yaml\nbaselines: [l2sp]\n"
        "finetuning: {hidden: null, schedule: {hold: 0}}\n"
    )
    demo, recipe = load_recipe(Recipe, "demo"), load_recipe(Recipe, mine)
    assert (recipe.title, recipe.baselines) == ("base", (Baseline(strategy="l2sp"),))
    assert (recipe.finetuning.steps, recipe.finetuning.hidden) == (7, None)
    assert (recipe.finetuning.schedule.warmup, recipe.finetuning.schedule.hold) == (0.1, 0.0)
    assert recipe.verdict.margins == {**demo.verdict.margins, "sid": 2.0}
    assert recipe.finetuning.batch_seconds == demo.finetuning.batch_seconds
    changed = load_recipe(Recipe, str(mine), ["finetuning.steps=8"])
    assert changed.finetuning.steps == 8, "overrides come last"


def test_several_bases_are_put_upon_each_other(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("title: small\nfinetuning: {steps: 7}\nencoder: mine\n")
    path = tmp_path / "mine.yaml"
    path.write_text("extends: [demo, small.yaml]\nfinetuning: {hidden: 3}\n")
    demo, recipe = load_recipe(Recipe, "demo"), load_recipe(Recipe, path)
    assert (recipe.title, recipe.encoder) == ("small", "mine")
    assert (recipe.finetuning.steps, recipe.finetuning.hidden) == (7, 3)
    assert recipe.finetuning.learning_rate == demo.finetuning.learning_rate
    assert recipe.data == demo.data


def test_baselines_are_names_or_say_where_they_are_merged() -> None:
    recipe = load_recipe(Recipe, "demo", ["baselines=[plain, {strategy: lora, alpha: 0.5}]"])
    assert [b.strategy for b in recipe.baselines] == ["plain", "lora"]
    assert recipe.merged_at() == {"stable": [], "plain": [], "lora": [0.5]}
    several = "[{strategy: plain, alpha: 0.25}, {strategy: plain, alpha: 0.5}, plain, stable, "
    several += "{strategy: stable, alpha: 0.25}, {strategy: stable, alpha: 0.75}]"
    recipe = load_recipe(Recipe, "demo", [f"baselines={several}"])
    assert recipe.merged_at() == {"stable": [0.75], "plain": [0.25, 0.5]}
    with pytest.raises(ConfigError, match=r"baselines\.0: expected one of"):
        load_recipe(Recipe, "demo", ["baselines=[plian]"])
    with pytest.raises(ConfigError, match=r"baselines\.0\.alpha: expected a value less than"):
        load_recipe(Recipe, "demo", ["baselines=[{strategy: plain, alpha: 2}]"])
    overrides = ["merging.method=model-stock", "merging.curve=[]", "merging.alpha=null"]
    recipe = load_recipe(Recipe, "demo", [*overrides, "baselines=[{strategy: plain, alpha: 0.5}]"])
    with pytest.raises(ConfigError, match="which method 'model-stock' finds itself"):
        check_recipe(recipe)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: dmo", "unknown recipe that .*mine.yaml extends: 'dmo'"),
        ("extends: other.yaml", "mine.yaml extends other.yaml, but .* does not exist"),
        ("extends: mine.yaml", "circle: .*mine.yaml -> .*mine.yaml"),
        ("extends: ./round.yaml", "circle: .*mine.yaml -> .*round.yaml -> .*mine.yaml"),
        ("extends: [demo, 3]", "extends is 3, expected the name"),
        ("extends: []", r"extends is \[\], expected the name"),
        ("extends:", "extends is None, expected the name"),
        ("extends: demo\nfinetuning: 3", "finetuning: expected a section"),
        ("extends: demo\ntitel: x", "unknown key 'titel'"),
        ("extends: !!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_extending_what_cannot_be(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"{text}\n")
    (tmp_path / "round.yaml").write_text("extends: mine.yaml\n")
    with pytest.raises(ConfigError, match=message):
        load_recipe(Recipe, tmp_path / "mine.yaml")


def test_a_base_is_no_recipe() -> None:
    assert packaged_bases().keys().isdisjoint(packaged_recipes())
    for name in packaged_bases():
        with pytest.raises(ConfigError, match=f"{name} is a base of others") as caught:
            load_recipe(Recipe, name)
        assert f"extends: {name}" in (caught.value.hint or "")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("extends: demo\nseed: 4\n")
    (tmp_path / "next.yaml").write_text("extends: ~/mine.yaml\n")
    assert load_recipe(Recipe, "~/next.yaml").seed == 4
