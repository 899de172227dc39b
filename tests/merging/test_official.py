"""Bit-equality with the official code's results, from its own file formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from oracle_data import cases
from speechft.merging import merge

FAMILIES = ["hubert", "wav2vec2", "wavlm_base_plus", "decoar2"]
RESULTS = [
    tuple(Path(path).stem.split("_merged_ft1_a"))
    for path in cases("merge/*_merged_ft1_a*.safetensors")
]
"""Family and alpha of every official merge of one tuned model."""
WEIGHTS = {"hubert": "model_weight", "wav2vec2": "model_weight"}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32)


def load_base(oracle: Path, family: str) -> dict[str, Any]:
    return torch.load(oracle / f"{family}_base.pt", weights_only=True)


def merged_hubert(oracle: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Return alpha and weights of an official merge of HuBERT."""
    alpha = next(alpha for family, alpha in RESULTS if family == "hubert")
    return float(alpha), load_file(oracle / f"hubert_merged_ft1_a{alpha}.safetensors")


@pytest.mark.parametrize(("family", "alpha"), RESULTS)
def test_from_s3prl_files_to_an_s3prl_file(
    family: str, alpha: str, oracle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged.pt"
    tuned = oracle / f"{family}_ft1_downstream.ckpt"
    report = merge(oracle / f"{family}_base.pt", tuned, alpha=float(alpha), out=out)
    expected = load_file(oracle / f"{family}_merged_ft1_a{alpha}.safetensors")
    written = torch.load(out, weights_only=True)
    base = load_base(oracle, family)
    key = WEIGHTS.get(family, "model")
    assert list(written) == list(base) or set(written) == set(base)
    assert list(written[key]) == list(base[key])
    for name, value in expected.items():
        assert torch.equal(bits(written[key][name]), bits(value)), name
    rest = {k: v for k, v in base.items() if k != key}
    if "task_cfg" in rest:  # the folder of its data, on the machine that it was trained on
        rest["task_cfg"] = {**rest["task_cfg"], "data": Path(rest["task_cfg"]["data"]).name}
    assert {k: v for k, v in written.items() if k != key} == rest
    assert report.merged + len(report.kept) == len(expected)


@pytest.mark.parametrize(
    ("family", "kept"),
    [
        ("hubert", {"final_proj.weight", "final_proj.bias", "label_embs_concat"}),
        ("wav2vec2", {"final_proj.weight", "final_proj.bias"}),
        ("wavlm_base_plus", set()),
        ("decoar2", set()),
    ],
)
def test_kept_from_base_are_exactly_the_official_ones(
    family: str, kept: set[str], oracle: Path, tmp_path: Path
) -> None:
    tuned = oracle / f"{family}_ft1_downstream.ckpt"
    report = merge(oracle / f"{family}_base.pt", tuned, out=tmp_path / f"{family}.pt")
    assert set(report.kept) == kept


@pytest.mark.parametrize("alpha", [0.1, 0.7])
def test_two_tuned_models_average_their_task_vectors(
    alpha: float, oracle: Path, tmp_path: Path, official_formula: Any
) -> None:
    base = load_base(oracle, "hubert")["model_weight"]
    first = torch.load(oracle / "hubert_ft1_downstream.ckpt", weights_only=False)["Upstream"]
    generator = torch.Generator().manual_seed(5)
    second = {
        n: w + 0.1 * w.abs().mean() * torch.randn(w.shape, generator=generator)
        for n, w in first.items()
    }
    third = {n: 1.01 * w for n, w in first.items()}
    plain = [{n.removeprefix("model."): w for n, w in m.items()} for m in (first, second, third)]
    merged = merge(base, [first, second, third], alpha=alpha)
    expected = official_formula(base, plain, alpha)
    assert list(merged) == list(base)
    for name, value in merged.items():
        kept = name.startswith(("final_proj", "label_embs_concat"))
        assert torch.equal(bits(value), bits(base[name] if kept else expected[name])), name


def test_state_dicts_give_the_same_as_files(oracle: Path) -> None:
    base = load_base(oracle, "hubert")["model_weight"]
    tuned = torch.load(oracle / "hubert_ft1_downstream.ckpt", weights_only=False)["Upstream"]
    alpha, expected = merged_hubert(oracle)
    merged = merge(base, tuned, alpha=alpha)
    assert all(torch.equal(bits(merged[n]), bits(v)) for n, v in expected.items())


@pytest.mark.parametrize(
    ("family", "alpha"), [result for result in RESULTS if result[0] != "decoar2"]
)
def test_to_hugging_face_loads_whole_and_has_the_same_weights(
    family: str, alpha: str, oracle: Path, tmp_path: Path
) -> None:
    import json

    from transformers import AutoModel

    out = tmp_path / "merged"
    tuned = oracle / f"{family}_ft1_downstream.ckpt"
    report = merge(oracle / f"{family}_base.pt", tuned, alpha=float(alpha), out=out)
    model, loading = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    keys = json.loads((oracle / f"{family}_keymap_s3prl_to_hf.json").read_text())
    expected = load_file(oracle / f"{family}_merged_ft1_a{alpha}.safetensors")
    state = model.state_dict()
    for name, value in expected.items():
        if keys[name] is None:
            assert name in report.left_out
        else:
            assert torch.equal(bits(state[keys[name]]), bits(value)), name
    assert set(state) == {new for new in keys.values() if new}


def test_hugging_face_base_with_an_s3prl_tuned_model_and_back(oracle: Path, tmp_path: Path) -> None:
    """Base and tuned may come in different formats; names meet in the middle."""
    tuned = oracle / "hubert_ft1_downstream.ckpt"
    merge(oracle / "hubert_base.pt", tuned, alpha=0, out=tmp_path / "hf")
    alpha, expected = merged_hubert(oracle)
    merge(tmp_path / "hf", tuned, alpha=alpha, out=tmp_path / "back.pt")
    written = torch.load(tmp_path / "back.pt", weights_only=True)
    for name, value in written["model_weight"].items():
        if not name.startswith(("final_proj", "label_embs_concat")):
            assert torch.equal(bits(value), bits(expected[name])), name
    assert set(written["model_weight"]) == set(expected)
    original = load_base(oracle, "hubert")
    for field in ("extractor_mode", "layer_norm_first", "encoder_layers", "conv_pos"):
        assert written["model_cfg"][field] == original["model_cfg"][field]


@pytest.mark.parametrize("alpha", [alpha for family, alpha in RESULTS if family == "decoar2"])
def test_decoar2_goes_through_a_folder_and_back(alpha: str, oracle: Path, tmp_path: Path) -> None:
    tuned = oracle / "decoar2_ft1_downstream.ckpt"
    merge(oracle / "decoar2_base.pt", tuned, alpha=0, out=tmp_path / "hf")
    merge(tmp_path / "hf", tuned, alpha=float(alpha), out=tmp_path / "back.pt")
    written = torch.load(tmp_path / "back.pt", weights_only=True)["model"]
    expected = load_file(oracle / f"decoar2_merged_ft1_a{alpha}.safetensors")
    assert written.keys() == expected.keys()
    assert all(torch.equal(bits(written[n]), bits(v)) for n, v in expected.items())


def test_plan_says_what_happens_to_every_tensor(oracle: Path, tmp_path: Path) -> None:
    tuned = oracle / "hubert_ft1_downstream.ckpt"
    rules = ["layers.0: 0.1"]
    out = tmp_path / "x.pt"
    report = merge(oracle / "hubert_base.pt", tuned, 0.25, out, rules=rules, dry_run=True)
    rows = {name: (shape, types, action) for name, shape, types, action in report.plan}
    size = len(load_base(oracle, "hubert")["model_weight"]["mask_emb"])
    assert rows["mask_emb"] == (str(size), "F32 + F32 -> F32", "merge, alpha 0.25")
    assert rows["encoder.layers.0.fc1.bias"][2] == "merge, alpha 0.1"
    assert rows["final_proj.bias"][2].startswith("keep: pre-training head")
    folder = merge(oracle / "hubert_base.pt", tuned, out=tmp_path / "x", dry_run=True)
    rows = {name: (shape, types, action) for name, shape, types, action in folder.plan}
    assert rows["masked_spec_embed"][2] == "merge, alpha 0.25"
    assert rows["final_proj.bias"][2] == "left out: no place in the output"
    assert any(name.startswith("model.final_proj") for name in rows) is False
    assert not list(tmp_path.iterdir())
