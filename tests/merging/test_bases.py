"""Which base was it? Candidates below a folder, by the lineage check of merging."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import HubertModel

import speechft
from speechft import cli
from speechft.errors import CheckpointError
from speechft.merging import compare
from speechft.merging.bases import rank_bases

Save = Callable[..., Path]


def other_of(model: Any, seed: int) -> HubertModel:
    torch.manual_seed(seed)
    return HubertModel(model.config)


def test_the_base_is_found_among_strangers_and_siblings(
    base_model: Any, wavlm_model: Any, tune: Any, save: Save, tmp_path: Path
) -> None:
    (tmp_path / "bases").mkdir()
    base = save(base_model, "bases/base")
    save(other_of(base_model, 5), "bases/stranger")
    save(wavlm_model, "bases/wavlm")
    sibling = save(tune(base_model, seed=2), "bases/sibling")
    tuned = save(tune(base_model), "bases/tuned")
    found = rank_bases(tuned, tmp_path / "bases")
    assert [Path(c.path).name for c in found.candidates] == [
        "base",
        "sibling",
        "stranger",
        "wavlm",
    ]
    assert found.convincing
    assert found.candidates[0].score == compare(base, tuned).score
    assert f"{base} is the base of {tuned}, convincingly" in found.said
    assert f"{sibling} (" in found.said
    assert "does not look tuned from" in str(found.candidates[2].problem)
    assert found.next == [f"speechft merge {base} {tuned} --alpha 0.25 --out merged"]


def test_files_copies_and_what_cannot_be_told(
    base_model: Any, tune: Any, save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bases").mkdir()
    tuned = save(tune(base_model), "tuned")
    torch.save(base_model.state_dict(), tmp_path / "bases" / "one.pt")
    torch.save({"optimizer": {}}, tmp_path / "bases" / "optimizer.pt")
    torch.save(tune(base_model).state_dict(), tmp_path / "bases" / "copy.pt")
    cli.app(["inspect", str(tuned), "--bases", str(tmp_path / "bases")], standalone_mode=False)
    told = capsys.readouterr().out
    assert "one.pt is the base of" in told
    assert "copy.pt: " in told
    assert "equals the base" in told
    assert "optimizer.pt: " in told
    torch.save(base_model.state_dict(), tmp_path / "bases" / "two.pt")
    found: Any = speechft.inspect(tuned, bases=tmp_path / "bases")
    assert not found.convincing
    assert found.said.startswith("not convincing: ")
    assert json.loads(json.dumps(found.as_dict()))["convincing"] is False


def test_none_is_said_and_nowhere_is_refused(
    base_model: Any, tune: Any, save: Save, tmp_path: Path
) -> None:
    (tmp_path / "bases").mkdir()
    tuned = save(tune(base_model), "tuned")
    with pytest.raises(CheckpointError, match="there is no encoder below"):
        rank_bases(tuned, tmp_path / "bases")
    with pytest.raises(CheckpointError, match="is no folder"):
        rank_bases(tuned, tmp_path / "gone")
    save(other_of(base_model, 5), "bases/stranger")
    found = rank_bases(tuned, tmp_path / "bases")
    assert (found.convincing, found.next) == (False, [])
    assert "none of 1 is the base" in found.said
