"""Delta files: exact in float32, a measured error below, bound to their base."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import HubertModel

from speechft import cli
from speechft.encoders.build import torch_tensors
from speechft.encoders.opening import open_encoder
from speechft.errors import CheckpointError, ConfigError, LineageError, RunError
from speechft.merging import load_delta, make_delta, merge
from speechft.merging.low_rank import LowRankReport, low_rank
from speechft.storage.files import encoder_digest, file_digest


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


def _by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    whole: Any = PeftModel.from_pretrained(HubertModel.from_pretrained(base), adapter)
    state: dict[str, torch.Tensor] = whole.merge_and_unload().state_dict()
    return state


peft_asks = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


@peft_asks
@pytest.mark.parametrize("rank", [1, 3, 200])
def test_low_rank_is_the_truncated_svd_of_every_matrix(
    rank: int, pair: Any, tmp_path: Path, read: Any
) -> None:
    base, tuned = pair
    out = tmp_path / "lora"
    report = make_delta(base, tuned, out, rank=rank)
    assert isinstance(report, LowRankReport)
    before, after, found = read(base), read(tuned), _by_peft(base, out)
    lost, whole, shares = 0.0, 0.0, 0.0
    total = sum(float((after[n] - before[n]).double().square().sum()) for n in before)
    for name, weight in before.items():
        delta = (after[name] - weight).double()
        module = name.removesuffix(".weight")
        if module not in report.matrices:
            assert torch.equal(found[name], weight)
            shares += float(delta.square().sum()) / total
            continue
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        best = u[:, :rank] * s[:rank] @ v[:rank]
        assert torch.allclose(found[name].double(), weight + best, rtol=0, atol=3e-7), name
        error = float(s[rank:].square().sum().sqrt() / s.square().sum().sqrt())
        assert report.matrices[module] == pytest.approx(error, abs=1e-6)
        lost, whole = lost + float(s[rank:].square().sum()), whole + float(s.square().sum())
    assert len(report.matrices) == 3 * 6 + 1  # the projection of the CNN's features is one
    assert report.relative_error == pytest.approx((lost / whole) ** 0.5, abs=1e-6)
    assert sum(report.left_out.values()) == pytest.approx(shares, rel=1e-4)
    assert list(report.layers) == ["0", "1", "2", "outside"]
    if rank == 200:
        assert report.rank == 16  # of the largest matrix
        assert report.relative_error < 1e-6
    opened = open_encoder(f"{base}+{out}").by_name()
    ours = torch_tensors(opened)
    assert all(torch.allclose(ours[n], found[n], rtol=0, atol=2e-7) for n in found)
    with pytest.raises(CheckpointError, match="was made for other weights"):
        open_encoder(f"{tuned}+{out}")


def test_low_rank_of_an_exact_lora_is_that_lora(
    base_model: Any, save: Any, tmp_path: Path, read: Any
) -> None:
    tuned_model = copy.deepcopy(base_model)
    layer = tuned_model.encoder.layers[1].feed_forward.output_dense
    generator = torch.Generator().manual_seed(0)
    up, down = (torch.randn(shape, generator=generator) for shape in ((16, 2), (2, 32)))
    with torch.no_grad():
        layer.weight += 0.005 * up @ down
    base, tuned = save(base_model, "base"), save(tuned_model, "tuned")
    report = make_delta(base, tuned, tmp_path / "lora", rank=2)
    assert isinstance(report, LowRankReport)
    assert list(report.matrices) == ["encoder.layers.1.feed_forward.output_dense"]
    assert report.relative_error < 1e-5
    assert not report.left_out
    merge(base, tmp_path / "lora", alpha=1, out=tmp_path / "merged")
    merged, expected = read(tmp_path / "merged"), read(tuned)
    assert all(torch.allclose(merged[n], expected[n], atol=1e-6) for n in expected)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_low_rank_of_a_matrix(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    for rank in (1, 3, 8):
        up, down = low_rank(matrix, rank)
        assert up.shape == (shape[0], rank)
        assert down.shape == (rank, shape[1])
        assert np.allclose(up @ down, left[:, :rank] * values[:rank] @ right[:rank], atol=1e-12)
        norms = np.linalg.norm(up, axis=0), np.linalg.norm(down, axis=1)
        assert np.allclose(*norms)  # neither side has all of the scale


def test_wrong_use_of_a_rank_is_refused(
    pair: Any, base_model: Any, save: Any, tmp_path: Path
) -> None:
    base, tuned = pair
    for rank in (0, -3):
        with pytest.raises(ConfigError, match=f"rank {rank} is none"):
            make_delta(base, tuned, tmp_path / "lora", rank=rank)
    with pytest.raises(ConfigError, match="a folder is written, in float32"):
        make_delta(base, tuned, tmp_path / "lora", rank=2, dtype="int8")
    with pytest.raises(ConfigError, match="a folder is written"):
        make_delta(base, tuned, tmp_path / "lora.safetensors", rank=2)
    moved = copy.deepcopy(base_model)
    with torch.no_grad():
        moved.encoder.layer_norm.bias += 0.1
    with pytest.raises(ConfigError, match="no linear layer changed"):
        make_delta(base, save(moved, "moved"), tmp_path / "lora", rank=2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="was not written by"):
        make_delta(base, tuned, tmp_path / "full", rank=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "full", "moved", "tuned"]


def test_rank_on_the_command_line(
    pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned = pair
    words = ["delta", str(base), str(tuned), "--rank", "2", "--out", str(tmp_path / "lora")]
    cli.app(words, standalone_mode=False)
    told = capsys.readouterr().out
    assert "LoRA of rank 2 on 19 matrices" in told
    assert "by layer: " in told
    assert "left as in the base" in told
    assert str(tmp_path) not in (tmp_path / "lora" / "delta.json").read_text()
    cli.app([*words, "--json"], standalone_mode=False)  # what is ours is replaced
    found = json.loads(capsys.readouterr().out)
    assert len(found["matrices"]) == 19
    assert 0 < found["relative_error"] < 1
