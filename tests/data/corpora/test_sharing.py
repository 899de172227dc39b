"""A corpus that several processes prepare: shared recordings and shards, files those of one."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from processes import VERB, Child
from speechft.parallel.claims import FOLDER

_SLOW = """
import time
from speechft.data import shar
from speechft.data.corpora import inspecting

def slowly(function, seconds):
    def slow(*given, **named):
        time.sleep(seconds)
        return function(*given, **named)
    return slow

inspecting.inspect = slowly(inspecting.inspect, 0.02)
shar._write_shard = slowly(shar._write_shard, 0.1)
from speechft.cli import main; main()
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return a table of 100 recordings, one of which is silent and one cannot be read."""
    rng = np.random.default_rng(0)
    rows = ["path,split,text,speaker"]
    for number in range(100):
        split = "train" if number < 60 else "test"
        rows.append(f"{number}.wav,{split},a word,speaker-{number % 7}")
        sound = 0.1 * rng.standard_normal(2_000 + 10 * number)
        soundfile.write(tmp_path / f"{number}.wav", sound * (number != 50), 16_000)
    (tmp_path / "70.wav").write_text("no audio")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "table.csv"


def _prepare(table: Path, out: Path, name: str, code: str = VERB, size: int = 8) -> Child:
    words = ["prepare", "generic", str(table), "--out", str(out / "corpus"), "--jobs", "2"]
    words += ["--shards", str(out / "shards"), "--shard-size", str(size)]
    return Child(code, words, table.parent, name=name)


def _contents(folder: Path) -> dict[str, bytes]:
    """Return every file but notes, which one that is killed after the work may leave."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock" and FOLDER not in path.parts
    }


@pytest.mark.integration
def test_two_processes_prepare_what_one_prepares(table: Path, tmp_path: Path) -> None:
    code, said, _ = _prepare(table, tmp_path / "one", "alone").wait()
    assert code == 1, "two recordings are left out"
    both = [_prepare(table, tmp_path / "two", f"part-{n}", _SLOW) for n in "ab"]
    for child in both:
        code, other, error = child.wait()
        assert code == 1, error
        assert "2 of 100 recordings are left out" in error
        assert other.replace("/two/", "/one/") == said
    alone, shared = _contents(tmp_path / "one"), _contents(tmp_path / "two")
    assert len([name for name in alone if "recording." in name]) == 8 + 5
    assert shared.keys() == alone.keys()
    assert [name for name in alone if alone[name] != shared[name]] == []
    for part in ("corpus", "shards"):
        assert not (tmp_path / "two" / part / FOLDER).exists()
        assert not (tmp_path / "two" / part / ".partial").exists()


@pytest.mark.integration
@pytest.mark.parametrize(
    "what", ["corpus/.units/inspected-*/0*.jsonl", "shards/.partial/*/index/*"]
)
def test_a_killed_one_is_replaced(table: Path, tmp_path: Path, what: str) -> None:
    assert _prepare(table, tmp_path / "one", "alone").wait()[0] == 1
    first, second = (_prepare(table, tmp_path / "two", f"part-{n}", _SLOW) for n in "ab")
    while first.running and not list((tmp_path / "two").glob(what)):
        time.sleep(0.005)
    if first.running:
        first.kill()
    assert second.wait()[0] == 1
    alone, shared = _contents(tmp_path / "one"), _contents(tmp_path / "two")
    assert {n: c for n, c in shared.items() if alone.get(n) != c} == {}
    assert shared.keys() == alone.keys()
