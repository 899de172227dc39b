"""Work shared by its folder: every unit once, dead owners replaced, failures told to all."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from processes import Child
from speechft.errors import DataError, RunError
from speechft.parallel import claims, liveness, sharing
from speechft.parallel.claims import FOLDER, Claim, Workers, look
from speechft.parallel.sharing import ItemsError, Unit, share
from speechft.storage.scratch import scratch_folder, scratch_in

_WORK = """
import os, sys, time, random
from pathlib import Path
from speechft.parallel.claims import Workers
from speechft.parallel.sharing import Unit, share

folder, seed, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
draw = random.Random(seed)

def unit(number):
    out = folder / f"out-{number}"
    def run(claim):
        with open(folder / "log", "a") as file:
            file.write(f"begin {number} {os.getpid()}\\n")
        time.sleep(pause * draw.random())
        claim.check()
        hidden = folder / f"half-{number}-{os.getpid()}"
        hidden.write_text(str(number * number))
        with open(folder / "log", "a") as file:
            file.write(f"end {number} {os.getpid()}\\n")
        os.replace(hidden, out)
    return Unit(f"unit/{number}", out.exists, run)

units = [unit(n) for n in range(8)]
with Workers(folder, "work", [u.name for u in units]) as workers:
    share(units, workers)
"""


def _unit(folder: Path, name: str, ran: list[str], error: Exception | None = None) -> Unit:
    out = folder / f"out-{name}"

    def run(claim: Claim) -> None:
        ran.append(name)
        if error is not None:
            raise error
        out.touch()

    return Unit(name, out.exists, run)


def _share(folder: Path, units: list[Unit]) -> dict[str, str]:
    with Workers(folder, "work", [unit.name for unit in units]) as workers:
        return {name: str(error) for name, error in share(units, workers).items()}


def test_one_process_does_all_in_order_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ran: list[str] = []
    assert _share(tmp_path, [_unit(tmp_path, name, ran) for name in "abc"]) == {}
    assert ran == ["a", "b", "c"]
    assert not (tmp_path / FOLDER).exists()


def test_who_leaves_next_clears_what_a_killed_process_left_of_its_clearing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(place: Path) -> None:
        next(iter(sorted(place.glob("a.*.json")))).unlink()
        monkeypatch.undo()

    monkeypatch.setattr(claims, "remove", cut_short)
    assert _share(tmp_path, [_unit(tmp_path, name, []) for name in "abc"]) == {}
    assert (tmp_path / FOLDER).exists()
    assert look(tmp_path) == [], "nothing is left to do"
    with Workers(tmp_path, "work", []):  # another one, which saw the end of all
        pass
    assert not (tmp_path / FOLDER).exists()


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    (tmp_path / "out-b").touch()
    ran: list[str] = []
    _share(tmp_path, [_unit(tmp_path, name, ran) for name in "abc"])
    assert ran == ["a", "c"]


def test_a_failure_is_kept_with_its_reason_and_tried_again_by_the_next_command(
    tmp_path: Path,
) -> None:
    ran: list[str] = []
    bad = _unit(tmp_path, "a", ran, DataError("no audio", hint="find some"))
    failed = _share(tmp_path, [bad, _unit(tmp_path, "b", ran)])
    assert ran == ["a", "b"]
    assert "no audio" in failed["a"]
    states = {seen.name: (seen.state, seen.why) for seen in look(tmp_path)}
    assert states == {"a": ("failed", "no audio"), "b": ("done", None)}
    assert _share(tmp_path, [_unit(tmp_path, "a", ran), _unit(tmp_path, "b", ran)]) == {}
    assert ran == ["a", "b", "a"]
    assert not (tmp_path / FOLDER).exists()


def test_a_failure_elsewhere_is_told_and_not_tried_here(tmp_path: Path) -> None:
    ran: list[str] = []
    units = [_unit(tmp_path, "a", ran)]
    with Workers(tmp_path, "work", ["a"]) as here, Workers(tmp_path, "work", ["a"]) as there:
        slow = Unit("a", units[0].done, units[0].run, ready=lambda: _fail_first(there))
        failed = share([slow], here)
    assert "diverged" in str(failed["a"])
    assert not ran


def _fail_first(there: Workers) -> bool:
    claim = there.claim("a")
    if claim is not None:
        claim.end("failed", kind="TrainingError", why="diverged", hint=None)
    return False


def test_another_error_leaves_the_unit_for_others(tmp_path: Path) -> None:
    ran: list[str] = []
    with pytest.raises(ZeroDivisionError):
        _share(tmp_path, [_unit(tmp_path, "a", ran, ZeroDivisionError())])
    assert [seen.state for seen in look(tmp_path)] == ["left"]
    assert _share(tmp_path, [_unit(tmp_path, "a", ran)]) == {}
    assert ran == ["a", "a"]


def test_of_many_that_claim_one_succeeds(tmp_path: Path) -> None:
    with Workers(tmp_path, "one", ["a"]) as one, Workers(tmp_path, "two", ["a"]) as two:
        claim = one.claim("a")
        assert claim is not None
        assert two.claim("a") is None
        claim.check()
        claim.end("left")
        second = two.claim("a")
        assert second is not None
        with pytest.raises(RunError, match="took over"):
            claim.check()
        second.check()


def test_a_silent_process_of_another_machine_is_replaced_and_a_loud_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "PATIENCE", 0.2)
    with Workers(tmp_path, "there", ["a"]) as there:
        monkeypatch.setattr(liveness, "machine", lambda: "elsewhere")
        there._beat()
        monkeypatch.undo()
        monkeypatch.setattr(liveness, "PATIENCE", 0.2)
        first = there.claim("a")
        assert first is not None
        with Workers(tmp_path, "here", ["a"]) as here:
            for _ in range(4):
                assert here.state("a").state == "running"
                _beat_as(there, "elsewhere", monkeypatch)
                _watch(here, 0.1)
            assert here.state("a").state == "running"
            _watch(here, 0.25)
            assert here.state("a").state == "dead"
            assert here.claim("a") is not None
        with pytest.raises(RunError, match="took over"):
            first.check()


def test_a_process_that_is_there_but_gives_no_sign_of_life_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped or hung: the system still knows it, and it may hold the locks of the unit."""
    monkeypatch.setattr(liveness, "PATIENCE", 0.4)
    with Workers(tmp_path, "there", ["a", "b"]) as there, Workers(tmp_path, "here", ["a"]) as here:
        first = there.claim("a")
        assert first is not None
        assert not first.over_sleeper
        assert here.state("a").state == "running"
        time.sleep(0.5)
        assert here.state("a").state == "running", "who did not watch knows nothing"
        _watch(here, 0.5)
        second = here.claim("a")
        assert second is not None
        assert second.over_sleeper
        first.end("done")
        assert here.state("a").state == "running", "who was replaced has no say"
        second.end("left")
        third = there.claim("a")
        assert third is not None
        assert not third.over_sleeper, "who left it holds nothing"


