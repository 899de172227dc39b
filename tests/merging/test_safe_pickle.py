"""Pickles: settings objects of other tools become inert, everything else is refused unexecuted."""

from __future__ import annotations

import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from speechft.encoders.conversion.checkpoints import open_checkpoint
from speechft.encoders.conversion.safe_pickle import INERT_CLASSES, Inert, load_pickle, plain
from speechft.errors import CheckpointError


def foreign_class(name: str, monkeypatch: pytest.MonkeyPatch) -> type:
    """Make a class under a module that is not installed here, as the writing tool has it."""
    module_name, _, class_name = name.rpartition(".")
    parts = module_name.split(".")
    for end in range(1, len(parts) + 1):
        parent = ".".join(parts[:end])
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    kind = type(class_name, (), {"__module__": module_name})
    setattr(sys.modules[module_name], class_name, kind)
    return kind


@pytest.mark.parametrize(
    "name",
    [
        "fairseq.data.dictionary.Dictionary",
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.nodes.AnyNode",
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    ],
)
def test_classes_of_other_tools_are_read_as_inert(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = foreign_class(name, monkeypatch)
    value = kind()
    value.symbols = ["a", "b"]
    torch.save({"model": {"w": torch.ones(2)}, "task_state": value}, tmp_path / "x.pt")
    monkeypatch.delitem(sys.modules, name.rpartition(".")[0])
    loaded = load_pickle(tmp_path / "x.pt")
    assert type(loaded["task_state"]) is Inert
    assert loaded["task_state"].symbols == ["a", "b"]
    assert torch.equal(loaded["model"]["w"], torch.ones(2))


def test_namespace_and_default_dict(tmp_path: Path) -> None:
    import argparse
    import collections

    counts: Any = collections.defaultdict(int)
    counts["a"] += 1
    torch.save(
        {"Args": argparse.Namespace(lr=0.1, model={"a": [1]}), "n": counts}, tmp_path / "x.pt"
    )
    loaded = load_pickle(tmp_path / "x.pt")
    assert plain(loaded["Args"]) == {"lr": 0.1, "model": {"a": [1]}}
    assert loaded["n"] == {"a": 1}


def test_omegaconf_content_is_opened() -> None:
    node, config = Inert(), Inert()
    node.__setstate__({"_val": 768, "_parent": None})
    config.__setstate__({"_content": {"encoder_embed_dim": node}, "_metadata": Inert()})
    assert plain({"model": config}) == {"model": {"encoder_embed_dim": 768}}


class Malicious:
    """Creates a file when it is unpickled by an ordinary loader."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.marker,))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_runs_nothing(legacy: bool, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / "evil.pt"
    content = {"model_weight": {"w": torch.ones(1)}, "task_cfg": Malicious(str(marker))}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert "mkdir" in str(caught.value) or "posix" in str(caught.value)
    assert not marker.exists()
    if not legacy:
        torch.load(path, weights_only=False)
        assert marker.exists()  # the file was armed


def test_a_bare_malicious_pickle_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    (tmp_path / "evil.bin").write_bytes(pickle.dumps(Malicious(str(marker))))
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "evil.bin")
    assert not marker.exists()


def test_the_list_holds_no_name_that_could_act() -> None:
    """Stand-ins replace the named object, so even 'builtins.dict' gives an Inert."""
    assert all(not name.startswith(("os.", "sys.", "subprocess.")) for name in INERT_CLASSES)
    assert vars(Inert("rm", state=1)) == {"arguments": ("rm",), "state": 1}
