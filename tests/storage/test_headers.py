"""Whether a file is whole, told by its first bytes and its size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from speechft.storage.headers import is_whole


@pytest.mark.parametrize("name", ["a.safetensors", "a.npy", "a.json"])
def test_what_is_cut_off_is_not_whole(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    assert not is_whole(file)
    if name == "a.safetensors":
        save_file({"x": np.ones(3)}, file)
    elif name == "a.npy":
        np.save(file, np.ones((2, 3), np.float32))
    else:
        file.write_text("{}")
    data = file.read_bytes()
    assert is_whole(file)
    for cut in (data[:-1], data[:20], data + b"\0", b"garbage") if name != "a.json" else ():
        file.write_bytes(cut)
        assert not is_whole(file), cut[:30]
    file.write_bytes(b"")
    assert not is_whole(file)
    file.unlink()
    file.mkdir()
    assert not is_whole(file)
