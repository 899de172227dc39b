"""Merges as YAML files: our keys and the official ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import oracle_data
from speechft.errors import ConfigError
from speechft.merging.config import MergeConfig
from speechft.merging.config_file import merge_config
from speechft.merging.execution import write_merge


def write(folder: Path, text: str) -> Path:
    path = folder / "merge.yaml"
    path.write_text(text)
    return path


def test_official_keys_give_the_official_file(oracle: Path, tmp_path: Path) -> None:
    result = oracle_data.oracle(oracle_data.cases("merge/hubert_merged_ft1_a*.safetensors")[0])
    alpha = result.stem.partition("_a")[2]
    text = f"""{{
      'merge_method': 'linear',
      'alpha': {alpha},
      'base_model_name': 'hubert',
      'base_model_ckpt_path': '{oracle}/hubert_base.pt',
      'finetune_model_paths': ['{oracle}/hubert_ft1_downstream.ckpt'],
      'output_dir': '{tmp_path}/out'
    }}"""
    write_merge(merge_config({}, write(tmp_path, text)))
    written = torch.load(tmp_path / "out" / "merged_model.pt", weights_only=True)["model_weight"]
    expected = load_file(result)
    assert all(torch.equal(written[n], v) for n, v in expected.items())


def test_our_keys(pair: Any, tmp_path: Path) -> None:
    base, tuned = pair
    text = f"""
base: {base}
tuned: {tuned}
alpha: 0.5
out: {tmp_path}/out
rules:
  layers.0-1: 0.1
  cnn: 0
"""
    report = write_merge(merge_config({}, write(tmp_path, text)))
    assert report.alphas["encoder.layers.1.final_layer_norm.bias"] == 0.1
    assert report.alphas["encoder.layers.2.final_layer_norm.bias"] == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: a\ntuned: b\nalhpa: 1", "did you mean 'alpha'"),
        ("base: a", "tuned"),
        ("merge_method: linear\nalpah: 1", "did you mean 'alpha'"),
        ("merge_method: ties\nfinetune_model_paths: [a]", "has only 'linear'"),
        ("base_model_name: hubert\noutput_dir: x", "finetune_model_paths must list"),
        ("base_model_name: hubert\nfinetune_model_paths: [a]", "download https://huggingface.co"),
        ("base_model_name: huber\nfinetune_model_paths: [a]", "did you mean 'hubert'"),
    ],
)
def test_wrong_files_say_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        merge_config({}, write(tmp_path, text))
    assert message in str(caught.value)


def test_options_may_stand_beside_or_below_but_once(tmp_path: Path) -> None:
    head = "base: a\ntuned: [b, c]\nout: d\nmethod: ties\n"
    beside = merge_config({}, write(tmp_path, head + "density: 0.3\nweights: [1, 2]"))
    below = merge_config({}, write(tmp_path, head + "options: {density: 0.3, weights: [1, 2]}"))
    assert beside == below
    assert beside.options == {"density": 0.3, "weights": (1.0, 2.0)}
    with pytest.raises(ConfigError, match="density is given twice, below options and beside them"):
        merge_config({}, write(tmp_path, head + "density: 0.3\noptions: {density: 0.4}"))


def test_the_command_line_overrides_the_file_key_by_key(tmp_path: Path) -> None:
    text = "base: a\ntuned: b\nout: c\nalpha: 0.5\nmethod: ties\ndensity: 0.3\ntrim: tensor\n"
    path = write(tmp_path, text + "force: true\nrules: {cnn: 0}")
    given = {"alpha": 0.0, "options": ["density=0.1"], "out": "d", "rules": ["mask: 1"]}
    config = merge_config(given, path)
    assert (config.alpha, config.out, config.force) == (0.0, Path("d"), True)
    assert config.options == {"density": 0.1, "trim": "tensor"}
    assert config.rules == {"mask": 1.0}
    assert merge_config({"tuned": ["x", "y"]}, path).models == ["x", "y"]
    with pytest.raises(ConfigError, match="'linear' has no option 'density'"):
        merge_config({"method": "linear"}, path)


@pytest.mark.parametrize(
    "options", [["density=0.1", "density=0.2"], ["density=0.1", " density =1"]]
)
def test_an_option_is_given_once_on_the_command_line(options: list[str]) -> None:
    given = {"base": "a", "tuned": ["b"], "out": "c", "method": "ties", "options": options}
    with pytest.raises(ConfigError, match="option density is given twice"):
        merge_config(given)


OTHER_FILES = {
    "is the configuration of an encoder (hubert)": {"model_type": "hubert", "hidden_size": 768},
    "is a recipe, for speechft run": {"title": "x", "encoder": "y", "finetuning": {}},
    "holds task_type, r, peft_type and 1 more": dict.fromkeys(
        ("task_type", "r", "peft_type", "bias"), 1
    ),
}


@pytest.mark.parametrize("told", OTHER_FILES)
def test_a_file_about_something_else_is_named_in_one_sentence(told: str, tmp_path: Path) -> None:
    """An encoder's ``config.json`` gave a screenful: every key of it, and every key of ours."""
    path = write(tmp_path, json.dumps(OTHER_FILES[told]))
    with pytest.raises(ConfigError) as caught:
        merge_config({}, path)
    assert str(caught.value) == (
        f"{path} {told}; expected a merge with the keys base, tuned, alpha, out, method"
    )


def test_the_files_that_we_write_are_told_apart(pair: Any, tmp_path: Path) -> None:
    base, tuned = pair
    config = MergeConfig(base=str(base), tuned=str(tuned), out=tmp_path / "out")
    write_merge(config)
    for path, told in (
        (base / "config.json", "an encoder (hubert)"),
        (tmp_path / "out" / "merge.json", "report of a finished merge"),
    ):
        with pytest.raises(ConfigError, match=re.escape(told)) as caught:
            merge_config({}, path)
        assert len(str(caught.value)) < 200 + len(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge_method: linear\nbase: a\ntuned: b", "mixes keys of the official merge_config"),
        ("base: 3\ntuned: b", "base is 3, expected the name"),
        (
            "base: a\ntuned: {b: c}",
            "tuned is {'b': 'c'}, expected the name of a folder or file, or",
        ),
        ("base: a\ntuned: []", "tuned is []"),
        ("base: a\ntuned: [b, 3]", "tuned is ['b', 3]"),
        ("base: a\ntuned: b\nout: 3", "out is 3"),
        ("base: a\ntuned: b\nout: c\nforce: 'no'", "force is 'no', expected true or false"),
        ("base: a\ntuned: b\nout: c\nalpha: .nan", "alpha is nan, expected a finite number"),
        ("base: a\ntuned: b\nout: c\nalpha: true", "alpha is True, expected a finite number"),
        ("base: a\ntuned: b\nout: c\nalpha: yes", "alpha is 'yes', expected a number"),
        ("base: a\ntuned: b\nout: c\noptions: [1]", "options are [1], expected a value by name"),
        ("base: a\ntuned: b\nout: c\nmethod: model-stock\nalpha: 0.3", "finds the alpha"),
        ("base: a\ntuned: b\nout: c\nmethod: slerp\nrules: 3", "alpha rules are 3"),
        ("base: a\ntuned: b", "merge lacks --out"),
        ("- a", "expected a mapping of keys"),
    ],
)
def test_wrong_values_say_what_was_expected(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        merge_config({}, write(tmp_path, text))
    assert message in str(caught.value)
