"""Values of --set are what the schema says: nothing is guessed where a field has a type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from speechft.config import Config, apply_overrides, build
from speechft.recipe import Recipe, load_recipe
from speechft.storage.files import read_yaml
from speechft.typed_text import typed


class Section(BaseModel):
    name: str = ""
    rate: float = 0.0


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("2026-11-27", str, "2026-11-27"),
        ("007", str, "007"),
        ("1_000", str, "1_000"),
        ("1e-4", str, "1e-4"),
        ("yes", str, "yes"),
        ("off", str, "off"),
        ("12:30", str, "12:30"),
        ("null", str, "null"),
        ("C # sharp", str, "C # sharp"),
        ("[speech]", str, "[speech]"),
        ("a: b", str, "a: b"),
        ("'quoted # text'", str, "quoted # text"),
        ('"007"', str, "007"),
        ("'tis", str, "'tis"),
        ("1_000", int, 1000),
        ("010", int, 10),
        ("1e3", int, 1000),
        ("0.5", int, 0.5),
        ("12:30", int, "12:30"),
        ("1e-4", float, 1e-4),
        ("1_0.5", float, 10.5),
        ("3", float, 3.0),
        ("soon", float, "soon"),
        ("yes", bool, True),
        ("OFF", bool, False),
        ("no", bool, False),
        ("maybe", bool, "maybe"),
        ("None", int | None, None),
        ("null", str | None, None),
        ("~", Annotated[float, Field(ge=0)] | None, None),
        ("", str | None, None),
        ("none", Literal["none", "some"] | None, "none"),
        ("off", Literal["on", "off"], "off"),
        ("6", str | int, 6),
        ("007", str | int, "007"),
        ("6,9-12", str | int | tuple[int, ...], "6,9-12"),
        ("[6, 010]", str | int | tuple[int, ...], [6, 10]),
        ("[no, 2026-11-27, '1']", tuple[str, ...], ["no", "2026-11-27", "1"]),
        ("[1e-4, 1_0]", tuple[float, ...], [1e-4, 10.0]),
        ("[[1, 2], [3, 4]]", tuple[tuple[int, int], ...], [[1, 2], [3, 4]]),
        ("{a: 1e-4, b: on}", dict[str, float | str], {"a": 1e-4, "b": "on"}),
        ("{a: 007}", Mapping[str, str], {"a": "007"}),
        ("{name: no, rate: 1}", Section, {"name": "no", "rate": 1.0}),
        ("yes", Any, "yes"),
        ("2026-11-27", Any, "2026-11-27"),
        ("010", Any, "010"),
        ("true", Any, True),
        ("1e-4", Any, 1e-4),
        ("null", Any, None),
        ("C # sharp", Any, "C # sharp"),
    ],
)
def test_a_text_is_read_as_its_field_is_typed(text: str, kind: Any, value: object) -> None:
    found = typed(text, kind)
    assert found == value
    assert type(found) is type(value)


def test_nan_stays_a_number() -> None:
    assert math.isnan(typed(".nan", float | str))
    assert math.isnan(typed("nan", float))


@pytest.mark.parametrize("title", ["2026-11-27", "007", "yes", "null", "run #3", "[a]", "1e5"])
def test_a_title_of_a_recipe_is_what_was_written(title: str) -> None:
    assert load_recipe(Recipe, "demo", [f"title={title}"]).title == title


def test_keys_of_every_depth_find_their_type() -> None:
    given = ["seed=010", "finetuning.steps=1_000", "data.corpora.asr=2026", "merging.alpha=None"]
    content = apply_overrides({}, given, Recipe)
    assert content == {
        "seed": 10,
        "finetuning": {"steps": 1000},
        "data": {"corpora": {"asr": "2026"}},
        "merging": {"alpha": None},
    }


class Mine(Config):
    title: str = ""
    on: bool = False
    steps: int = 1
    rate: float = 0.0


def test_a_recipe_file_is_read_by_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("title: 2026-11-27\non: yes\nsteps: 1_000\nrate: 1e-4 # a comment\n")
    mine = build(Mine, read_yaml(path), "mine")
    assert (mine.title, mine.on, mine.steps, mine.rate) == ("2026-11-27", True, 1000, 1e-4)
    path.write_text("title: no\nsteps: 010\n")
    mine = build(Mine, read_yaml(path), "mine")
    assert (mine.title, mine.steps) == ("no", 10)
