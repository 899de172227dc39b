"""Merging in memory again and again: the same weights, encoder and digest as a folder on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import HubertForCTC

import speechft
from speechft.encoders.build import build_encoder, set_weights
from speechft.encoders.load import digest_if_written, digest_of, load_encoder
from speechft.errors import LineageError
from speechft.merging import repeated
from speechft.merging.config import MergeSettings
from speechft.merging.delta import make_delta
from speechft.merging.execution import write_merge
from speechft.merging.repeated import Merger

SETTINGS = (
    MergeSettings(alpha=0.3),
    MergeSettings(alpha=0.0),
    MergeSettings(alpha=1.0, dtype="bfloat16"),
    MergeSettings(alpha=0.7, weight_norm="fused"),
    MergeSettings(alpha=0.5, method="ties", options={"density": 0.5}),
    MergeSettings(alpha=0.2, rules={"layers.0-1": 0.9, "position": "0.4"}),
    MergeSettings(alpha=0.4, method="lines"),
)


def holds(base: Any, tuned: list[Any], settings: Any, tmp_path: Path) -> None:
    """Check that one merger gives what merging to disk gives, with each of the settings in turn."""
    merger = Merger(base, tuned)
    place = build_encoder(merger.merge(SETTINGS[-1]).checkpoint)
    for number, one in enumerate(settings):
        out = tmp_path / f"merged-{number}"
        write_merge(one.of(base, tuned, out))
        merged = merger.merge(one)
        told = merged.checkpoint.config, merged.checkpoint.processor
        assert digest_if_written(merged.weights, *told) == digest_of(out)
        assert set_weights(place, merged.checkpoint)
        there = load_encoder(out)
        for here in (build_encoder(merged.checkpoint), place):
            assert here.normalize == there.normalize
            pairs = zip(here.state_dict().items(), there.state_dict().items(), strict=True)
            assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_folders(base_model: Any, tune: Any, save: Any, tmp_path: Path) -> None:
    base, first, second = (
        save(model, f"model-{n}")
        for n, model in enumerate([base_model, tune(base_model), tune(base_model, seed=3)])
    )
    (base / "preprocessor_config.json").write_text('{"do_normalize": true}')
    for tuned in (first, second):
        shutil.copy(base / "preprocessor_config.json", tuned)
    holds(base, [first, second], SETTINGS, tmp_path)


def test_other_formats(base_model: Any, tune: Any, save: Any, tmp_path: Path) -> None:
    task_model = HubertForCTC(base_model.config)
    task_model.hubert = base_model
    base, tuned = save(task_model, "base", torch.float16, shards=2), save(tune(base_model), "tuned")
    holds(base, [tuned], SETTINGS[:1], tmp_path)
    shutil.rmtree(tmp_path / "merged-0")
    speechft.convert(base, tmp_path / "base.pt", allow_nonfinite=False)
    holds(tmp_path / "base.pt", [tuned], SETTINGS[:2], tmp_path)


def test_deltas(pair: Any, tmp_path: Path) -> None:
    base, tuned = pair
    make_delta(base, tuned, tmp_path / "d.safetensors", dtype="int8")
    holds(base, [tmp_path / "d.safetensors"], SETTINGS[:1], tmp_path)


def test_files_are_read_once(pair: Any) -> None:
    base, tuned = pair
    merger = Merger(base, [tuned])
    before = merger.merge(SETTINGS[0])
    shutil.rmtree(base)
    shutil.rmtree(tuned)
    assert merger.merge(SETTINGS[1]).weights != before.weights
    assert merger.merge(SETTINGS[0]).weights == before.weights


def test_a_merge_that_is_asked_for_again_is_made_once(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    merger, made = Merger(pair[0], [pair[1]]), []
    run = repeated.run
    monkeypatch.setattr(repeated, "run", lambda *a, **k: made.append(1) or run(*a, **k))
    first = merger.digest(SETTINGS[0])
    assert merger.merge(SETTINGS[0]) is merger.merge(MergeSettings(alpha=0.3))
    assert len(made) == 1
    assert merger.digest(SETTINGS[1]) != first
    assert merger.digest(SETTINGS[0]) == first
    assert len(made) == 2  # of an earlier merge the digest is known, its weights are gone
    merger.merge(SETTINGS[0])
    assert len(made) == 3


def test_a_model_with_itself_and_one_of_another_depth_are_refused(
    pair: Any, base_model: Any, save: Any
) -> None:
    base, _ = pair
    same = Merger(base, [shutil.copytree(base, base.parent / "same")])
    with pytest.raises(LineageError, match="equals the base"):
        same.merge(SETTINGS[0])
    for name, change in (("deep", {"num_hidden_layers": 4}), ("wide", {"hidden_size": 32})):
        config = base_model.config.__class__(**{**base_model.config.to_dict(), **change})
        other = save(type(base_model)(config), name)
        with pytest.raises(LineageError, match=f"{other} is not tuned from {base}"):
            Merger(base, [other]).merge(SETTINGS[0])


def test_weights_of_another_shape_are_not_set(pair: Any, base_model: Any, save: Any) -> None:
    config = base_model.config.__class__(**{**base_model.config.to_dict(), "hidden_size": 32})
    other = load_encoder(save(type(base_model)(config), "wide"))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    assert not set_weights(other, Merger(pair[0], [pair[1]]).merge(SETTINGS[0]).checkpoint)
    assert all(torch.equal(before[name], t) for name, t in other.state_dict().items())
