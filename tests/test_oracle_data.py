"""Where oracle data is looked for, and that no test looks elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import oracle_data

TESTS = Path(__file__).parent


def test_only_the_own_set_must_be_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle_data, "ROOT", tmp_path)
    (tmp_path / "merge").mkdir()
    (tmp_path / "merge" / "x.json").write_text('{"a": {"b": [1, 2]}, "c": []}')
    assert oracle_data.oracle("merge/x.json") == tmp_path / "merge" / "x.json"
    assert oracle_data.cases("merge/*", "superb/*") == ["merge/x.json"]
    assert oracle_data.entries("merge/x.json", "a", "b") == [1, 2]
    assert oracle_data.entries("merge/x.json") == ["a", "c"]
    with pytest.raises(pytest.skip.Exception, match=r"holds no merge/y\.json"):
        oracle_data.oracle_json("merge/y.json")
    assert oracle_data.cases("superb/*") == oracle_data.entries("merge/y.json", "a") == []
    monkeypatch.setattr(oracle_data, "OWN", tmp_path)
    with pytest.raises(FileNotFoundError):
        oracle_data.oracle("merge/y.json")
    with pytest.raises(FileNotFoundError, match="holds nothing like superb"):
        oracle_data.cases("superb/*")


@pytest.mark.parametrize("kind", ["missing", "empty", "own"])
def test_a_set_that_holds_nothing_is_an_error_not_a_skip(kind: str, tmp_path: Path) -> None:
    given = {"missing": tmp_path / "no", "empty": tmp_path, "own": oracle_data.OWN}[kind]
    code = "import oracle_data; print(oracle_data.ROOT)"
    environment = os.environ | {"SPEECHFT_ORACLE": str(given), "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    if kind == "own":
        assert done.stdout.strip() == str(oracle_data.OWN)
    else:
        assert "holds neither merge/ nor superb/" in done.stderr


def test_no_test_reads_the_set_of_the_repository_by_its_path() -> None:
    by_path = re.compile(r"""["']oracle["']|tests/oracle/""")
    found = [
        path.relative_to(TESTS).as_posix()
        for path in TESTS.rglob("*.py")
        if path.name not in ("oracle_data.py", "test_oracle_data.py")
        and by_path.search(path.read_text())
    ]
    assert found == []
