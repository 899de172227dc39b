"""What status says: who is at work, what is left, what is complete, and what is none of ours."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from speechft import cli
from speechft.errors import RunError
from speechft.finetuning.state import save_checkpoint
from speechft.parallel.claims import Workers
from speechft.prediction.journal import journal
from speechft.progress import RECIPE_NAME, RUN_NAME, complete, status
from speechft.runs import stage
from speechft.storage.locks import LOCK_NAME, is_held, lock
from speechft.storage.outputs import publish, put_text

Say = Callable[..., str]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Return what ``speechft status`` prints of a folder."""

    def said(folder: Path, *words: str) -> str:
        monkeypatch.setattr("sys.argv", ["speechft", "status", str(folder), *words])
        with contextlib.suppress(SystemExit):
            cli.main()
        captured = capsys.readouterr()
        return captured.out + captured.err

    return said


class Killed(BaseException):
    """Ends work in the middle, as a signal does."""


def states(folder: Path) -> dict[str, tuple[str, int | None]]:
    return {seen.name: (seen.state, seen.step) for seen in status(folder)}


def test_shared_work_is_done_running_failed_and_left(tmp_path: Path, say: Say) -> None:
    names = ["a", "b", "c", "d"]
    with Workers(tmp_path, "evaluate", names) as workers:
        first, second, third = (workers.claim(name) for name in "abc")
        assert first is not None
        assert second is not None
        assert third is not None
        first.end("done")
        second.end("failed", kind="DataError", why="no audio", hint=None)
        found = json.loads(say(tmp_path, "--json"))
        assert [unit["state"] for unit in found["units"]] == ["done", "failed", "running", "free"]
        assert found["units"][2]["pid"] == os.getpid()
        text = say(tmp_path)
        assert "no audio" in text
        assert f"process {os.getpid()}" in text
        assert "1 done, 1 failed, 1 running, 1 free" in text
        third.end("left")
    assert [seen.state for seen in status(tmp_path)] == ["done", "failed", "left", "free"]


def test_a_stage_is_running_then_left_then_complete(tmp_path: Path, say: Say) -> None:
    out = tmp_path / "out"
    with (
        contextlib.suppress(Killed),
        stage(out, name="finetune", config={}, outputs=("encoder",)) as work,
    ):
        assert states(out) == {".": ("running", None)}
        save_checkpoint(work.scratch / ".checkpoints", 25, {})
        save_checkpoint(work.scratch / ".checkpoints", 50, {})
        assert states(out) == {".": ("running", 50)}
        told = say(out)
        assert "running" in told
        assert "step 50" in told
        assert "no process" not in told
        raise Killed
    assert states(out) == {".": ("left", 50)}
    told = say(out)
    assert "step 50" in told
    assert "no process is at work; the command that began it, given again, does what" in told
    with stage(out, name="finetune", config={}) as work:
        (work.scratch / "encoder").write_text("")
    assert status(out) == []
    assert complete(out) == {".": "finetune"}
    told = say(out)
    assert "nothing is left" in told
    assert "complete: finetune\n" in told
    found = json.loads(say(out, "--json"))
    assert (found["units"], found["complete"]) == ([], {".": "finetune"})


def test_stages_below_a_run(tmp_path: Path, say: Say) -> None:
    """A run holds its folder all the time, and each stage its own while it lasts."""
    with lock(tmp_path):
        put_text(tmp_path / RECIPE_NAME, "{}")
        with stage(tmp_path / "corpus", name="corpus", config={}) as work:
            (work.scratch / "corpus.json").write_text("")
        assert states(tmp_path) == {".": ("running", None)}, "between two stages"
        tuned = tmp_path / "finetuning" / "stable" / "1-asr"
        with contextlib.suppress(Killed), stage(tuned, name="finetune", config={}) as work:
            save_checkpoint(work.scratch / ".checkpoints", 7, {})
            assert states(tmp_path) == {"finetuning/stable/1-asr": ("running", 7)}
            raise Killed
    assert states(tmp_path) == {"finetuning/stable/1-asr": ("left", 7)}
    with stage(tuned, name="finetune", config={}) as work:
        (work.scratch / "encoder").write_text("")
    assert states(tmp_path) == {".": ("left", None)}, "killed between two stages"
    put_text(tmp_path / RUN_NAME, "{}")
    assert states(tmp_path) == {}
    assert complete(tmp_path) == {"corpus": "corpus", "finetuning/stable/1-asr": "finetune"}
    assert "complete: corpus, finetune\n" in say(tmp_path)


def test_a_publication_that_was_stopped_is_left(tmp_path: Path) -> None:
    with stage(tmp_path, name="finetune", config={}) as work:
        (work.scratch / "encoder").write_text("")
    (tmp_path / "stage.json").rename(tmp_path / ".moving.json")
    assert states(tmp_path) == {".": ("left", None)}


def test_what_is_written_beside_its_place(tmp_path: Path, say: Say) -> None:
    """Merges, exports, conversions and predictions are not at their place before they are whole."""
    out, answers = tmp_path / "merged", tmp_path / "answers.jsonl"
    with publish(out) as hidden:
        assert states(out) == {".": ("running", None)}
        assert states(tmp_path) == {"merged": ("running", None)}
        hidden.mkdir()
        (hidden / "merge.json").write_text("{}")
    assert states(out) == {}
    told = say(out)
    assert f"complete: merge.json; what it is: speechft inspect {out}" in told
    with contextlib.suppress(Killed), journal(answers, {}) as lines:
        lines.add({"a": (0, {})})
        assert states(answers) == {".": ("running", None)}
        raise Killed
    assert states(answers) == {".": ("left", None)}
    assert states(tmp_path) == {"answers.jsonl": ("left", None)}


def test_a_folder_that_is_none_of_ours(tmp_path: Path, say: Say) -> None:
    (tmp_path / "a.wav").write_text("")
    with pytest.raises(RunError, match="holds nothing that speechft wrote"):
        status(tmp_path)
    told = say(tmp_path)
    assert "nothing that speechft wrote" in told
    assert "give the --out" in told
    with pytest.raises(RunError, match="no folder"):
        status(tmp_path / "none")
    (tmp_path / "extract.json").write_text("{}")
    assert f"results: {tmp_path / 'extract.json'}" in say(tmp_path)


def test_who_asks_keeps_nobody_out(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    assert not (tmp_path / LOCK_NAME).exists(), "asking writes nothing"
    with lock(tmp_path):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)
    asking = os.open(tmp_path / LOCK_NAME, os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)  # the moment in which another process asks
    ends = threading.Thread(target=lambda: (time.sleep(0.05), os.close(asking)))
    ends.start()
    with lock(tmp_path):
        ends.join()


def test_a_lock_that_cannot_be_asked_is_not_taken_for_free(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).symlink_to("elsewhere")
    with pytest.raises(RunError, match="cannot be told"):
        status(tmp_path)
