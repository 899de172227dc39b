"""Benchmarks run at tiny sizes, unjudged, and say what they lack; formulas agree with models."""

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


def test_the_page_on_scaling_shows_what_the_formulas_give(monkeypatch: pytest.MonkeyPatch) -> None:
    many_gpus = benchmark("many_gpus", monkeypatch)
    page = (BENCHMARKS.parent / "docs" / "scaling.md").read_text()
    for table in many_gpus.tables(many_gpus.Machine()):
        assert table in page


@pytest.mark.parametrize("name", ["BASE", "LARGE"])
def test_shapes_have_the_parameters_and_products_of_the_models(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import HubertConfig, HubertModel

    shape = getattr(benchmark("many_gpus", monkeypatch), name)
    config = HubertConfig(
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.width // 64,
        feat_extract_norm="layer" if shape.normed else "group",
        conv_bias=shape.normed,
        do_stable_layer_norm=shape.normed,
        attn_implementation="eager",
    )
    with torch.device("meta"):
        model = HubertModel(config).eval()
    assert shape.parameters() == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 14 * 16_000, device="meta"))
    assert counter.get_total_flops() / 14e9 == pytest.approx(shape.gflop(14.0), rel=0.01)


def test_results_of_processes_are_compared_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = benchmark("scale", monkeypatch)
    for name, figure in (("one", "1"), ("two", "1"), ("other", "2")):
        (tmp_path / name / "cache").mkdir(parents=True)
        (tmp_path / name / "rows").write_text(figure)
        (tmp_path / name / "cache" / name).write_text(name)  # no result
    one, two, other = (scale.contents(tmp_path / name) for name in ("one", "two", "other"))
    assert scale.differing(one, two) == []
    assert scale.differing(one, other) == ["rows"]
    assert scale.differing(one, {}) == ["rows"]


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
