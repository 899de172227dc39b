"""Files of weights: atomic writing, digests, and safetensors headers."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from speechft.errors import CheckpointError, RunError
from speechft.storage.files import (
    atomic_write,
    encoder_digest,
    file_digest,
    json_digest,
    list_digest,
    read_json,
    weight_files,
    write_json,
    write_packed,
)
from speechft.storage.headers import read_header


def test_header_places_every_tensor(tmp_path: Path) -> None:
    state = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float16)}
    path = tmp_path / "x.safetensors"
    save_file(state, path, metadata={"format": "np"})
    entries, metadata = read_header(path)
    assert metadata == {"format": "np"}
    data = path.read_bytes()
    for name, array in state.items():
        entry = entries[name]
        assert entry.shape == array.shape
        held = np.frombuffer(data[entry.start : entry.start + entry.nbytes], array.dtype)
        assert np.array_equal(held.reshape(array.shape), array)


def raw_file(path: Path, header: object, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_damaged_headers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    item = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    read_header(raw_file(path, {"a": item}, bytes(8)))
    for content in (b"", b"abc", struct.pack("<Q", 10**15) + b"{}", b"PK\x03\x04" + bytes(40)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a complete safetensors file"):
            read_header(path)
    with pytest.raises(CheckpointError, match="reaches past the end"):
        read_header(raw_file(path, {"a": item}, bytes(7)))
    with pytest.raises(CheckpointError, match="does not exist"):
        read_header(tmp_path / "nowhere")


def test_atomic_write_keeps_the_old_file_on_an_error(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        interrupted()
    assert path.read_text() == "old"
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    (tmp_path / ".g.old").mkdir()  # somebody's
    (tmp_path / "folder" / "content").mkdir(parents=True)
    with atomic_write(tmp_path / "g"):
        pass
    with pytest.raises(RunError, match="cannot write"), atomic_write(tmp_path / "folder"):
        pass
    assert sorted(p.name for p in tmp_path.rglob("*")) == [".g.old", "content", "f", "folder", "g"]
    with pytest.raises(RunError, match="cannot write"), atomic_write(path / "below" / "a file"):
        pass


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert file_digest(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()
    assert json_digest({"a": 1, "b": [2]}) == json_digest({"b": [2], "a": 1})
    assert json_digest({"a": 1}) != json_digest({"a": 2})
    for items in ([], [1], [{"b": 1, "a": "é"}, ["x", 2, None]]):
        assert list_digest(iter(items)) == json_digest(items)


def test_what_is_packed_holds_neither_time_nor_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [{"id": "é"}, [1, None]]
    write_packed(tmp_path / "a.jsonl.gz", items)
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_packed(tmp_path / "b.jsonl.gz", iter(items))
    data = (tmp_path / "a.jsonl.gz").read_bytes()
    assert (tmp_path / "b.jsonl.gz").read_bytes() == data
    assert gzip.decompress(data).decode() == '{"id": "é"}\n[1, null]\n'


def test_encoder_digest_covers_weights_and_configuration(tmp_path: Path) -> None:
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", {"x": 1})
    first = encoder_digest(tmp_path)
    write_json(tmp_path / "config.json", {"x": 2})
    second = encoder_digest(tmp_path)
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    assert len({first, second, encoder_digest(tmp_path)}) == 3


def test_weight_files_whole_sharded_or_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        weight_files(tmp_path)
    index = {"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors"}}
    write_json(tmp_path / "model.safetensors.index.json", index)
    assert [p.name for p in weight_files(tmp_path)] == [
        "model-1.safetensors",
        "model-2.safetensors",
    ]
    assert read_json(tmp_path / "model.safetensors.index.json") == index
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        read_json(tmp_path / "bad.json")
