"""Tests of what is said of values that a schema refuses."""

from __future__ import annotations

import pytest

from speechft.errors import ConfigError
from speechft.recipe import Recipe, load_recipe


@pytest.mark.parametrize(
    ("override", "told", "hint"),
    [
        ("finetuning.strategy=stabel", "finetuning.strategy: expected one of 'st", "'stable'"),
        ("finetuning.select=bset", "finetuning.select: expected one of 'best'", "'best'"),
        ("baselines=[lroa]", "baselines.0: expected one of 'stable'", "'lora'"),
        ("composition.kind=xyz", "composition.kind: expected one of 'single'", None),
        ("steps=4", "unknown key 'steps'; valid keys there: analysis", "'finetuning.steps'"),
        ("lerning_rate=4", "unknown key 'lerning_rate'", "'finetuning.learning_rate'"),
        ("finetuning.steps=many", "finetuning.steps: expected a whole number (given: 'ma", None),
        ("finetuning.steps=1.5", "finetuning.steps: expected a whole number (given: 1.5)", None),
        ("merging.alpha=two", "merging.alpha: expected a number (given: 'two')", None),
        ("merging=3", "merging: expected a section of keys and values (given: 3)", None),
        ("evaluation.tasks=3", "evaluation.tasks: expected a list or 'available' (", None),
        ("evaluation.tasks={a: b}", "evaluation.tasks: expected a list or 'available' (", None),
        ("evaluation.seeds=-1", "seeds: expected a value greater than or equal to 1 (", None),
        ("finetuning.learning_rate=inf", "learning_rate: expected a finite number", None),
    ],
)
def test_said_are_place_what_was_expected_and_given(
    override: str, told: str, hint: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(Recipe, "demo", override)
    assert told in caught.value.message
    assert "[" not in caught.value.message.partition("(given")[0], "no name of a union's member"
    assert (hint is None and caught.value.hint is None) or str(hint) in str(caught.value.hint)


def test_what_is_missing_is_named_without_all_that_is_there() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(Recipe, "demo", changes={"title": None, "merging": {"curve": "x" * 500}})
    assert len(caught.value.message) < 400
    from speechft.config import build
    from speechft.results import ResultRow

    with pytest.raises(ConfigError, match=r"row: encoder_digest is missing; .*task is missing"):
        build(ResultRow, {"encoder": "x"}, "row")
