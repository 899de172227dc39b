"""The runner of the evidence: resumed, shared between processes, paused; its rows and its page."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from helpers import STUDIES, study
from processes import Child

STAND_IN = """
import sys, time
from pathlib import Path
sys.path.append(sys.argv[1])
import evidence
from evidence_units import Unit
folder = Path(sys.argv[2])

def measure(unit):
    started = folder / "log"
    with open(started, "a") as log:
        log.write(f"{unit.name} begun\\n")
    rows = []
    for n in range(4):
        time.sleep(0.01)
        rows.append({"measure": "probe", "value": unit.lineage * 10 + n})
    with open(started, "a") as log:
        log.write(f"{unit.name} done\\n")
    return rows

units = [Unit("base", n, minutes=1) for n in range(12)]
stamp = lambda unit: {"base": str(unit.lineage), "design": "d"}
sys.exit(evidence.run_units(units, measure, stamp, folder / "rows", folder))
"""


def _start(folder: Path, name: str = "child") -> Child:
    folder.mkdir(exist_ok=True)
    return Child(STAND_IN, [str(STUDIES), str(folder)], folder, name=name)


def _begun(folder: Path) -> int:
    """Return how many lines the stand-in has written on what it does."""
    log = folder / "log"
    return log.read_text().count("\n") if log.exists() else 0


def _rows(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "rows").glob("*.jsonl"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert _start(folder).wait()[0] == 0
    assert len(_rows(folder)) == 12
    return folder


@pytest.mark.integration
def test_killed_ten_times_at_random_it_gives_the_same_rows(whole: Path, tmp_path: Path) -> None:
    draw, killed = random.Random(0), 0
    for number in range(10):
        child = _start(tmp_path, f"child-{number}")
        enough = _begun(tmp_path) + draw.randint(1, 2)
        while child.running and _begun(tmp_path) < enough:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.04))
        if child.running:
            child.kill()
            killed += 1
        for rows in _rows(tmp_path).values():
            assert len(rows.splitlines()) == 4, "a file is whole or not there"
    assert _start(tmp_path, "last").wait()[0] == 0
    assert _rows(tmp_path) == _rows(whole)
    assert killed >= 3


@pytest.mark.integration
def test_two_processes_never_do_the_same_unit(whole: Path, tmp_path: Path) -> None:
    children = [_start(tmp_path, f"child-{n}") for n in range(2)]
    assert [child.wait()[0] for child in children] == [0, 0]
    log = (tmp_path / "log").read_text().splitlines()
    assert sorted(log) == sorted(set(log)), "each unit was begun and done once"
    assert _rows(tmp_path) == _rows(whole)


@pytest.fixture(scope="module")
def evidence() -> ModuleType:
    return study("evidence")


def test_a_unit_that_fails_stops_no_other(
    evidence: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from speechft.errors import TrainingError

    units = study("evidence_units")

    def measure(unit: object) -> list[dict[str, int]]:
        if unit.lineage == 4:  # type: ignore[attr-defined]
            raise TrainingError("it diverged")
        return [{"value": 1}]

    every = [units.Unit("base", n, minutes=30) for n in (4, 5)]
    stamp = lambda unit: {"design": "d"}  # noqa: E731
    code = evidence.run_units(every, measure, stamp, tmp_path / "rows", tmp_path)
    out, err = capsys.readouterr()
    assert code == 1
    assert "lineage-4-base failed: it diverged" in err
    assert "2 units left, about 1.0 hours of one core" in out
    assert list(_rows(tmp_path)) == ["lineage-5-base.jsonl"]


def test_rows_of_another_design_are_measured_anew(evidence: ModuleType, tmp_path: Path) -> None:
    rows = study("rows")
    path = tmp_path / "a.jsonl"
    assert not rows.is_measured(path, {})
    rows.write_measured(path, {"design": "old"}, {"lineage": 4}, [{"value": 1}, {"value": 2}])
    assert rows.is_measured(path, {"design": "old"})
    assert not rows.is_measured(path, {"design": "new"})
    assert rows.read_measured(tmp_path)[1] == {"design": "old", "lineage": 4, "value": 2}


@pytest.mark.parametrize("amounts", [[0, 1, 1], [9, 0], [12, 3, 0], [7]])
def test_amounts_are_packed_and_found_again(amounts: list[int]) -> None:
    rows = study("rows")
    assert rows.unpacked(rows.packed(amounts)) == amounts


def test_every_unit_has_a_name_of_its_own_and_a_cost() -> None:
    units = study("evidence_units").all_units()
    assert len({unit.name for unit in units}) == len(units)
    assert all(unit.minutes > 0 for unit in units)
    first = [unit.lineage for unit in units[:4]]
    assert first == [4, 5, 6, 7], "pre-trained encoders come first"
    work = study("evidence_work")
    assert all(hasattr(work.Job, unit.kind) for unit in units)


def test_committed_rows_are_of_the_design_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    units, rows = study("evidence_units"), study("rows")
    now = units.design()
    assert {row["design"] for row in rows.read_measured(units.ROWS)} <= {now}
    monkeypatch.setattr(units, "PATH", (0.2, 1.0))
    assert units.design.__wrapped__() != now


def test_the_arms_of_h7_learn_what_they_say() -> None:
    units = study("evidence_units")
    learns = {}
    for name, (trains_cnn, head_only) in units.ARMS.items():
        config = units.ArmConfig(
            task="sid", strategy="plain-cnn", steps=300, learning_rate=1e-3,
            trains_cnn=trains_cnn, head_only=head_only,
        )  # fmt: skip
        learns[name] = [(phase.until, phase.trainable) for phase in config.phases()]
        assert config.with_effect()["trains_cnn"] == trains_cnn
    assert learns == {
        "trained-0": [(300, "everything")],
        "trained-1": [(29, "head"), (300, "everything")],
        "frozen-0": [(300, "head and layers")],
        "frozen-1": [(29, "head"), (300, "head and layers")],
    }


TICKING = """
import os, sys, time
while not os.path.exists("stop"):
    with open("ticks", "a") as file:
        file.write(os.environ["ATEN_CPU_CAPABILITY"] + " ")
    time.sleep(0.01)
