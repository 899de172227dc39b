"""Coefficients as they are typed, and the parts of an encoder."""

from __future__ import annotations

from typing import Any

import pytest

from speechft.errors import ConfigError
from speechft.sweeping.settings import Rule, parts_of, read_alphas, upper_bound_text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("0:1:0.1", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        (" 0 : 0.3 : 0.15 ", (0.0, 0.15, 0.3)),
        ("0:1:0.3", (0.0, 0.3, 0.6, 0.9)),
        ("0.5:0.5:1", (0.5,)),
        ("1,0.25, 0.25,-0", (0.0, 0.25, 1.0)),
        ([0.3, 0.1], (0.1, 0.3)),
        (0.25, (0.25,)),
        ("1e-1", (0.1,)),
    ],
)
def test_alphas(given: Any, expected: tuple[float, ...]) -> None:
    assert read_alphas(given) == expected


@pytest.mark.parametrize(
    "given",
    [
        *("", ",", "0,,1", "a", "0:1", "0:1:0.1:2", "0:1:0", "1:0:0.1", "0:1:-0.1", "0:x:0.1"),
        *("nan", "0:inf:1", "0:nan:0.1", "0:1:1e-9", [], [None], [True], None, "0..1"),
    ],
)
def test_malformed_alphas_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be read: ") as caught:
        read_alphas(given, extrapolate=True)
    assert caught.value.hint is not None
    assert "FIRST:LAST:STEP" in caught.value.hint


@pytest.mark.parametrize("given", ["-0.1", "0:1.5:0.5", [2], 1.0001])
def test_alphas_outside_the_ends_have_to_be_asked_for(given: Any) -> None:
    with pytest.raises(ConfigError, match="lies outside 0"):
        read_alphas(given)
    assert read_alphas(given, extrapolate=True)


def test_parts_are_those_that_there_are() -> None:
    names = ["feature_extractor.conv_layers.0.conv.weight", "encoder.layer_norm.weight"]
    layers = [f"encoder.layers.{n}.attention.k_proj.weight" for n in range(12)]
    assert parts_of("layers", [*names, *layers]) == ["cnn", *(f"layers.{n}" for n in range(12))]
    assert parts_of("module", [*names, *layers]) == ["cnn", "attention", "layer-norm"]
    with pytest.raises(ConfigError, match="no layers"):
        parts_of("layers", names)


def test_the_rule_is_about_the_upper_bound() -> None:
    assert Rule(1.0).keeps(1.0)
    assert not Rule(1.0).keeps(1.01)
    assert "at most 1 point lost" in upper_bound_text(Rule())
    for wrong in (-1, float("nan"), "x"):
        with pytest.raises(ConfigError, match="keep_within"):
            Rule(wrong)  # type: ignore[arg-type]
