"""Several tasks in one encoder: joint, averaged, TIES, in sequence; and what they refuse."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import speechft
from helpers import tone_corpus
from speechft import pipeline
from speechft.compositions import Composer, check_recipe, merge_settings
from speechft.data.manifest import Corpus
from speechft.encoders.load import digest_of
from speechft.errors import ConfigError
from speechft.merging.methods import METHODS
from speechft.recipe import Recipe
from speechft.results import Role

pytestmark = pytest.mark.usefixtures("quick_probes")
Weights = dict[str, torch.Tensor]


def _recipe(encoder: Path, corpus: Corpus, **changes: object) -> Recipe:
    content = {
        "title": "several tasks",
        "encoder": str(encoder),
        "data": {"corpus": str(corpus.folder)},
        "finetuning": {
            "steps": 6,
            "learning_rate": 5e-3,
            "hidden": None,
            "precision": "fp32",
            "trackers": [],
        },
        "baselines": [],
        "composition": {"kind": "average", "tasks": ["pr", "sid"]},
        "merging": {"alpha": 0.25},
        "evaluation": {"tasks": ["sid"], "floors": []},
        **changes,
    }
    return Recipe.model_validate(content)


def _read(folder: Path) -> Weights:
    return load_file(folder / "model.safetensors")


def test_average_interpolates_to_the_mean_of_the_task_models(
    tmp_path: Path, tiny_hubert: Path, tones: Corpus
) -> None:
    recipe = _recipe(tiny_hubert, tones)
    models = Composer(recipe, {"*": tones}, tmp_path).compose("stable", [0.25, 0.5])
    base = _read(tiny_hubert)
    one, two = (_read(tmp_path / "finetuning" / "stable" / t / "encoder") for t in ("pr", "sid"))
    assert set(models.merged) == {0.25, 0.5}
    assert set(models.histories) == {"stable on pr", "stable on sid"}
    for alpha, folder in models.merged.items():
        merged = _read(folder)
        for name in base:
            mean = ((one[name] - base[name]) + (two[name] - base[name])) / 2
            assert torch.allclose(merged[name], base[name] + alpha * mean, atol=1e-7), name
    whole = _read(models.tuned)
    assert torch.allclose(
        whole["encoder.layer_norm.weight"],
        (one["encoder.layer_norm.weight"] + two["encoder.layer_norm.weight"]) / 2,
        atol=1e-6,
    )


def test_ties_is_the_merge_method_with_its_options(
    tmp_path: Path, tiny_hubert: Path, tones: Corpus
) -> None:
    ties = {"kind": "ties", "tasks": ["pr", "sid"], "options": {"density": 0.3}}
    recipe = _recipe(tiny_hubert, tones, composition=ties)
    models = Composer(recipe, {"*": tones}, tmp_path).compose("stable", [0.5])
    tuned = [tmp_path / "finetuning" / "stable" / t / "encoder" for t in ("pr", "sid")]
    speechft.merge(
        tiny_hubert, tuned, alpha=0.5, out=tmp_path / "by-hand", method="ties", density=0.3
    )
    ours, theirs = _read(models.merged[0.5]), _read(tmp_path / "by-hand")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_any_merge_method_can_be_run(tmp_path: Path, tiny_hubert: Path, tones: Corpus) -> None:
    """By the recipe's method, options, rules, weight norm and type, as `speechft.merge` does it."""
    folder = tmp_path / "run"
    tuned = [folder / "finetuning" / "stable" / task / "encoder" for task in ("pr", "sid")]
    calls: dict[str, dict[str, Any]] = {
        name: {"alpha": 0.5 if kind.takes_alpha else None, "method": name}
        for name, kind in METHODS.items()
    }
    calls["lines"]["options"] = {"first": 0.1}
    calls["dare-linear"]["options"] = {"seed": 3, "weights": [1, 0.5]}
    calls["linear"] |= {"rules": {"layers.0": 0.1}, "weight_norm": "fused", "dtype": "float16"}
    for name, merging in calls.items():
        several = METHODS[name].models[1] > 1
        kind, tasks = ("average", ["pr", "sid"]) if several else ("single", [])
        composition = {"kind": kind, "tasks": tasks}
        recipe = _recipe(tiny_hubert, tones, merging=merging, composition=composition)
        recipe = Recipe.model_validate(recipe.as_dict())
        check_recipe(recipe)
        models = Composer(recipe, {"*": tones}, folder).compose("stable", [recipe.merging.alpha])
        options = merging.pop("options", {})
        out = tmp_path / name
        speechft.merge(
            tiny_hubert, tuned if several else models.tuned, out=out, **merging, **options
        )
        ours, theirs = _read(models.merged[recipe.merging.alpha]), _read(out)
        assert all(torch.equal(ours[n], theirs[n]) for n in theirs), name


