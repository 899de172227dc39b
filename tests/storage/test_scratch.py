"""Files without a name: what is put in comes back, here, in children and elsewhere."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from speechft.errors import RunError
from speechft.storage import scratch
from speechft.storage.scratch import (
    Bytes,
    Column,
    Names,
    Rows,
    free_bytes,
    scratch_folder,
    scratch_in,
)


@pytest.fixture(params=[1 << 18, 50])
def pending(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Once all stays in memory, once nearly nothing."""
    monkeypatch.setattr(scratch, "_PENDING", request.param)
    return int(request.param)


def test_rows_come_back_while_more_are_added(pending: int) -> None:
    rng, rows, known = random.Random(0), Rows(), list[bytes]()
    for number in range(500):
        known.append(rng.randbytes(rng.randrange(80)))
        assert rows.add(known[-1]) == number
        chosen = rng.randrange(len(known))
        assert rows[chosen] == known[chosen]
    assert [bytes(row) for row in rows] == known


@pytest.mark.parametrize("kind", ["<i2", "<i4", "<i8", "<f8"])
def test_columns_are_arrays(kind: str, pending: int) -> None:
    column, known = Column(kind), list[float]()
    for number in range(300):
        column.add(3 * number)
        known.append(3 * number)
        assert column[number // 2] == known[number // 2]
        if number % 50 == 0:
            column.extend(np.arange(4))
            known += range(4)
            assert column.values().tolist() == known
    assert len(column) == len(known)
    assert column.values().tolist() == known


def test_names_are_numbered_as_they_come(pending: int) -> None:
    rng, names, known = random.Random(1), Names(), dict[str, int]()
    for _ in range(3_000):
        text = f"é{rng.randrange(2_000)}"
        assert names.add(text) == known.setdefault(text, len(known))
    assert list(names) == list(known)
    for number in range(2_100):
        assert names.number(f"é{number}") == known.get(f"é{number}")
        assert (f"é{number}" in names) == (f"é{number}" in known)
    assert 7 not in names
    assert names.name(3) == list(known)[3]


def test_equal_hashes_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_hash", lambda data: len(data))
    names = Names(["aa", "bb", "cc", "aa"])
    assert [names.number(text) for text in ("aa", "bb", "cc", "dd")] == [0, 1, 2, None]


def test_another_process_reads_what_was_there(pending: int) -> None:
    rows, column = Rows(), Column()
    for number in range(50):
        rows.add(b"x" * number)
        column.add(number)
    copies = pickle.loads(pickle.dumps((rows, column)))
    rows.add(b"more")
    assert [len(row) for row in copies[0]] == copies[1].values().tolist() == list(range(50))
    child = os.fork()
    if child == 0:
        good = [len(row) for row in rows] == [*range(50), 4] and column[49] == 49
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert rows[50] == b"more"


def test_a_file_lies_where_it_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with scratch_in(tmp_path / "not" / "there"):
        assert scratch_folder() == tmp_path
        assert free_bytes() > 0
        held = Bytes()
        held.add(b"x" * (1 << 19))
        opened = {os.readlink(f"/proc/self/fd/{name}") for name in _descriptors()}
        assert any(place.startswith(str(tmp_path)) for place in opened)
    assert list(tmp_path.iterdir()) == []
    assert scratch_folder() != tmp_path


def _descriptors() -> list[str]:
    return [n for n in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{n}")]


def test_a_full_disk_is_told_with_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunError, match="does not take what does not fit into memory: No space"):
        Bytes().add(b"x" * (1 << 19))


def test_what_lies_half_on_the_disk_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_PENDING", 20)
    column, rows = scratch.Column(), scratch.Rows()
    for number in range(50):
        column.add(number)
        rows.add(b"x" * number)
        assert [column.pair(n) for n in range(number)] == [(n, n + 1) for n in range(number)]
        assert [len(row) for row in rows] == list(range(number + 1))


def test_rows_of_one_size_are_a_matrix_and_others_are_none() -> None:
    rows = scratch.Rows()
    assert rows.matrix("<i2") is None
    for number in range(3):
        rows.add(np.array([number, 7], "<i2").tobytes())
    found = rows.matrix("<i2")
    assert found is not None
    assert found.tolist() == [[0, 7], [1, 7], [2, 7]]
    rows.add(b"another")
    assert rows.matrix("<i2") is None
