"""The model of a merge: what every way in shares, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechft.errors import ConfigError
from speechft.merging import merge
from speechft.merging.config import MergeConfig, MergeSettings
from speechft.merging.config_file import merge_config
from speechft.merging.methods import METHODS, configure

SETTINGS = {f.name for f in dataclasses.fields(MergeConfig)}
ARRAYS = {"a": np.ones((2, 2), np.float32)}, {"a": np.full((2, 2), 2, np.float32)}


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_no_argument_of_a_merge_can_be_reached_as_an_option(name: str, tmp_path: Path) -> None:
    """``--option dry_run=true`` gave a traceback, ``--option alpha=0.9`` beat ``--alpha 0.3``."""
    given = {"base": "base", "tuned": ["tuned"], "out": "out", "alpha": 0.3}
    with pytest.raises(ConfigError, match=f"{name} is no option of method 'linear'"):
        merge_config({**given, "options": [f"{name}=true"]})
    path = tmp_path / "merge.yaml"
    path.write_text(f"base: a\ntuned: b\noptions: {{{name}: true}}")
    with pytest.raises(ConfigError, match=f"{name} is no option of method 'linear'"):
        merge_config({"out": "out"}, path)


def test_the_key_of_a_merge_is_alpha_and_what_differs() -> None:
    assert MergeSettings().changed() == {"alpha": 0.25}
    assert MergeSettings(alpha=0.5, dtype="keep").changed() == {"alpha": 0.5, "dtype": "keep"}
    ties = MergeSettings(method="ties", options={"density": 0.5}).changed()
    assert ties == {"alpha": 0.25, "method": "ties", "density": 0.5}
    made = MergeSettings(alpha=0.5).of("base", ["tuned"])
    assert (made.base, made.alpha, made.out) == ("base", 0.5, None)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.3])
def test_an_alpha_is_used_or_refused_by_name(name: str, alpha: float) -> None:
    if METHODS[name].takes_alpha:
        assert MergeSettings(method=name, alpha=alpha).coefficient == alpha
        assert MergeSettings(method=name).coefficient == 0.25
        return
    with pytest.raises(ConfigError, match=f"'{name}' finds the alpha .* itself, given: {alpha:g}"):
        merge(*ARRAYS, alpha=alpha, method=name)
    assert MergeSettings(method=name).coefficient is None


@pytest.mark.parametrize("name", METHODS)
def test_rules_are_used_or_refused_by_name(name: str) -> None:
    if METHODS[name].takes_rules:
        assert MergeSettings(method=name, rules=("cnn: 0",)).rules == {"cnn": 0.0}
    else:
        with pytest.raises(ConfigError, match=f"'{name}' sets alpha per tensor itself"):
            MergeSettings(method=name, rules=("cnn: 0",))


@pytest.mark.parametrize("wrong", ["much", "nan", "inf", float("nan"), float("-inf"), True, [0.5]])
def test_a_number_is_finite_wherever_it_is_given(wrong: Any) -> None:
    for settings in (
        {"alpha": wrong},
        {"rules": {"cnn": wrong}},
        {"method": "ties", "options": {"density": wrong}},
        {"method": "lines", "options": {"first": wrong}},
        {"method": "dare-ties", "options": {"seed": wrong}},
        {"method": "ties", "options": {"weights": [1, wrong]}},
    ):
        with pytest.raises(ConfigError, match=r"expected a .*number"):
            MergeSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_norm": "none"}, "unknown weight norm 'none'"),
        ({"dtype": "fp8"}, "unknown dtype 'fp8'"),
        ({"method": ["ties"]}, "unknown merge method"),
        ({"options": "density=1"}, "expected a value by name"),
        ({"rules": "cnn: 0"}, "expected a mapping or a list"),
        ({"rules": 3}, "expected a mapping or a list"),
        ({"rules": {3: 0.1}}, "'3' cannot be read"),
        ({"rules": ["cnn: 1e999..0.1"]}, "finite"),
        ({"method": "dare-ties", "options": {"seed": 1.5}}, "a whole number"),
        ({"method": "dare-ties", "options": {"seed": -1}}, "a whole number from 0 on"),
        ({"method": "ties", "options": {"density": 1.1}}, "a number above 0 and up to 1"),
        ({"method": "ties", "options": {"trim": ["global"]}}, "unknown trim"),
    ],
)
def test_wrong_settings_say_what_was_expected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MergeSettings(**settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": ""}, "expected the name of a folder or file"),
        ({"out": 3}, "expected the name of a folder or file"),
        ({"to": "onnx"}, "unknown output format 'onnx'"),
        ({"force": "no"}, "force is 'no', expected true or false"),
        ({"dry_run": 1}, "dry_run is 1, expected true or false"),
    ],
)
def test_wrong_merges_say_what_was_expected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MergeConfig(base="a", tuned="b", **changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [("1,2", (1, 2)), ("[1, 2]", (1, 2)), ([1, 2], (1, 2)), ((1, 2.5), (1, 2.5)), (2, (2,))],
)
def test_weights_are_read_from_text_and_numbers(text: Any, found: tuple[float, ...]) -> None:
    assert MergeSettings(method="ties", options={"weights": text}).options == {"weights": found}


@pytest.mark.parametrize("name", [n for n in METHODS if "weights" in METHODS[n].option_names()])
def test_weights_are_one_for_each_model(name: str) -> None:
    base, tuned = ARRAYS
    assert merge(base, tuned, method=name, weights=(1,)).keys() == base.keys()
    for count, weights in ((1, (1, 2)), (2, (1,)), (3, (1, 2))):
        with pytest.raises(ConfigError, match=f"{len(weights)} weights were given for {count} tun"):
            merge(base, [tuned] * count, method=name, weights=weights, force=True)


def test_the_last_of_equal_selectors_holds_where_it_stands() -> None:
    settings = MergeSettings(rules=("layers.0: 0.1", "layers: 0.2", "layers.0: 0.3"))
    assert list(settings.rules.items()) == [("layers", 0.2), ("layers.0", 0.3)]


def test_none_stands_for_the_default_of_an_option() -> None:
    settings = MergeSettings(method="ties", options={"density": None, "trim": "tensor"})
    assert settings.options == {"trim": "tensor"}
    assert settings.configured_method() == configure("ties", {"trim": "tensor"})
