"""Configuration: wrong keys are named with file and nearest key, overrides are typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, ValidationError

from speechft.config import Config, apply_overrides, build
from speechft.errors import ConfigError
from speechft.storage.files import read_yaml


class Schedule(Config):
    warmup: float = 0.1
    hold: float = 0.4


class Part(Config):
    name: str


class Run(Config):
    title: str = "a title"
    learning_rate: float = 1e-3
    steps: int = Field(default=5, ge=1)
    rates: tuple[float, ...] = ()
    schedule: Schedule = Schedule()
    hidden: Schedule | None = None
    parts: tuple[Part, ...] = ()


def message(content: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build(Run, content, "recipe my.yaml")
    return str(caught.value)


def test_unknown_key_names_key_file_and_nearest() -> None:
    text = message({"lerning_rate": 1})
    assert "recipe my.yaml" in text
    assert "unknown key 'lerning_rate'" in text
    assert "did you mean 'learning_rate'?" in text
    for valid in Run.model_fields:
        assert valid in text


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ({"schedule": {"warmpu": 0.2}}, "schedule.warmpu"),
        ({"hidden": {"warmpu": 0.2}}, "hidden.warmpu"),
    ],
)
def test_unknown_nested_key(content: dict[str, Any], where: str) -> None:
    text = message(content)
    assert f"unknown key '{where}'; valid keys there: hold, warmup" in text
    assert "did you mean 'warmup'?" in text


def test_unknown_key_in_a_list_of_sections() -> None:
    text = message({"parts": [{"name": "a"}, {"name": "b", "nmae": "c"}]})
    assert "unknown key 'parts.1.nmae'; valid keys there: name" in text


def test_unknown_key_that_resembles_nothing_has_no_hint() -> None:
    assert "hint" not in message({"qqqqq": 1})


def test_every_wrong_key_is_named_with_the_given_value() -> None:
    text = message({"steps": 0, "title": 3, "schedule": {"warmup": "soon"}})
    assert "steps: expected a value greater than or equal to 1 (given: 0)" in text
    assert "title: " in text
    assert "schedule.warmup: " in text
    assert "'soon'" in text


def test_a_key_that_is_not_text_is_an_error() -> None:
    assert "recipe my.yaml" in message({1: 2})  # type: ignore[dict-item]


def test_configurations_are_immutable_and_documented() -> None:
    run = build(Run, {}, "x")
    with pytest.raises(ValidationError, match="frozen"):
        run.steps = 7  # type: ignore[misc]


def test_as_yaml_reads_back_as_the_same_configuration() -> None:
    run = build(Run, {"title": "Größe", "rates": [0.1, 1e-5], "hidden": {"hold": 0.2}}, "x")
    text = run.as_yaml()
    assert "Größe" in text
    assert list(yaml.safe_load(text)) == list(Run.model_fields), "the order of the fields"
    assert build(Run, yaml.safe_load(text), "y") == run


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("", None),
        ("tiny-hubert", "tiny-hubert"),
        ("a=b", "a=b"),
        ("[sid, pr]", ["sid", "pr"]),
        ("{warmup: 0.2}", {"warmup": 0.2}),
        ("'1e4'", "1e4"),
        ("'12'", "12"),
        ("[unclosed", "[unclosed"),
    ],
)
def test_override_values_are_typed(text: str, value: object) -> None:
    result = apply_overrides({}, [f"key={text}"])["key"]
    assert result == value
    assert type(result) is type(value)


def test_numbers_in_a_list_arrive_as_numbers() -> None:
    content = apply_overrides({}, ["rates=[1e-4, 3e-4, 1]"])
    assert build(Run, content, "x").rates == (1e-4, 3e-4, 1.0)


def test_overrides_reach_nested_keys_and_leave_the_original_alone() -> None:
    original = {"title": "t", "schedule": {"warmup": 0.1, "hold": 0.4}}
    result = apply_overrides(original, ["schedule.warmup=0.3", "hidden.hold=1", "title=u"])
    assert result == {
        "title": "u",
        "schedule": {"warmup": 0.3, "hold": 0.4},
        "hidden": {"hold": 1},
    }
    assert original == {"title": "t", "schedule": {"warmup": 0.1, "hold": 0.4}}


def test_the_last_override_wins() -> None:
    assert apply_overrides({}, ["steps=1", "steps=2"]) == {"steps": 2}


@pytest.mark.parametrize("override", ["steps", "=3", " =3", "steps:3"])
def test_override_of_bad_form(override: str) -> None:
    with pytest.raises(ConfigError, match="not of the form key=value") as caught:
        apply_overrides({}, [override])
    assert override in caught.value.message
    assert "--set" in (caught.value.hint or "")


def test_override_through_a_value() -> None:
    with pytest.raises(ConfigError, match="'steps' holds a value, not a section"):
        apply_overrides({"steps": 5}, ["steps.more=1"])


def test_override_of_an_unknown_key_is_caught_by_build() -> None:
    assert "did you mean 'steps'" in message(apply_overrides({}, ["stesp=3"]))


def test_yaml_rates_without_a_dot_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("learning_rate: 1e-4\n")  # YAML 1.1 reads this as text
    assert build(Run, read_yaml(path), "r").learning_rate == 1e-4


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "does not exist"),
        (b"a: [1, 2", "is not valid YAML"),
        (b"a: b: c", "is not valid YAML"),
        (b"- 1\n- 2\n", "holds list, expected a mapping"),
        (b"", "holds NoneType, expected a mapping"),
        (b"title: \xff\xfe", "cannot be read"),
    ],
)
def test_unusable_files_are_named(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        read_yaml(path)
    assert str(path) in caught.value.message


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)
