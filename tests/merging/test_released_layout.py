"""A file as the official merge writes it, `merged_model.pt`: it loads, converts and evaluates.

The released weights cannot be had here; files of their layout are written anew from the recorded
tiny bases (`task_cfg`, `model_cfg`, `model_weight`, ... for HuBERT and wav2vec 2.0, `cfg` and
`model` for WavLM, `model` for DeCoAR 2.0).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import speechft
from speechft.data.manifest import Corpus
from speechft.evaluation.config import EvaluationConfig, ProbeConfig
from speechft.evaluation.encoders import evaluate
from speechft.evaluation.predictions import items_of
from speechft.evaluation.protocols import PROTOCOLS
from speechft.merging import merge

FAMILIES = {
    "hubert": {"task_cfg", "model_cfg", "model_weight"},
    "wav2vec2": {"task_cfg", "model_cfg", "model_weight"},
    "wavlm_base_plus": {"cfg", "model"},
    "decoar2": {"model"},
}
QUICK = {"utterance": ProbeConfig(learning_rates=(3e-2,), extend=0, epochs=3)}


def released(oracle: Path, family: str) -> dict[str, Any]:
    """Return the content of a merged file: the base's, with a quarter of a task vector on it."""
    content = torch.load(oracle / f"{family}_base.pt", weights_only=True)
    key = "model_weight" if "model_weight" in content else "model"
    generator = torch.Generator().manual_seed(7)
    content[key] = {
        name: w + 0.25 * 0.1 * w.abs().mean() * torch.randn(w.shape, generator=generator)
        for name, w in content[key].items()
    }
    return content


@pytest.mark.parametrize("family", FAMILIES)
def test_the_released_layout_loads_converts_and_evaluates(
    family: str, oracle: Path, tones: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, "quick", QUICK)
    content = released(oracle, family)
    assert content.keys() >= FAMILIES[family]
    file = tmp_path / "merged_model.pt"
    torch.save(content, file)
    if family == "decoar2":  # its files hold no configuration; that of the published size is known
        tuned = oracle / "decoar2_ft1_downstream.ckpt"
        merge(oracle / "decoar2_base.pt", tuned, alpha=0, out=tmp_path / "hf")
        settings = (tmp_path / "hf" / "config.json").read_text()
        (tmp_path / "merged_model.config.json").write_text(settings)
    speechft.convert(file, tmp_path / "folder")
    samples = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([8000, 6000])
    states = []
    for place in (file, tmp_path / "folder"):
        encoder = speechft.load_encoder(place)
        with torch.no_grad():
            states.append(encoder(samples, lengths).hidden_states)
    assert torch.equal(*states)
    config = EvaluationConfig(tasks=("style",), protocol="quick", precision="fp32", floors=())
    places = [str(file), str(tmp_path / "folder")]
    rows = evaluate(places, str(tones.folder), config, tmp_path / "eval")
    assert [row.encoder for row in rows] == ["merged_model.pt", "folder"]
    first, second = ([i.prediction for i in items_of(row, tmp_path / "eval")] for row in rows)
    assert first == second
    assert len(first) == 18