def test_the_key_of_a_merge_is_what_it_was(tiny_hubert: Path, tones: Corpus) -> None:
    """Finished runs are not redone: a plain merge is known by alpha alone, ties by its options."""
    plain = _recipe(tiny_hubert, tones)
    assert merge_settings(plain).only(alpha=0.5).changed() == {"alpha": 0.5}
    ties = {"kind": "ties", "tasks": ["pr", "sid"], "options": {"density": 0.3}}
    settings = merge_settings(_recipe(tiny_hubert, tones, composition=ties)).only(alpha=0.25)
    assert settings.changed() == {"alpha": 0.25, "method": "ties", "density": 0.3}
    other = _recipe(tiny_hubert, tones, merging={"rules": ["cnn: 0"], "dtype": "float16"})
    assert merge_settings(other).changed() == {
        "alpha": 0.25,
        "rules": {"cnn": 0.0},
        "dtype": "float16",
    }


def test_sequential_goes_on_from_the_merged_encoder(
    tmp_path: Path, tiny_hubert: Path, tones: Corpus
) -> None:
    sequence = {
        "kind": "sequential",
        "tasks": ["pr", "sid"],
        "overrides": {"sid": {"steps": 4}},
    }
    recipe = _recipe(tiny_hubert, tones, composition=sequence)
    models = Composer(recipe, {"*": tones}, tmp_path).compose("stable", [0.25])
    first = tmp_path / "finetuning" / "stable" / "1-pr" / "encoder"
    middle = tmp_path / "merging" / "stable" / "1-pr" / "alpha-0.25" / "encoder"
    base, one, two = _read(tiny_hubert), _read(first), _read(middle)
    for name in base:
        expected = base[name] + 0.25 * (one[name] - base[name])
        assert torch.equal(two[name], expected), name
    last, merged = _read(models.tuned), _read(models.merged[0.25])
    for name in base:
        assert torch.equal(merged[name], two[name] + 0.25 * (last[name] - two[name])), name
    assert len(models.histories["stable on sid"]["losses"]) == 4
    assert len(models.histories["stable on pr"]["losses"]) == 6


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["joint", "sequential"])
def test_a_whole_run_of_several_tasks(
    tmp_path: Path, tiny_hubert: Path, tones: Corpus, kind: str
) -> None:
    (tmp_path / "other").mkdir()
    other = tone_corpus(tmp_path / "other", speakers=2, per_speaker=4, seed=9)
    recipe = _recipe(
        tiny_hubert, tones, data={"corpus": str(tones.folder), "corpora": {"pr": str(other.folder)}}
    )
    if kind == "joint":
        finetuning = {**recipe.finetuning.as_dict(), "tasks": {"sid": 1.0, "pr": 0.5}}
        changes = {"finetuning": finetuning, "composition": {"kind": "single"}}
    else:
        changes = {"composition": {"kind": "sequential", "tasks": ["sid", "pr"]}}
    changes["merging"] = {"alpha": 0.25, "curve": [0.5], "curve_tasks": ["sid"]}
    recipe = Recipe.model_validate({**recipe.as_dict(), **changes})
    summary = pipeline.run(recipe, tmp_path / "run")
    curve = {row.alpha: row for row in summary.curve}
    assert list(curve) == [0.0, 0.25, 0.5, 1.0]
    if kind == "joint":
        assert curve[0.0].role is Role.PRE_TRAINED
    else:  # the last merge starts from what the first task made
        base = tmp_path / "run" / "merging" / "stable" / "1-sid" / "alpha-0.25" / "encoder"
        assert curve[0.0].encoder_digest == digest_of(base)
        assert curve[0.0].role is Role.MERGED
        page = (tmp_path / "run" / "report.html").read_text()
        assert "Between the base's weights" in html.unescape(page)
    names = {row.encoder for row in summary.rows}
    assert {"pre-trained", "stable fine-tuning", "Speech-FT (0.25)"} <= names
    assert (tmp_path / "run" / "merged" / "model.safetensors").is_file()
    assert "<!doctype html>" in (tmp_path / "run" / "report.html").read_text()
    again = pipeline.run(recipe, tmp_path / "run")
    assert again.rows == summary.rows


