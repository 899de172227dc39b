"""The lineage check separates tuned models from strangers without an error on either side."""

from __future__ import annotations

import copy
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import HubertModel

from speechft.errors import LineageError
from speechft.merging import compare, merge
from speechft.merging.lineage import MIN_SCORE, compare_configs
from speechft.merging.tensor_change import TensorChange


def permuted(model: Any, order: list[int]) -> Any:
    shuffled = copy.deepcopy(model)
    layers = list(shuffled.encoder.layers)
    for place, source in enumerate(order):
        shuffled.encoder.layers[place] = layers[source]
    return shuffled


def test_tuned_models_and_strangers_do_not_overlap(
    hubert_config: Any, base_model: Any, tune: Any
) -> None:
    tuned = [tune(base_model, seed, scale) for seed in (1, 2) for scale in (1e-4, 0.01, 0.1, 0.45)]
    strangers = [permuted(tune(base_model, 3), [1, 0, 2]), permuted(base_model, [2, 0, 1])]
    for seed in (100, 101, 102):
        torch.manual_seed(seed)
        strangers.append(HubertModel(hubert_config))
    near = [compare(base_model, model).score for model in tuned]
    far = [compare(base_model, model).score for model in strangers]
    assert min(s for s in near if s is not None) > 0.85 > MIN_SCORE
    assert max(s for s in far if s is not None) < 0.3 < MIN_SCORE


@pytest.mark.parametrize("order", [[0, 2, 1], [1, 0, 2], [0, 0, 2], [0, 1, 1]])
def test_one_layer_out_of_place_is_enough(order: list[int], base_model: Any, tune: Any) -> None:
    score = compare(base_model, permuted(tune(base_model, 4), order)).score
    assert score is not None
    assert score < 0.3


def test_one_layer_of_another_model_is_enough(
    hubert_config: Any, base_model: Any, tune: Any
) -> None:
    torch.manual_seed(103)
    grafted = tune(base_model, 5)
    grafted.encoder.layers[1] = HubertModel(hubert_config).encoder.layers[1]
    with pytest.raises(LineageError, match="in layer 1 the weights point elsewhere"):
        merge(base_model, grafted)


@pytest.mark.parametrize(("base", "tuned"), [("hubert", "wav2vec2"), ("wav2vec2", "hubert")])
def test_another_family_of_equal_shape_shows_in_the_weights(
    base: str, tuned: str, oracle: Path
) -> None:
    score = compare(oracle / f"{base}_base.pt", oracle / f"{tuned}_ft1_downstream.ckpt").score
    assert score is not None
    assert score < MIN_SCORE


@pytest.mark.parametrize("family", ["hubert", "wav2vec2", "wavlm_base_plus", "decoar2"])
def test_oracle_pairs_pass_and_show_their_frozen_cnn(family: str, oracle: Path) -> None:
    found = compare(oracle / f"{family}_base.pt", oracle / f"{family}_ft1_downstream.ckpt")
    assert found.score is not None
    assert found.score > MIN_SCORE
    content = torch.load(oracle / f"{family}_base.pt", weights_only=True)
    base = content.get("model_weight") or content["model"]
    # the file holds an argparse.Namespace, and nothing else that only a pickle can
    file = oracle / f"{family}_ft1_downstream.ckpt"
    tuned = torch.load(file, weights_only=False)["Upstream"]
    tuned = {name.removeprefix("model."): weight for name, weight in tuned.items()}
    compared = {name for name in base if not name.startswith(("final_proj", "label_embs_concat"))}
    moves = [
        float((tuned[name].double() - base[name].double()).norm() / base[name].double().norm())
        for name in compared
        if base[name].dim() > 1
    ]
    assert found.median_relative_change == pytest.approx(statistics.median(moves), rel=1e-4)
    cnn = [name for name in compared if name.startswith("feature_extractor.")]
    equal = all(torch.equal(base[name], tuned[name]) for name in cnn) if cnn else None
    assert found.cnn_equal is equal


def test_change_is_the_cosine_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(500, generator=generator, dtype=torch.float64)
    tuned = base + 0.3 * torch.randn(500, generator=generator, dtype=torch.float64)
    delta = tuned - base
    change = TensorChange(float(base @ base), float(base @ delta), float(delta @ delta))
    expected = torch.nn.functional.cosine_similarity(base, tuned, dim=0)
    assert change.cosine == pytest.approx(float(expected), abs=1e-12)
    assert change.relative == pytest.approx(float(delta.norm() / base.norm()))
    assert TensorChange().cosine is None


def test_fields_that_one_side_does_not_state_are_not_compared() -> None:
    assert compare_configs({"hidden_act": "gelu"}, {"num_buckets": 3}) == []
    assert compare_configs(None, {"hidden_act": "relu"}) == []
    assert len(compare_configs({"hidden_act": "gelu"}, {"hidden_act": "relu"})) == 1
