"""Key tables and configurations, both ways, against the names that transformers has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from oracle_data import oracle_json
from speechft.encoders.conversion import configs
from speechft.encoders.conversion.checkpoints import open_checkpoint
from speechft.encoders.conversion.keys import encoder_prefix, to_hugging_face, to_s3prl
from speechft.encoders.families import FAMILIES
from speechft.errors import CheckpointError

MAPS = ["hubert", "hubert_ln", "wav2vec2", "wav2vec2_ln", "wavlm_base_plus", "wavlm_ln"]


@pytest.mark.parametrize("name", MAPS)
def test_table_is_the_recorded_map_both_ways(name: str) -> None:
    recorded = oracle_json(f"merge/{name}_keymap_s3prl_to_hf.json")
    placed = {left: right for left, right in recorded.items() if right is not None}
    assert {left: to_hugging_face(left) for left in placed} == placed
    assert to_s3prl(placed.values()) == {right: left for left, right in placed.items()}


def test_names_outside_the_tables() -> None:
    assert to_hugging_face("encoder.layers.0.self_attn.q_prj.weight") is None
    with pytest.raises(CheckpointError, match=r"'encoder\.rubbish' has no place"):
        to_s3prl(["encoder.rubbish"])


def test_prefix_is_found_and_several_encoders_are_refused() -> None:
    marker = "feature_extractor.conv_layers.0.conv.weight"
    assert encoder_prefix([f"hubert.{marker}", "lm_head.weight"]) == "hubert."
    assert encoder_prefix([marker]) == ""
    assert encoder_prefix(["classifier.weight"]) is None
    with pytest.raises(CheckpointError, match=r"several encoders, under a\., b\."):
        encoder_prefix([f"a.{marker}", f"b.{marker}"])


def test_convolution_layers_are_read_without_evaluating() -> None:
    found = configs.conv_layers("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2")
    assert found == [(512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2]
    for text in ("__import__('os').mkdir('x')", "[(1,2)]", "[(1,2,3)] * 10**9", "nonsense", "[1]"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            configs.conv_layers(text)


@pytest.mark.parametrize("family", ["hubert", "wav2vec2", "wavlm_base_plus"])
def test_configuration_builds_the_model_that_the_weights_fit(family: str, oracle: Path) -> None:
    checkpoint = open_checkpoint(oracle / f"{family}_base.pt")
    assert checkpoint.config is not None
    config = AutoConfig.for_model(**checkpoint.config)
    shapes = {n: tuple(t.shape) for n, t in AutoModel.from_config(config).state_dict().items()}
    held = {n: t.shape for n, t in checkpoint.by_name().items() if n in shapes}
    assert held == shapes


@pytest.mark.parametrize("family", ["hubert", "wav2vec2", "wavlm_base_plus"])
def test_configuration_and_back(family: str, oracle: Path) -> None:
    checkpoint = open_checkpoint(oracle / f"{family}_base.pt")
    assert checkpoint.config is not None
    back = configs.from_hugging_face(checkpoint.config, normalize=False)
    content = torch.load(oracle / f"{family}_base.pt", weights_only=True)
    original: dict[str, Any] = content.get("model_cfg") or content["cfg"]
    layers = configs.conv_layers(original["conv_feature_layers"])
    assert configs.conv_layers(back.pop("conv_feature_layers")) == layers
    assert {n: v for n, v in back.items() if v != original.get(n)} == {}


def test_decoar2_sizes_come_from_the_tensors(oracle: Path) -> None:
    tensors = open_checkpoint(oracle / "decoar2_base.pt").by_name()
    config = FAMILIES["decoar2"].known_sizes(tensors, "the file")
    recorded = oracle_json("merge/decoar2_base.config.json")
    names = {
        "hidden_size": "encoder_embed_dim",
        "num_hidden_layers": "encoder_layers",
        "intermediate_size": "encoder_ffn_embed_dim",
        "num_conv_pos_embeddings": "conv_pos",
        "num_conv_pos_embedding_groups": "conv_pos_groups",
    }
    assert {ours: config[ours] for ours in names} == {o: recorded[t] for o, t in names.items()}


def test_conversion_imports_without_torch() -> None:
    code = (
        "import sys, speechft.encoders.conversion.checkpoints as c, "
        "speechft.encoders.conversion.s3prl; sys.exit('torch' in sys.modules)"
    )
    path = ":".join(p for p in sys.path if p)
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, check=False)
    assert done.returncode == 0