def test_finetune_alone_exports_the_composition(
    tmp_path: Path, tiny_hubert: Path, tones: Corpus
) -> None:
    encoder = pipeline.finetune_recipe(_recipe(tiny_hubert, tones), tmp_path)
    assert encoder == tmp_path / "encoder"
    assert set(_read(encoder)) == set(_read(tiny_hubert))


@pytest.mark.parametrize(
    ("composition", "message"),
    [
        ({"kind": "single", "tasks": ["pr"]}, "composition.tasks is for average"),
        ({"kind": "average", "tasks": ["pr"]}, "needs at least two tasks"),
        (
            {"kind": "ties", "tasks": ["pr", "sid"], "overrides": {"ic": {}}},
            "task 'ic' is not among composition.tasks: pr, sid",
        ),
    ],
)
def test_compositions_that_contradict_themselves(
    tiny_hubert: Path, tones: Corpus, composition: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_recipe(_recipe(tiny_hubert, tones, composition=composition))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"composition": {"kind": "average", "tasks": ["pr", "sdi"]}}, "unknown task 'sdi'"),
        (
            {
                "composition": {
                    "kind": "sequential",
                    "tasks": ["pr", "sid"],
                    "overrides": {"sid": {"stepz": 3}},
                }
            },
            "composition.overrides of sid: unknown key 'stepz'",
        ),
        (
            {"composition": {"kind": "single"}, "merging": {"method": "model-stock"}},
            "method 'model-stock' takes two tuned models or more, given: 1",
        ),
        ({"merging": {"method": "slerp"}}, "method 'slerp' takes one tuned model, given: 2"),
        (
            {"merging": {"method": "ties", "options": {"weights": [1, 2, 3]}}},
            "3 weights were given for 2 tuned models",
        ),
        ({"merging": {"rules": {"layers.7": 0.1}}}, "'layers.7' matches no tensor"),
        (
            {"composition": {"kind": "average", "tasks": ["pr", "sid"], "options": {"density": 1}}},
            "composition.options is for kind ties, composition.kind is average",
        ),
        (
            {
                "composition": {"kind": "ties", "tasks": ["pr", "sid"]},
                "merging": {"method": "dare-ties"},
            },
            "merges with method ties, merging.method is dare-ties",
        ),
        (
            {
                "composition": {"kind": "ties", "tasks": ["pr", "sid"], "options": {"density": 1}},
                "merging": {"method": "ties", "options": {"density": 0.3}},
            },
            "density: in composition.options and in merging.options",
        ),
        (
            {"composition": {"kind": "ties", "tasks": ["pr", "sid"], "options": {"densty": 1}}},
            "has no option 'densty'",
        ),
        (
            {"data": {"corpus": "x", "corpora": {"sdi": "y"}}},
            r"data\.corpora: task 'sdi' is not tuned on; tasks are: pr, sid",
        ),
        (
            {
                "composition": {"kind": "single"},
                "finetuning": {"task": "hubert", "steps": 4, "learning_rate": 1e-3},
                "baselines": ["l2sp"],
            },
            "strategy l2sp is for tasks with labels",
        ),
    ],
)
def test_recipes_that_cannot_be_run_are_refused_before_anything_is(
    tiny_hubert: Path, tones: Corpus, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_recipe(_recipe(tiny_hubert, tones, **changes))


def test_settings_without_effect_go_on_where_it_was(
    tmp_path: Path, tiny_hubert: Path, tones: Corpus
) -> None:
    recipe = _recipe(tiny_hubert, tones)

    def tune(**changes: object) -> int:
        config = recipe.finetuning.model_copy(update={"task": "sid", **changes})
        folder = Composer(recipe, {"*": tones}, tmp_path).tune(config, recipe.encoder, tmp_path)
        return (folder / "model.safetensors").stat().st_ino

    first = tune()
    assert tune(checkpoint_every=2, keep=5, trackers=("tensorboard",)) == first
    assert tune(learning_rate=1e-3) != first
