"""Parity with s3prl 0.4.18 on tiny random models, from every format; see oracle/merge."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers import speech_encoder
from oracle_data import oracle, oracle_json
from speechft.encoders.convert import convert
from speechft.encoders.hugging_face import HuggingFaceEncoder, s3prl_lengths
from speechft.encoders.load import load_encoder

MODELS = ("hubert", "hubert_ln", "wav2vec2", "wavlm_base_plus", "wavlm_ln", "decoar2")
FORMATS = ("pt", "ckpt", "safetensors", "hf")


def s3prl_file(name: str, folder: Path) -> Path:
    """Write the oracle's weights as s3prl's converted checkpoint."""
    content = oracle_json(f"merge/{name}_base.config.json")
    key = "model_weight" if "model_cfg" in content else "model"
    content = {} if name == "decoar2" else content
    weights = load_file(oracle(f"merge/{name}_base.safetensors"))
    torch.save({**content, key: weights}, folder / "x.pt")
    return folder / "x.pt"


def oracle_encoder(name: str, form: str, folder: Path, mode: Any = "s3prl") -> HuggingFaceEncoder:
    """Load the oracle's weights from a file of the given format."""
    config: Path | None = oracle(f"merge/{name}_base.config.json")
    path = s3prl_file(name, folder)
    if form == "ckpt":
        weights = load_file(oracle(f"merge/{name}_base.safetensors"))
        upstream = {f"model.{key}": tensor for key, tensor in weights.items()}
        arguments = argparse.Namespace(upstream=name.removesuffix("_ln"), upstream_ckpt=None)
        content = {"Upstream": upstream, "Downstream": {"w": torch.ones(1)}, "Args": arguments}
        path = folder / "dev-best.ckpt"
        torch.save(content, path)
    elif form == "safetensors":
        path, config = oracle(f"merge/{name}_base.safetensors"), None  # found beside it
    elif form == "hf":
        convert(path, folder / "hf", config=config)
        path, config = folder / "hf", None
    elif name != "decoar2":
        config = None
    encoder = load_encoder(path, mode, config=config)
    assert isinstance(encoder, HuggingFaceEncoder)
    return encoder


@pytest.fixture
def waveforms() -> list[Tensor]:
    stored = load_file(oracle("merge/waveforms.safetensors"))
    return [stored[f"wav_{number}"] for number in range(len(stored))]


def states_of(name: str, prefix: str) -> list[Tensor]:
    """Return the recorded hidden states of a model, lowest first."""
    stored = load_file(oracle(f"merge/{name}_s3prl_hidden.safetensors"))
    numbers = range(sum(key.startswith(f"{prefix}_") for key in stored))
    found = [stored[f"{prefix}_{number}"] for number in numbers]
    assert found
    return found


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", MODELS)
def test_batch_gives_the_states_of_s3prl(
    name: str, form: str, waveforms: list[Tensor], tmp_path: Path
) -> None:
    expected = states_of(name, "hidden" if name == "decoar2" else "batched_hidden")
    encoder = oracle_encoder(name, form, tmp_path)
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    for padding in (0, 6_400):  # what lies beyond the lengths is ignored
        batch = torch.full((len(lengths), int(lengths.max()) + padding), 0.5)
        for row, waveform in zip(batch, waveforms, strict=True):
            row[: len(waveform)] = waveform
        with torch.inference_mode():
            output = encoder(batch, lengths)
        assert len(output.layers) == len(expected)
        for layer, reference in zip(output.layers, expected, strict=True):
            torch.testing.assert_close(layer, reference, atol=1e-5, rtol=0)
        assert torch.equal(output.lengths, s3prl_lengths(lengths, expected[0].shape[1], 320))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "decoar2"])
def test_single_utterance_gives_the_states_of_s3prl(
    name: str, waveforms: list[Tensor], tmp_path: Path
) -> None:
    encoder = oracle_encoder(name, "pt", tmp_path)
    for row, waveform in enumerate(waveforms):
        expected = states_of(name, f"single{row}_hidden")
        with torch.inference_mode():
            output = encoder(waveform[None], torch.tensor([len(waveform)]))
        for layer, reference in zip(output.layers, expected, strict=True):
            torch.testing.assert_close(layer[0], reference, atol=1e-5, rtol=0)


def test_exact_mode_differs_where_padding_leaks(waveforms: list[Tensor], tmp_path: Path) -> None:
    encoder = oracle_encoder("hubert", "pt", tmp_path, mode="exact")
    shortest = min(range(len(waveforms)), key=lambda row: len(waveforms[row]))
    alone = states_of("hubert", f"single{shortest}_hidden")[-1]
    batched = states_of("hubert", "batched_hidden")[-1][shortest, : len(alone)]
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    with torch.inference_mode():
        output = encoder(batch, torch.tensor([len(w) for w in waveforms]))
    found = output.layers[-1][shortest, : len(alone)]
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    assert float((batched - alone).abs().max()) > 0.01


def test_the_upstream_that_s3prl_was_given_tells_the_configuration(
    waveforms: list[Tensor], tmp_path: Path
) -> None:
    base = s3prl_file("hubert", tmp_path)
    weights = load_file(oracle("merge/hubert_base.safetensors"))
    arguments = argparse.Namespace(upstream="hubert_local", upstream_ckpt=str(base))
    content = {"Upstream": {f"model.{k}": v for k, v in weights.items()}, "Args": arguments}
    torch.save(content, tmp_path / "dev-best.ckpt")
    expected = states_of("hubert", "single0_hidden")[-1]
    with torch.inference_mode():
        encoder = load_encoder(tmp_path / "dev-best.ckpt", "s3prl")
        output = encoder(waveforms[0][None], torch.tensor([len(waveforms[0])]))
    torch.testing.assert_close(output.layers[-1][0], expected, atol=1e-5, rtol=0)


def test_a_file_beside_the_weights_tells_the_configuration(tmp_path: Path) -> None:
    for name in ("decoar2_base.safetensors", "decoar2_base.config.json"):
        shutil.copy(oracle(f"merge/{name}"), tmp_path)
    layers = oracle_json("merge/decoar2_base.config.json")["encoder_layers"]
    assert load_encoder(tmp_path / "decoar2_base.safetensors").num_layers == layers


@pytest.mark.parametrize(
    ("samples", "frames"),
    [(3_360, 10), (3_680, 12), (3_519, 11), (4_000, 12), (1_000, 3), (15_900, 49)],
)
def test_lengths_round_to_even_and_stop_at_the_frames(samples: int, frames: int) -> None:
    encoder = speech_encoder("wav2vec2", mode="s3prl")
    output = encoder(torch.zeros(2, 16_000), torch.tensor([16_000, samples]))
    assert output.lengths.tolist() == [49, frames]
