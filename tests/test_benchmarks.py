"""Benchmarks run at tiny sizes, and say what they lack; figures are not judged."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


@pytest.mark.long
def test_every_part_on_the_device_gives_a_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = benchmark("gpu", monkeypatch)
    given = "--size tiny --device cpu --utterances 2 --steps 2 --rounds 1"
    rows = list(gpu.rows(gpu.arguments([*given.split(), "--parts", "features,probes,sweep"])))
    assert [row[:2] for row in rows] == [
        (part, precision)
        for precision in ("fp32", "bf16")
        for part in ("features", "probes", "sweep")
    ]
    assert all(ratio > 0 for _, _, ratio, _ in rows)


@pytest.mark.long
def test_training_gives_ratios_and_shares_of_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = benchmark("gpu", monkeypatch)
    given = "--size tiny --device cpu --minutes 0.1 --longest 2 --batch 2 --parts training"
    rows = list(gpu.rows(gpu.arguments(given.split())))
    assert [row[:2] for row in rows] == [("training", "fp32"), ("training", "bf16")]
    assert all(ratio > 0 and "MFU" in remark for _, _, ratio, remark in rows)


def test_ours_and_theirs_compute_the_same_features(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch
    from transformers import HubertModel

    gpu = benchmark("gpu", monkeypatch)
    gpu.write_encoders(tmp_path, "tiny")
    cuts = gpu.write_audio(tmp_path, 1)  # alone: transformers' features depend on padding
    cpu = torch.device("cpu")
    model = HubertModel.from_pretrained(tmp_path / "base").eval()
    theirs = gpu.pooled_by_transformers(model, cuts, cpu, "fp32", 48.0)
    ours = gpu.extract(gpu.load_encoder(tmp_path / "base"), cuts, device=cpu, precision="fp32")
    (name,) = theirs
    torch.testing.assert_close(ours.pooled[name], theirs[name], rtol=1e-4, atol=1e-4)


def test_short_files_are_compared_with_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    short_files = benchmark("short_files", monkeypatch)
    rows = short_files.measure(["mfcc"], 15.0, 1)
    assert set(rows) == {"plain", "mfcc"}
    assert all(short > 0 and long > 0 for short, long in rows.values())


def test_mergekit_is_found_or_the_way_to_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merge = benchmark("merge", monkeypatch)
    assert merge.find_mergekit(None) is None
    assert "VENV/bin/pip install --no-deps mergekit" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="mergekit-pytorch is no program"):
        merge.find_mergekit(str(tmp_path))
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "mergekit-pytorch"
    program.write_text("")
    program.chmod(0o755)
    assert merge.find_mergekit(str(tmp_path)) == merge.find_mergekit(str(program)) == str(program)
