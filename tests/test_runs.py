"""Stages: skipped, redone, locked, resumed; killed at any moment they never claim to be whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from speechft.errors import RunError
from speechft.runs import STAGE_FILE, is_done, is_moving, lock, publish, scratch_of, stage
from speechft.storage import disk, locks, outputs
from speechft.storage.outputs import overwriting


def visible(folder: Path) -> set[str]:
    return {item.name for item in folder.iterdir() if not item.name.startswith(".")}


def produce(folder: Path, text: str = "one", names: tuple[str, ...] = ("a.txt",)) -> bool:
    """Run a stage that writes files; return whether there was anything to do."""
    with stage(folder, name="make", config={"text": text}) as work:
        if not work.done:
            for name in names:
                path = work.scratch / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
        return not work.done


def test_unchanged_stage_is_skipped(tmp_path: Path) -> None:
    assert produce(tmp_path)

    def written() -> list[tuple[int, int]]:
        files = [(tmp_path / name).stat() for name in ("a.txt", STAGE_FILE)]
        return [(file.st_ino, file.st_mtime_ns) for file in files]

    before = written()
    assert not produce(tmp_path)
    assert written() == before


def test_what_is_being_put_in_place_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job: Any = {"name": "make", "config": {"text": "one"}}
    other: Any = {"name": "make", "config": {"text": "two"}}
    seen = []

    def looking(new: Path, out: Path, old: Path) -> None:
        disk.swap(new, out, old)
        seen.append((is_moving(tmp_path, **job), is_done(tmp_path, **job)))
        assert not is_moving(tmp_path, **other)

    monkeypatch.setattr("speechft.runs.swap", looking)
    assert not is_moving(tmp_path, **job)
    produce(tmp_path)
    assert seen == [(True, False)]
    assert (is_moving(tmp_path, **job), is_done(tmp_path, **job)) == (False, True)


@pytest.mark.parametrize(
    "change",
    [{"config": {"x": 2}}, {"name": "other"}, {"inputs": {"in": "new"}}, {"inputs": {}}],
)
def test_changed_stage_is_redone(tmp_path: Path, change: dict[str, Any]) -> None:
    first: dict[str, Any] = {"name": "make", "config": {"x": 1}, "inputs": {"in": "old"}}
    for arguments in (first, {**first, **change}):
        with stage(tmp_path, **arguments) as work:
            assert not work.done
            (work.scratch / "a.txt").write_text(str(arguments))
        with stage(tmp_path, **arguments) as work:
            assert work.done
    assert (tmp_path / "a.txt").read_text() == str({**first, **change})


def test_what_a_training_made_is_not_replaced_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(inputs: dict[str, str], costly: bool = True, **config: Any) -> str:
        with stage(tmp_path, name="t", config=config, inputs=inputs, costly=costly) as work:
            if not work.done:
                (work.scratch / "encoder").write_text(str(config))
        return " ".join(capsys.readouterr().err.split())

    one = {"corpus": "1" * 64}
    assert train(one, optimization={"steps": 10, "rate": 0.1}, seed=0) == ""
    assert train(one, optimization={"steps": 10, "rate": 0.1}, seed=0) == ""
    said = train(one, optimization={"steps": 6, "rate": 0.1}, seed=0, ema=0.9)
    assert (
        "holds what other settings made (optimization.steps 10 -> 6, ema not given -> 0.9)" in said
    )
    assert "another folder would keep it" in said
    said = train({"corpus": "2" * 64}, optimization={"steps": 6, "rate": 0.1}, seed=0, ema=0.9)
    assert "other settings made (another corpus)" in said
    many = dict.fromkeys("abcde", 1)
    assert "and 7 more)" in train(one, **many)
    assert train(one, costly=False, seed=9) == ""


def test_a_folder_that_a_sleeper_holds_is_taken_over_and_worked_on_apart(tmp_path: Path) -> None:
    with lock(tmp_path):
        sleeper = tmp_path / ".partial" / scratch_of(tmp_path, name="make", config={}).name
        sleeper.mkdir(parents=True)
        (sleeper / "a.txt").write_text("half")
        with pytest.raises(RunError, match="in use"), stage(tmp_path, name="make", config={}):
            pass
        with stage(tmp_path, name="make", config={}, over_sleeper=True) as work:
            assert work.scratch != sleeper
            (work.scratch / "a.txt").write_text("whole")
            with pytest.raises(RunError, match="in use"), lock(tmp_path):
                pass
        assert (tmp_path / "a.txt").read_text() == "whole"
        assert is_done(tmp_path, name="make", config={})
        assert not sleeper.exists()
    with lock(tmp_path):
        pass


def test_killed_while_it_publishes_over_a_sleeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, lock(tmp_path):
        patch.setattr("speechft.runs._move", killed)
        job: dict[str, Any] = {"name": "make", "config": {}}
        with pytest.raises(KeyboardInterrupt), stage(tmp_path, **job, over_sleeper=True) as work:
            (work.scratch / "a.txt").write_text("whole")
    with stage(tmp_path, **job) as work:
        assert work.done, "the journal knows where the outputs lie"
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_order_of_keys_does_not_matter(tmp_path: Path) -> None:
    with stage(tmp_path, name="s", config={"a": 1, "b": 2}, inputs={"x": "1", "y": "2"}):
        pass
    with stage(tmp_path, name="s", config={"b": 2, "a": 1}, inputs={"y": "2", "x": "1"}) as work:
        assert work.done


def test_a_missing_output_is_made_again(tmp_path: Path) -> None:
    produce(tmp_path)
    (tmp_path / "a.txt").unlink()
    assert produce(tmp_path)
    assert (tmp_path / "a.txt").read_text() == "one"


@pytest.mark.parametrize("name", ["a.txt", "tree/model.safetensors"])
def test_an_output_that_was_emptied_is_made_again_and_said(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def make() -> bool:
        with stage(tmp_path, name="make", config={}, costly=True) as work:
            if not work.done:
                (work.scratch / "a.txt").write_text("one")
                (work.scratch / "log").write_text("")
                (work.scratch / "tree").mkdir()
                save_file({"x": np.ones(3)}, work.scratch / "tree" / "model.safetensors")
                (work.scratch / "tree" / "README.md").write_text("one")
            return not work.done

    assert make()
    assert not make(), "what was empty from the beginning is whole"
    before = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(b"")
    assert not is_done(tmp_path, name="make", config={})
    assert make()
    assert (tmp_path / name).read_bytes() == before
    told = capsys.readouterr().err
    assert f"{tmp_path / name} is gone or cut off since it was written; it is made again" in told
    assert "other settings" not in told
    (tmp_path / "tree" / "README.md").unlink()
    assert not make(), "a training is not done again for a page that was cleared away"


def test_an_output_that_was_cut_off_is_refused_before_the_work(tmp_path: Path) -> None:
    """What is not empty may be somebody's: it is not replaced without a word."""
    with stage(tmp_path, name="make", config={}) as work:
        save_file({"x": np.ones(3)}, work.scratch / "model.safetensors")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RunError) as caught, stage(tmp_path, name="make", config={}):
        pytest.fail("the work is begun")
    assert str(file) in str(caught.value)


