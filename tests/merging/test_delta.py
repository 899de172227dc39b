"""Delta files: exact in float32, a measured error below, bound to their base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from speechft.errors import CheckpointError, ConfigError, LineageError
from speechft.files import encoder_digest, file_digest
from speechft.merging import load_delta, make_delta, merge


def test_float32_delta_gives_the_same_bits(pair: Any, tmp_path: Path) -> None:
    base, tuned = pair
    report = make_delta(base, tuned, tmp_path / "d.safetensors")
    assert report.relative_error == 0
    assert report.base_digest == encoder_digest(base)
    merge(base, tmp_path / "d.safetensors", alpha=0.3, out=tmp_path / "from-delta")
    merge(base, tuned, alpha=0.3, out=tmp_path / "direct")
    one, other = (file_digest(tmp_path / n / "model.safetensors") for n in ("from-delta", "direct"))
    assert one == other


@pytest.mark.parametrize(
    ("dtype", "bound", "share"), [("float16", 5e-4, 0.6), ("int8", 0.02, 0.35)]
)
def test_small_deltas_have_the_error_that_they_state(
    dtype: str, bound: float, share: float, base_model: Any, tune: Any, save: Any, tmp_path: Path
) -> None:
    tuned_model = tune(base_model)
    base, tuned = save(base_model, "base"), save(tuned_model, "tuned")
    path = tmp_path / "d.safetensors"
    report = make_delta(base, tuned, path, dtype=dtype)
    whole = make_delta(base, tuned, tmp_path / "f.safetensors")
    assert 0 < report.relative_error < bound
    assert report.nbytes < share * whole.nbytes
    stored, exact = load_delta(path), load_delta(tmp_path / "f.safetensors")
    error = sum(((stored[n] - exact[n]).double() ** 2).sum() for n in exact)
    norm = sum((exact[n].double() ** 2).sum() for n in exact)
    assert float((error / norm).sqrt()) == pytest.approx(report.relative_error, rel=1e-3)
    largest = max(float((stored[n] - exact[n]).abs().max()) for n in exact)
    assert largest == pytest.approx(report.largest_error, rel=1e-3)
    merged = merge(base_model.state_dict(), path, alpha=1.0)
    for name, value in tuned_model.state_dict().items():
        assert (merged[name] - value).abs().max() <= report.largest_error + 1e-6


def test_delta_belongs_to_its_base(base_model: Any, tune: Any, save: Any, tmp_path: Path) -> None:
    base, tuned = save(base_model, "base"), save(tune(base_model), "tuned")
    make_delta(base, tuned, tmp_path / "d.safetensors")
    near = save(tune(base_model, seed=7, scale=0.01), "near")
    with pytest.raises(LineageError, match="was made for a base with SHA-256"):
        merge(near, tmp_path / "d.safetensors", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(LineageError, match="was made for a base with SHA-256"):
        merge(near, tmp_path / "d.safetensors")
    report = merge(near, tmp_path / "d.safetensors", out=tmp_path / "out", force=True)
    assert any("SHA-256" in line for line in report.forced)


def test_delta_from_s3prl_files_fits_a_hugging_face_base(oracle: Path, tmp_path: Path) -> None:
    tuned = oracle / "hubert_ft1_downstream.ckpt"
    make_delta(oracle / "hubert_base.pt", tuned, tmp_path / "d.safetensors")
    merge(oracle / "hubert_base.pt", tuned, alpha=0, out=tmp_path / "hf")
    merge(tmp_path / "hf", tmp_path / "d.safetensors", out=tmp_path / "a", force=True)
    merge(tmp_path / "hf", tuned, out=tmp_path / "b")
    one, other = (file_digest(tmp_path / n / "model.safetensors") for n in "ab")
    assert one == other


def test_wrong_use_is_refused(pair: Any, tmp_path: Path) -> None:
    base, tuned = pair
    with pytest.raises(ConfigError, match="unknown delta dtype 'int4'"):
        make_delta(base, tuned, tmp_path / "d.safetensors", dtype="int4")
    with pytest.raises(LineageError, match="equals the base"):
        make_delta(base, base, tmp_path / "d.safetensors")
    with pytest.raises(CheckpointError, match="is not a delta file"):
        load_delta(base / "model.safetensors")
    make_delta(base, tuned, tmp_path / "d.safetensors")
    with pytest.raises(CheckpointError, match="is a delta file, not a base"):
        merge(tmp_path / "d.safetensors", tuned, out=tmp_path / "out")


def test_torch_can_open_it(pair: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    base, tuned = pair
    make_delta(base, tuned, tmp_path / "d.safetensors", dtype="int8")
    held = load_file(tmp_path / "d.safetensors")
    assert held["encoder.layers.0.attention.k_proj.weight"].dtype == torch.int8
    assert held["encoder.layers.0.attention.k_proj.weight::scale"].shape == (16,)