def test_a_process_that_cannot_be_read_of_just_now_is_not_dead_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Workers(tmp_path, "there", ["a"]) as there, Workers(tmp_path, "here", ["a"]) as here:
        assert there.claim("a") is not None
        (tmp_path / FOLDER / f"process-{there._token}.json").write_text("{")
        assert here.state("a").state == "running"
        monkeypatch.setattr(liveness, "PATIENCE", 0.0)
        assert here.state("a").state == "dead"


def test_processes_that_the_system_hides_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``hidepid`` those of other users have no folder in /proc."""

    def hidden(place: str) -> str:
        raise FileNotFoundError(place)

    def kill(pid: int, _: int) -> None:
        raise PermissionError if pid == 7 else ProcessLookupError

    known = liveness.myself()
    assert not liveness.is_gone(known)
    assert liveness.is_gone({**known, "started": "1"}), "another process of that number"
    monkeypatch.setattr(liveness, "_system_text", hidden)
    monkeypatch.setattr(liveness, "machine", lambda: known["machine"])
    monkeypatch.setattr(os, "kill", kill)
    assert not liveness.is_gone({**known, "pid": 7})
    assert liveness.is_gone({**known, "pid": 8})


def test_who_was_replaced_goes_on_with_what_is_left(tmp_path: Path) -> None:
    ran: list[str] = []

    def slept(claim: Claim) -> None:
        ran.append("a")
        number = claim._number + 1
        (tmp_path / FOLDER / f"a.{number}.json").write_text(json.dumps({"state": "done"}))
        (tmp_path / "out-a").touch()  # by who took over, and cleared what this one writes to
        raise FileNotFoundError(errno.ENOENT, "gone", "half-a")

    first, second = _unit(tmp_path, "a", ran), _unit(tmp_path, "b", ran)
    assert _share(tmp_path, [Unit("a", first.done, slept), second]) == {}
    assert ran == ["a", "b"]


@pytest.mark.parametrize("units", [7, "abc", {"a": 1}, [["a"], None, 3], None])
def test_a_damaged_plan_names_no_units(tmp_path: Path, units: Any) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "plan-0000-a.json").write_text(json.dumps({"units": units}))
    assert look(tmp_path) == []
    assert _share(tmp_path, [_unit(tmp_path, "a", [])]) == {}


def _watch(workers: Workers, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        workers.state("a")
        time.sleep(0.01)


def _beat_as(workers: Workers, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(liveness, "machine", lambda: machine)
        workers._beat()


def test_a_unit_that_waits_for_what_another_keeps_is_passed_over(tmp_path: Path) -> None:
    ran: list[str] = []
    first, second = (_unit(tmp_path, name, ran) for name in "ab")
    late = Unit("a", first.done, first.run, ready=second.done)
    assert _share(tmp_path, [late, second]) == {}
    assert ran == ["b", "a"]


def test_what_needs_a_unit_that_failed_is_not_begun(tmp_path: Path) -> None:
    ran: list[str] = []
    units = [_unit(tmp_path, "a", ran, DataError("no audio")), _unit(tmp_path, "b", ran)]
    for name, after in (("c", "a"), ("d", "c"), ("e", "b")):
        plain = _unit(tmp_path, name, ran)
        units.append(Unit(name, plain.done, plain.run, after=[after]))
    assert list(_share(tmp_path, units)) == ["a"]
    assert ran == ["a", "b", "e"]
    assert [seen.state for seen in look(tmp_path)] == ["failed", "done", "free", "free", "done"]
    (tmp_path / "alone").mkdir()
    assert list(share(units)) == ["a"]
    assert ran == ["a", "b", "e", "a"]


def test_what_needs_a_unit_waits_for_it(tmp_path: Path) -> None:
    ran: list[str] = []
    first, second = (_unit(tmp_path, name, ran) for name in "ab")
    late = Unit("a", first.done, first.run, after=["b"])
    assert _share(tmp_path, [late, second]) == {}
    assert ran == ["b", "a"]


def test_units_are_done_several_at_a_time_and_one_error_ends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=20)
    ran: list[str] = []
    works: list[sharing._Work] = []

    class Work(sharing._Work):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            works.append(self)

    monkeypatch.setattr(sharing, "_Work", Work)

    def together(name: str, error: type[BaseException] | None = None) -> Unit:
        out = tmp_path / f"out-{name}"

        def run(claim: Claim) -> None:
            ran.append(name)
            both.wait()
            if error is not None:
                raise error
            if name == "f":  # beside the one that fails: it goes on when that is known
                assert works[-1].ending.wait(20)
            out.touch()

        return Unit(name, out.exists, run)

    assert sharing.work_off(tmp_path, "work", [together(n) for n in "abcd"], jobs=2) == {}
    assert sorted(ran) == ["a", "b", "c", "d"]
    assert not (tmp_path / FOLDER).exists()
    units = [together("e", ZeroDivisionError), *(together(n) for n in "fghi")]
    with pytest.raises(ZeroDivisionError):
        sharing.work_off(tmp_path, "work", units, jobs=2)
    assert sorted(ran) == ["a", "b", "c", "d", "e", "f"]


def test_threads_put_scratch_files_where_their_process_does(tmp_path: Path) -> None:
    seen: list[Path] = []

    def unit(name: str) -> Unit:
        out = tmp_path / f"out-{name}"

        def run(claim: Claim) -> None:
            seen.append(scratch_folder())
            out.touch()

        return Unit(name, out.exists, run)

    with scratch_in(tmp_path):
        assert sharing.work_off(tmp_path, "work", [unit("a"), unit("b")], jobs=2) == {}
    assert seen == [tmp_path, tmp_path]


def test_items_that_cannot_be_used_are_told_to_all_and_tried_again(tmp_path: Path) -> None:
    ran: list[str] = []
    strange = os.fsdecode(b"caf\xe9.wav")
    bad = _unit(tmp_path, "a", ran, ItemsError({strange: "is empty", "b.wav": "is cut off"}))
    with Workers(tmp_path, "one", ["a"]) as one, Workers(tmp_path, "two", ["a"]) as two:
        late = Unit("a", bad.done, bad.run, ready=lambda: bool(share([bad], two)))
        failed = share([late], one)
    assert ran == ["a"]
    error = failed["a"]
    assert isinstance(error, ItemsError)
    assert error.items == {r"caf\udce9.wav": "is empty", "b.wav": "is cut off"}
    assert "is empty, and 1 more" in str(look(tmp_path)[0].why)
    share_again = _share(tmp_path, [_unit(tmp_path, "a", ran)])
    assert (share_again, ran) == ({}, ["a", "a"])


def test_units_that_are_known_late_are_shown_behind_the_others(tmp_path: Path) -> None:
    with Workers(tmp_path, "search", ["b"]) as workers:
        workers.plan(["a", "b"])
        assert [seen.name for seen in look(tmp_path)] == ["b", "a"]


def test_nothing_is_written_where_all_is_done(tmp_path: Path) -> None:
    (tmp_path / "out-a").touch()
    assert sharing.work_off(tmp_path / "none", "work", [_unit(tmp_path, "a", [])]) == {}
    assert not (tmp_path / "none").exists()


def test_what_a_process_keeps_is_handed_out_when_another_asks(tmp_path: Path) -> None:
    handed = tmp_path / "handed"
    with Workers(tmp_path, "one", []) as one, Workers(tmp_path, "two", []) as two:
        one.serve("features", handed.touch)
        two.ask("features")
        two.ask("features")
        deadline = time.monotonic() + 10
        while not handed.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert handed.exists()


def test_who_asks_as_it_is_given_up_is_answered(tmp_path: Path) -> None:
    handed: list[int] = []
    with Workers(tmp_path, "one", []) as one:
        one.serve("first", lambda: handed.append(1))
        one.serve("first", None)
        assert handed == []
        one.serve("second", lambda: handed.append(2))
        one.ask("second")
        one.serve("second", None)
        assert handed == [2]


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"state": "odd", "process": 7}'])
def test_damaged_notes_count_as_those_of_the_dead(tmp_path: Path, damage: str) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "a.1.json").write_text(damage)
    (tmp_path / FOLDER / "process-x.json").write_text(damage)
    ran: list[str] = []
    assert _share(tmp_path, [_unit(tmp_path, "a", ran)]) == {}
    assert ran == ["a"]


def test_a_disk_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    ran: list[str] = []
    assert _share(tmp_path, [_unit(tmp_path, name, ran) for name in "ab"]) == {}
    assert ran == ["a", "b"]
    with Workers(tmp_path, "one", ["c"]) as one, Workers(tmp_path, "two", ["c"]) as two:
        assert one.claim("c") is not None
        assert two.claim("c") is None


def test_a_planted_link_in_place_of_the_notes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FOLDER).symlink_to(tmp_path / "away")
    with pytest.raises(RunError, match="link"), Workers(tmp_path / "out", "work", []):
        pass
    assert not any((tmp_path / "away").iterdir())


@pytest.mark.parametrize("seed", range(3))
def test_killed_processes_are_replaced(tmp_path: Path, seed: int) -> None:
    _trial(tmp_path, seed)


@pytest.mark.long
def test_killed_processes_are_replaced_a_hundred_times(tmp_path: Path) -> None:
    for seed in range(100):
        (tmp_path / str(seed)).mkdir()
        _trial(tmp_path / str(seed), seed)


def _trial(folder: Path, seed: int) -> None:
    """Four processes, two of which are killed at random moments."""
    draw = random.Random(seed)
    (folder / "work").mkdir()
    arguments = [str(folder / "work"), str(seed), "0.2"]
    children = [Child(_WORK, arguments, folder, name=f"child-{n}") for n in range(4)]
    killed = []
    for child in children[:2]:
        time.sleep(0.25 * draw.random())
        if child.running:
            process = child._process.pid
            assert process is not None
            os.kill(process, signal.SIGKILL)
            killed.append(process)
    for child in children[2:]:
        code, _, error = child.wait(60)
        assert code == 0, error
    for child in children[:2]:
        child.wait(60)  # on a busy machine what was killed lives on for a moment
    work = folder / "work"
    assert {n: (work / f"out-{n}").read_text() for n in range(8)} == {
        n: str(n * n) for n in range(8)
    }
    lines = [line.split() for line in (work / "log").read_text().splitlines()]
    ended = Counter(number for what, number, by in lines if what == "end" and int(by) not in killed)
    assert max(ended.values(), default=1) == 1
    begun = Counter(number for what, number, by in lines if what == "begin")
    lost = {number for what, number, by in lines if what == "begin" and int(by) in killed}
    assert all(count == 1 for number, count in begun.items() if number not in lost)
    ran: list[str] = []
    units = [  # the next command
        Unit(f"unit/{n}", (work / f"out-{n}").exists, lambda _: ran.append("")) for n in range(8)
    ]
    assert _share(work, units) == {}
    assert ran == []
    assert not (work / FOLDER).exists()
