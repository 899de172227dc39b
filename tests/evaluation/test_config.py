"""What an evaluation may be configured to do: tasks and layers as text or as lists, every field."""

from __future__ import annotations

from typing import Any

import pytest

from speechft.config import build
from speechft.errors import ConfigError
from speechft.evaluation.config import EvaluationConfig, evaluation_config
from speechft.tasks import SUPERB


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("all", SUPERB),
        ("available", "available"),
        (None, "available"),
        (" pr, sid ,", ("pr", "sid")),
        ("pr", ("pr",)),
        (["pr", "sid"], ("pr", "sid")),
        ((), ()),
    ],
)
def test_names_of_tasks(given: Any, expected: object) -> None:
    assert evaluation_config({"tasks": given}).tasks == expected
    if given is not None:
        assert EvaluationConfig(tasks=given).tasks == expected, "recipes read them alike"


def test_fields_of_an_evaluation() -> None:
    config = evaluation_config({"precision": None, "frame_cache_gb": 2.5, "cache": "x"})
    assert (config.floors, config.frame_cache_gb, config.precision) == ((), 2.5, "auto")
    further = evaluation_config({}, ["beam_search.weight=1.5"], {"frame_codec": "int8"})
    assert (further.beam_search.weight, further.frame_codec) == (1.5, "int8")
    for wrong, message in (
        ({"frame_cache_gb": -1.0}, "frame_cache_gb: expected a value greater than or equal"),
        ({"limit": 0}, "limit: expected a value greater than or equal to 1"),
        ({"limits": 1}, "did you mean 'limit'"),
        ({"floors": ("mfcc",)}, "floors are rows that a run adds"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluation_config(wrong)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("all", "all"),
        ("last", "last"),
        ("9, 6", (6, 9)),
        ("0,9-12", (0, 9, 10, 11, 12)),
        (6, (6,)),
        ([6, 9, 6], (6, 9)),
        (None, None),
    ],
)
def test_layers_of_an_evaluation(given: Any, expected: object) -> None:
    config = evaluation_config({"layers": given})
    assert config.layers == expected
    assert EvaluationConfig.model_validate(config.as_dict()) == config


@pytest.mark.parametrize("given", ["first", "", "6,", "12-9", -1, [0.5], True])
def test_layers_that_cannot_be(given: Any) -> None:
    with pytest.raises(ConfigError, match="layers: "):
        build(EvaluationConfig, {"layers": given}, "evaluate")
