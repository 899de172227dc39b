"""Coefficients by layer: selectors, gradients, and rules that match nothing."""

from __future__ import annotations

import pytest

from speechft.errors import ConfigError
from speechft.merging.coefficients import alphas
from speechft.merging.methods.lines import lines_alphas

NAMES = [
    "masked_spec_embed",
    "feature_extractor.conv_layers.0.conv.weight",
    "feature_projection.projection.weight",
    "encoder.pos_conv_embed.conv.bias",
    *(f"encoder.layers.{i}.attention.q_proj.weight" for i in range(12)),
    *(f"encoder.layers.{i}.feed_forward.output_dense.bias" for i in range(12)),
    "encoder.layer_norm.weight",
]


def q(layer: int) -> str:
    return f"encoder.layers.{layer}.attention.q_proj.weight"


def test_without_rules_all_have_one_alpha() -> None:
    assert set(alphas(NAMES, 0.25).values()) == {0.25}


def test_ranges_single_layers_and_last_rule_wins() -> None:
    found = alphas(NAMES, 0.5, ["layers.0-3: 0.1", "layers.2: 0.9"])
    assert [found[q(i)] for i in range(5)] == [0.1, 0.1, 0.9, 0.1, 0.5]
    assert alphas(NAMES, 0.5, {"layers.1": 0.2})[q(11)] == 0.5  # not layer 11, 10 or 1x


def test_gradient_runs_over_the_layers_that_are_selected() -> None:
    found = alphas(NAMES, 0.5, {"layers.2-6": "0.1..0.5"})
    assert [found[q(i)] for i in range(1, 8)] == pytest.approx([0.5, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5])


def test_a_gradient_runs_over_layers_that_lack_the_kind_too() -> None:
    first = "encoder.layers.0.attention.rel_attn_embed.weight"  # WavLM has it in its first layer
    found = alphas([*NAMES, first], 0.5, {"layers.0-4.position": "0.1..0.5"})
    assert found[first] == 0.1
    assert alphas([*NAMES, first], 0.5, {"layers.position": "0.1..0.5"})[first] == 0.1
    of_pattern = alphas(NAMES, 0.5, {"encoder.layers.1?.*": "0.1..0.5"})
    assert [of_pattern[q(i)] for i in (9, 10, 11)] == [0.5, 0.1, 0.5]


@pytest.mark.parametrize("rule", ["layers.8-14: 0.1..0.9", "layers.0-12: 0.1"])
def test_a_range_beyond_the_encoder_is_an_error(rule: str) -> None:
    with pytest.raises(ConfigError, match="reaches beyond the encoder, whose layers are 0 to 11"):
        alphas(NAMES, 0.25, [rule])
    rule = rule.replace("14", "11").replace("12", "11")
    assert alphas(NAMES, 0.25, [rule])[q(11)] in (0.9, 0.1)


def test_kinds_and_kinds_within_layers_and_patterns() -> None:
    found = alphas(NAMES, 0.5, ["cnn: 0", "layers.0-1.feed-forward: 0.2", "*projection*: 0.7"])
    assert found["feature_extractor.conv_layers.0.conv.weight"] == 0
    assert found["encoder.layers.1.feed_forward.output_dense.bias"] == 0.2
    assert found[q(1)] == 0.5
    assert found["feature_projection.projection.weight"] == 0.7


@pytest.mark.parametrize("rule", ["layers.12: 0.1", "layers.40-50: 0.1", "*adapter*: 0.1"])
def test_a_rule_that_matches_nothing_is_an_error(rule: str) -> None:
    with pytest.raises(ConfigError, match="matches no tensor") as caught:
        alphas(NAMES, 0.25, [rule])
    assert "layers here are 0 to 11" in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("layers.0-3", "SELECTOR: VALUE"),
        ("attentoin: 0.1", "cannot be read"),
        ("layers.0.nonsense: 0.1", "cannot be read"),
        ("layers: much", "expected a number"),
        ("layers: nan", "finite"),
        ("*weight: 0.1..0.2", "outside the layers"),
    ],
)
def test_unreadable_rules_say_why(rule: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        alphas(NAMES, 0.25, [rule])


def test_lines_covers_what_is_before_and_behind_the_layers() -> None:
    found = lines_alphas(NAMES, 0.0, 1.1)
    assert found["feature_projection.projection.weight"] == 0.0
    assert found[q(0)] == 0.0
    assert found[q(11)] == pytest.approx(1.1)
    assert found["encoder.layer_norm.weight"] == 0.0, "HuBERT Base normalises before the layers"
    found = lines_alphas(NAMES, 0.0, 1.1, pre_norm=True)
    assert found["encoder.layer_norm.weight"] == pytest.approx(1.1)
    with pytest.raises(ConfigError, match="needs transformer layers"):
        lines_alphas(["a", "b"], 0.0, 1.0)
