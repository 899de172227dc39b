"""Merges as YAML files: our keys and the official ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import oracle_data
from speechft.errors import ConfigError
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