def test_outputs_of_an_older_key_are_replaced(tmp_path: Path) -> None:
    produce(tmp_path, "one", ("a.txt", "tree/leaf", "old.txt"))
    (tmp_path / "user-notes.txt").write_text("mine")
    produce(tmp_path, "two", ("a.txt", "new.txt"))
    assert visible(tmp_path) == {"a.txt", "new.txt", "user-notes.txt", STAGE_FILE}
    assert (tmp_path / "a.txt").read_text() == "two"


def test_the_record_says_what_was_done(tmp_path: Path) -> None:
    with stage(tmp_path, name="make", config={"x": 1}, inputs={"in": "digest"}) as work:
        (work.scratch / "b").write_text("")
        (work.scratch / "a").mkdir()
        (work.scratch / ".state").write_text("not an output")
    record = json.loads((tmp_path / STAGE_FILE).read_text())
    assert record["outputs"] == ["a", "b"]
    assert (record["stage"], record["config"], record["inputs"]) == (
        "make",
        {"x": 1},
        {"in": "digest"},
    )
    assert {item.name for item in tmp_path.iterdir()} == {"a", "b", STAGE_FILE, ".lock"}


def leave_half(folder: Path, text: str) -> None:
    with stage(folder, name="make", config={"text": text}) as work:
        (work.scratch / "half.txt").write_text("half")
        raise ZeroDivisionError


