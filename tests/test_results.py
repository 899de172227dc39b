"""Result rows: they come back as they were written, and a damaged line is named."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from speechft.errors import DataError, RunError
from speechft.results import ResultRow, mean_over_seeds, of_part, read_rows, write_rows


def row(**changes: Any) -> ResultRow:
    content: dict[str, Any] = {
        "encoder": "Speech-FT",
        "encoder_digest": "ab" * 32,
        "task": "sid",
        "metric": "accuracy",
        "value": 91.25,
        "higher_is_better": True,
        "n": 320,
        "interval": (88.0, 93.5),
        "split": "test",
        "seed": 3,
        "protocol": "mini",
        "learning_rate": 1e-3,
    }
    return ResultRow(**{**content, **changes})


def test_round_trip(tmp_path: Path) -> None:
    rows = [
        row(),
        row(interval=None, learning_rate=None, alpha=0.25),
        row(encoder="größer\u2028und\x85länger", details={"layers": [0.1, 0.9], "x": {"y": None}}),
        row(value=1 / 3, interval=(0.1 + 0.2, 1e-300)),
    ]
    path = tmp_path / "results.jsonl"
    write_rows(path, rows)
    assert read_rows(path) == rows
    assert len(path.read_bytes().split(b"\n")) == len(rows) + 1


def test_probe_seeds_are_averaged() -> None:
    details = {"interval_over_seeds": [40.0, 70.0], "converged": True, "dev": 50.0}
    seeds = [
        row(seed=n, value=value, details={**details, "dev": 50.0 + n, "converged": n == 0})
        for n, value in enumerate((60.0, 50.0, 40.0))
    ]
    other = row(encoder="pre-trained", value=70.0)
    first, second = mean_over_seeds([seeds[0], other, *seeds[1:]])
    assert (first.value, first.interval, first.seed) == (50.0, (40.0, 70.0), 0)
    assert (first.details["seeds"], first.details["dev"]) == (3, 51.0)
    assert first.details["converged"] is False
    assert second is other


def test_figures_by_language_are_averaged_where_all_seeds_have_them() -> None:
    told = [{"de": {"value": v, "n": 3}, "fr": {"value": 2 * v, "n": 5}} for v in (10.0, 20.0)]
    seeds = [row(seed=n, details={"languages": one}) for n, one in enumerate(told)]
    (mean,) = mean_over_seeds(seeds)
    assert mean.details["languages"] == {
        "de": {"value": 15.0, "n": 3},
        "fr": {"value": 30.0, "n": 5},
    }
    (mean,) = mean_over_seeds([row(seed=0), row(seed=1, details={"languages": told[0]})])
    assert "languages" not in mean.details


def test_rows_of_older_versions_get_their_part_by_counts_and_no_others(tmp_path: Path) -> None:
    known = {"details": {"dev": 91.25, "dev_n": 320}}
    parts = {
        "dev": row(interval=None, **known),
        "test": row(**known),
        "other items": row(interval=None, details={"dev": 91.25, "dev_n": 319}),
        "other value": row(interval=None, details={"dev": 90.0, "dev_n": 320}),
        "says": row(interval=None, part="test", **known),
    }
    path = tmp_path / "results.jsonl"
    lines = []
    for name, one in parts.items():
        content = one.as_dict()
        if name != "says":
            del content["part"]
        lines.append(json.dumps(content) + "\n")
    path.write_text("".join(lines))
    read = read_rows(path)
    assert [one.part for one in read] == ["dev", "test", "test", "test", "test"]
    assert of_part(read, "dev") == read[:1]
    write_rows(path, read)
    assert read_rows(path) == read
    folds = {"split": "all folds", "evaluation": "e"}
    assert len(mean_over_seeds([row(part="dev", **folds), row(part="test", **folds)])) == 2


def test_no_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / "r.jsonl", [])
    assert read_rows(tmp_path / "r.jsonl") == []


def test_a_value_that_is_not_a_number_survives(tmp_path: Path) -> None:
    write_rows(tmp_path / "r.jsonl", [row(value=float("nan"))])
    assert math.isnan(read_rows(tmp_path / "r.jsonl")[0].value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"encoder": "x"', "EOF"),
        ("", "EOF"),
        ('{"encoder": "x"}', "encoder_digest: Field required"),
        ('["a", "b"]', "Input should be an object"),
    ],
)
def test_damaged_line_is_named_in_one_line(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "results.jsonl"
    write_rows(path, [row()])
    path.write_text(path.read_text() + line + "\n" + path.read_text())
    with pytest.raises(DataError, match="line 2, is not a result row") as caught:
        read_rows(path)
    assert expected in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


def test_unknown_field_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write_rows(path, [row()])
    path.write_text(path.read_text().replace('"seed"', '"sede"'))
    with pytest.raises(DataError, match="line 1"):
        read_rows(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_unreadable_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "results.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(path)


def test_a_failed_write_leaves_the_old_rows(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write_rows(path, [row(seed=1)])

    def rows() -> Any:
        yield row(seed=2)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match="no space left"):
        write_rows(path, rows())
    assert read_rows(path) == [row(seed=1)]
    assert [item.name for item in tmp_path.iterdir()] == ["results.jsonl"]


def test_rows_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValidationError, match="extra"):
        row(nonsense=1)