sys.exit(3)
"""


@pytest.mark.integration
def test_while_the_pause_file_is_there_everything_stands_still(
    evidence: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pause, ticks, codes = tmp_path / "pause", tmp_path / "ticks", []

    def supervise() -> None:
        command = [sys.executable, "-S", "-c", TICKING]
        codes.append(evidence.supervise(command, 2, pause))

    def ticked(within: float) -> bool:
        before = ticks.stat().st_size if ticks.exists() else 0
        end = time.monotonic() + within
        while time.monotonic() < end:
            if ticks.exists() and ticks.stat().st_size > before:
                return True
            time.sleep(0.02)
        return False

    thread = threading.Thread(target=supervise)
    thread.start()
    try:
        assert ticked(60)
        pause.touch()
        end = time.monotonic() + 60
        while ticked(0.4) and time.monotonic() < end:
            pass
        assert not ticked(0.4)
        pause.unlink()
        assert ticked(60)
        assert set(ticks.read_text().split()) == {"avx2"}
    finally:
        pause.unlink(missing_ok=True)
        (tmp_path / "stop").touch()
        thread.join()
    assert codes == [3]


def test_the_page_is_what_the_rows_say() -> None:
    table = study("evidence_table")
    page = table.PAGE.read_text()
    parts = table.generated(table.judge_of(), table.drawn())
    assert table.place(page, parts) == page
    for name, text in parts.items():
        assert table.MARKS[name] in page, name
        assert text in page, name


def test_a_verdict_needs_all_rows_and_the_claimed_sign() -> None:
    table, inference = study("evidence_table"), study("inference")
    figures = study("evidence_figures")

    def found(value: float, error: float) -> object:
        return figures.Found(inference.Estimate(value, error, 5.0, 4), (4, 5, 6, 7))

    every = {name: found(0.0, 0.2) for name in table.SAID}
    every |= {"C1": found(1.0, 0.05), "C2": found(1.0, 0.05), "C3": found(1.0, 0.05)}
    every |= {"C4": found(0.0, 0.02), "C5": figures.Found(None, ())}
    whole = dict.fromkeys(every, True) | {"C3": False}
    words = table.verdicts(every, whole)
    assert words["C1"] == "supported"
    assert words["C2"] == "contradicted", "tuned at home it was to be below 0"
    assert words["C3"] == "preliminary"
    assert words["C4"] == "no difference"
    assert words["C5"] == words["C6"] == "open"


def test_rows_of_two_kinds_are_not_compared() -> None:
    table, figures = study("evidence_table"), study("evidence_figures")
    row = {"measure": "probe", "whole": True, "processor": "p", "arithmetic": "fp32 AVX2 1"}
    one = figures.Evidence([row], {})
    assert "1 of 1 probes are whole" in table.arithmetic_words(one)
    with pytest.raises(SystemExit, match="several kinds"):
        table.arithmetic_words(figures.Evidence([row, {**row, "arithmetic": "bf16"}], {}))


def test_json_of_the_design_is_whole() -> None:
    content = json.loads((STUDIES / "evidence" / "design.json").read_text())
    assert content["finetuning"]["precision"] == content["probes"]["precision"] == "fp32"
    assert content["finetuning"]["steps"] == 300