def test_an_exception_keeps_the_scratch_for_the_next_run(tmp_path: Path) -> None:
    produce(tmp_path, "one")
    with pytest.raises(ZeroDivisionError):
        leave_half(tmp_path, "two")
    assert visible(tmp_path) == {"a.txt", STAGE_FILE}
    assert (tmp_path / "a.txt").read_text() == "one", "the older outputs stay until the end"
    with stage(tmp_path, name="make", config={"text": "two"}) as work:
        assert (work.scratch / "half.txt").read_text() == "half"
    assert visible(tmp_path) == {"half.txt", STAGE_FILE}


def test_scratch_of_another_key_is_not_taken_up_but_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ZeroDivisionError):
        leave_half(tmp_path, "one")
    with pytest.raises(ZeroDivisionError):
        leave_half(tmp_path, "two")
    assert len(list((tmp_path / ".partial").iterdir())) == 2
    assert "was begun with other settings" in " ".join(capsys.readouterr().err.split())
    with stage(tmp_path, name="make", config={"text": "one"}) as work:
        assert list(work.scratch.iterdir()), "what the first had done is still there"
    assert not capsys.readouterr().err
    assert not work.scratch.parent.exists()


def test_a_full_disk_under_safetensors_is_one_message(tmp_path: Path) -> None:
    text = "Error while serializing: I/O error: No space left on device (os error 28)"
    with (
        pytest.raises(RunError, match="no space left to write"),
        stage(tmp_path, name="make", config={}),
    ):
        raise SafetensorError(text)


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "3", '{"key": "x"}', '{"outputs": ["a.txt"]}', '{"outputs": 3}']
)
def test_a_damaged_record_claims_nothing(tmp_path: Path, content: str) -> None:
    produce(tmp_path)
    (tmp_path / STAGE_FILE).write_text(content)
    assert produce(tmp_path)
    assert not produce(tmp_path)


def test_stage_file_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    replace = os.replace

    def watch(source: Any, target: Any) -> None:
        moved.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    produce(tmp_path, names=("a.txt", "z.txt"))
    assert moved[-1] == STAGE_FILE
    assert set(moved[:-1]) >= {"a.txt", "z.txt"}


HOLD = """
import sys, time
from pathlib import Path
from speechft.runs import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_in_use_is_refused_until_its_process_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(RunError, match="in use by another process") as caught:
                produce(tmp_path)
            assert str(tmp_path) in caught.value.message
            assert "--out" in (caught.value.hint or "")
        finally:
            holder.kill()
    assert visible(tmp_path) == set()
    assert produce(tmp_path)


def test_the_lock_is_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock(tmp_path):
        raise ZeroDivisionError
    with lock(tmp_path):
        pass


def test_a_file_in_the_way_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match="cannot write"):
            produce(folder)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".partial").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        produce(tmp_path / "run")


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left"), (errno.EROFS, "Read-only")],
)
def test_a_full_or_read_only_disk_while_publishing(
    tmp_path: Path, code: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce(tmp_path, "one")

    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(RunError, match=expected):
            produce(tmp_path, "two")
    assert produce(tmp_path, "two")
    assert (tmp_path / "a.txt").read_text() == "two"


def test_a_full_disk_inside_the_stage(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no space left"), stage(tmp_path, name="s", config=1):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), stage(tmp_path, name="s", config=1):
        raise FileNotFoundError(errno.ENOENT, "another error stays what it is")


CRASH = """
import os, signal, sys
from pathlib import Path
from speechft.runs import stage
with stage(Path(sys.argv[1]), name="make", config={"text": "one"}) as work:
    (work.scratch / "a.txt").write_text("o")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_in_the_middle_then_run_again(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CRASH, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert visible(tmp_path) == set()
    with stage(tmp_path, name="make", config={"text": "one"}) as work:
        assert (work.scratch / "a.txt").read_text() == "o", "what was done is found again"
    assert visible(tmp_path) == {"a.txt", STAGE_FILE}


# One process that forks a child for each moment: the child publishes new outputs over old ones
# and dies before its n-th change to the file system.
KILLED_PUBLICATION = """
import os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from speechft.runs import stage

def publish(folder, text, extra, deadline):
    with stage(folder, name="make", config={"text": text}) as work:
        (work.scratch / "tree").mkdir()
        for name in ("a.txt", "tree/1", "tree/2", extra):
            (work.scratch / name).write_text(text)
        left = [deadline]
        def deadly(call):
            def wrapped(*args, **kwargs):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return call(*args, **kwargs)
            return wrapped
        for name in ("replace", "unlink", "rmdir", "mkdir"):
            setattr(os, name, deadly(getattr(os, name)))

root = Path(sys.argv[2])
for moment in range(200):
    folder = root / f"{moment:03d}"
    shutil.copytree(root / "old", folder)
    child = os.fork()
    if child == 0:
        publish(folder, "two", "new.txt", moment)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


@pytest.mark.parametrize("rerun", ["one", "two"])
def test_killed_at_every_moment_of_a_publication(tmp_path: Path, rerun: str) -> None:
    extra = {"one": "old.txt", "two": "new.txt"}
    names = {text: ("a.txt", "tree/1", "tree/2", extra[text]) for text in extra}
    produce(tmp_path / "old", "one", names["one"])
    source = str(Path(__file__).parents[1] / "src")
    command = [sys.executable, "-c", KILLED_PUBLICATION, source, str(tmp_path)]
    subprocess.run(command, check=True)
    folders = sorted(item for item in tmp_path.iterdir() if item.name != "old")
    assert len(folders) > 15, "as many moments were tried"
    states = set()
    for folder in folders:
        for name in ("a.txt", "tree/1", "tree/2"):
            if (folder / name.split("/")[0]).exists():
                assert (folder / name).read_text() in ("one", "two"), "nothing half-removed"
        if (folder / STAGE_FILE).exists():
            text = json.loads((folder / STAGE_FILE).read_text())["config"]["text"]
            states.add(text)
            for name in names[text]:
                assert (folder / name).read_text() == text, f"{folder.name} claims to be whole"
        else:
            states.add("neither")
        produce(folder, rerun, names[rerun])
        assert visible(folder) == {"a.txt", "tree", extra[rerun], STAGE_FILE}
        for name in names[rerun]:
            assert (folder / name).read_text() == rerun
        assert not produce(folder, rerun, names[rerun])
        shutil.rmtree(folder)
    assert states == {"one", "two", "neither"}


def test_a_folder_that_stays_empty_is_gone_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing was done"), lock(tmp_path / "new"):
        raise ValueError("nothing was done")
    (tmp_path / "old").mkdir()
    with lock(tmp_path / "old"):
        pass
    with lock(tmp_path / "used"):
        (tmp_path / "used" / "result").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"old", "used"}


def write_folder(out: Path, text: str) -> None:
    with publish(out) as hidden:
        (hidden / "tree").mkdir(parents=True)
        for name in ("a.txt", "tree/1", "tree/2"):
            (hidden / name).write_text(text)


def held(out: Path) -> set[str]:
    return {(out / name).read_text() for name in ("a.txt", "tree/1", "tree/2")}


# One process that forks a child for each moment: the child replaces a folder and dies before its
# n-th change to the file system.
KILLED_REPLACEMENT = """
import os, shutil, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from test_runs import write_folder

def deadly(call, left):
    def wrapped(*args, **kwargs):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return call(*args, **kwargs)
    return wrapped

root = Path(sys.argv[3])
for moment in range(200):
    folder = root / f"{moment:03d}"
    shutil.copytree(root / "old", folder)
    child = os.fork()
    if child == 0:
        left = [moment]
        for name in ("replace", "unlink", "rmdir", "mkdir"):
            setattr(os, name, deadly(getattr(os, name), left))
        write_folder(folder / "out", "two")
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def test_killed_at_every_moment_of_a_replacement(tmp_path: Path) -> None:
    """A folder under its final name is whole or not there, and is back when it is written again."""
    write_folder(tmp_path / "old" / "out", "one")
    tests = Path(__file__).parent
    command = [sys.executable, "-c", KILLED_REPLACEMENT, str(tests.parent / "src"), str(tests)]
    subprocess.run([*command, str(tmp_path)], check=True)
    folders = sorted(item for item in tmp_path.iterdir() if item.name != "old")
    assert len(folders) > 10, "as many moments were tried"
    seen = [held(f / "out") if (f / "out").exists() else set() for f in folders]
    new = seen.index({"two"})
    assert seen == [{"one"}] * new + [{"two"}] * (len(seen) - new), "whole, and never absent"
    for folder, before in zip(folders, seen, strict=True):
        with pytest.raises(ZeroDivisionError), publish(folder / "out"):
            raise ZeroDivisionError
        assert held(folder / "out") == before, "an error leaves what was there"
        write_folder(folder / "out", "three")
        assert held(folder / "out") == {"three"}
        assert [path.name for path in folder.iterdir()] == ["out"]


def test_a_file_and_a_folder_never_replace_each_other(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="was not written by this command"):
        write_folder(tmp_path / "file", "one")
    with overwriting(True), pytest.raises(RunError, match="cannot write"):
        write_folder(tmp_path / "file", "one")
    write_folder(tmp_path / "folder", "one")
    with pytest.raises(RunError, match="cannot write"), publish(tmp_path / "folder") as hidden:
        hidden.write_text("two")
    assert (tmp_path / "file").read_text() == "mine"
    assert held(tmp_path / "folder") == {"one"}
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_what_cannot_take_its_place_leaves_the_old_folder_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "out", "one")
    replace = os.replace

    def refuse(source: Any, target: Any) -> None:
        if Path(target) == tmp_path / "out" and Path(source).name == "out":
            full = (tmp_path / "out").exists()
            raise OSError(errno.ENOTEMPTY if full else errno.EIO, "refused")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(disk, "_exchange", lambda *_: False)  # as on another system
    with pytest.raises(RunError, match="cannot write"):
        write_folder(tmp_path / "out", "two")
    assert held(tmp_path / "out") == {"one"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_that_became_a_folder_is_replaced(tmp_path: Path) -> None:
    produce(tmp_path, "one", ("a", "b/leaf"))
    produce(tmp_path, "two", ("a/leaf", "b"))
    assert (tmp_path / "a" / "leaf").read_text() == (tmp_path / "b").read_text() == "two"
    assert visible(tmp_path) == {"a", "b", STAGE_FILE}


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(RunError, match="was not written by this command"):
        produce(tmp_path)
    assert (tmp_path / "a.txt").read_text() == "mine"
    with overwriting(True):
        assert produce(tmp_path)
    assert (tmp_path / "a.txt").read_text() == "one"
    (tmp_path / "a.txt").write_text("changed by hand")
    with pytest.raises(RunError, match="was not written by"):
        produce(tmp_path, "two")
    assert (tmp_path / "a.txt").read_text() == "changed by hand"


@pytest.mark.parametrize("addition", ["notes.txt", "tree/more", ".git/config"])
def test_a_folder_with_an_addition_stays(addition: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "out", "one")
    (tmp_path / "out" / addition).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / addition).write_text("mine")
    with pytest.raises(RunError, match="already holds"):
        write_folder(tmp_path / "out", "two")
    assert (tmp_path / "out" / addition).read_text() == "mine"
    assert held(tmp_path / "out") == {"one"}


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("place", [".lock", ".partial", ".out.partial"])
def test_what_is_planted_is_not_followed(place: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("precious")
    folder, planted = tmp_path / "work", tmp_path / "work" / place
    folder.mkdir()
    if kind == "link":
        planted.symlink_to(tmp_path / "victim" / ("file" if place == ".lock" else ""))
    elif kind == "pipe":
        os.mkfifo(planted)
    else:
        planted.mkdir()
        (planted / "file").write_text("precious")

    def use() -> None:
        if place == ".out.partial":
            write_folder(folder / "out", "one")
        else:
            produce(folder)

    if (place, kind) == (".partial", "folder"):
        use()  # beside work of ours, other things may lie there
    else:
        with pytest.raises(RunError):
            use()
    assert (tmp_path / "victim" / "file").read_text() == "precious"
    if kind == "folder":
        assert (planted / "file").read_text() == "precious"


def test_a_whole_folder_is_used_without_permission_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce(tmp_path)

    def refuse(*_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(locks, "_locked", refuse)
    assert not produce(tmp_path)
    with pytest.raises(RunError, match="cannot write"):
        produce(tmp_path, "two")


def test_a_stage_whose_journal_is_left_over_is_not_done_until_it_is_opened(tmp_path: Path) -> None:
    with stage(tmp_path, name="s", config={}) as work:
        (work.scratch / "a").write_text("a")
    record = json.loads((tmp_path / "stage.json").read_text())
    (tmp_path / ".moving.json").write_text(json.dumps({**record, "stale": []}))
    assert not is_done(tmp_path, name="s", config={})
    with stage(tmp_path, name="s", config={}) as work:
        assert work.done, "nothing is done twice"
    assert is_done(tmp_path, name="s", config={})
    assert not (tmp_path / ".moving.json").exists()


@pytest.mark.parametrize("way", ["stale", "outputs"])
def test_a_planted_journal_moves_nobody_s_files(way: str, tmp_path: Path) -> None:
    """A journal came with somebody's folder; what its reader keeps there is not its to move."""
    thesis, key = tmp_path / "thesis.tex", "a" * 16
    thesis.write_text("years")
    new = tmp_path / ".partial" / key / "thesis.tex"
    new.parent.mkdir(parents=True)
    new.write_text("planted")
    written = {"thesis.tex": outputs.fingerprints(new)} if way == "outputs" else {}
    journal = {"key": key, "outputs": [*written], "written": written, "stale": []}
    journal |= {"stale": ["thesis.tex"]} if way == "stale" else {}
    (tmp_path / ".moving.json").write_text(json.dumps(journal))
    with pytest.raises(RunError, match=r"thesis\.tex.*was not written by"):
        produce(tmp_path)
    assert thesis.read_text() == "years"


def test_a_journal_s_key_is_no_way_out(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("somebody's")
    folder = tmp_path / "out"
    (folder / ".partial").mkdir(parents=True)
    written = {"a.txt": outputs.fingerprints(other / "a.txt")}
    journal = {"key": "../../other", "outputs": ["a.txt"], "written": written, "stale": []}
    (folder / ".moving.json").write_text(json.dumps(journal))
    produce(folder)
    assert (other / "a.txt").read_text() == "somebody's"
    assert (folder / "a.txt").read_text() == "one"
