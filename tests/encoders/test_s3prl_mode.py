"""Parity with s3prl 0.4.18 on tiny random models; see oracle/encoders."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModel

from helpers import ORACLE, speech_encoder
from speechft.encoders.hugging_face import HuggingFaceEncoder

FOLDER = ORACLE / "encoders"
MODELS = ("hubert", "hubert_ln", "wav2vec2", "wavlm_base_plus", "wavlm_ln")


def oracle_encoder(name: str) -> HuggingFaceEncoder:
    """Build the encoder of an s3prl checkpoint from its configuration and key map."""
    content = json.loads((FOLDER / f"{name}_base.config.json").read_text())
    large = name.endswith("_ln")
    cfg = content.get("model_cfg") or content.get("cfg")
    fields: dict[str, Any] = {
        "hidden_size": cfg["encoder_embed_dim"],
        "num_hidden_layers": cfg["encoder_layers"],
        "num_attention_heads": cfg["encoder_attention_heads"],
        "intermediate_size": cfg["encoder_ffn_embed_dim"],
        "conv_dim": [24] * 7,
        "num_conv_pos_embeddings": cfg["conv_pos"],
        "num_conv_pos_embedding_groups": cfg["conv_pos_groups"],
        "conv_bias": cfg["conv_bias"],
        "do_stable_layer_norm": cfg["layer_norm_first"],
        "feat_extract_norm": "layer" if cfg["extractor_mode"] == "layer_norm" else "group",
    }
    assert large == cfg["layer_norm_first"]
    if "num_buckets" in cfg:
        fields |= {"num_buckets": cfg["num_buckets"], "max_bucket_distance": cfg["max_distance"]}
    normalize = content["task_cfg"]["normalize"] if "task_cfg" in content else cfg["normalize"]
    config = AutoConfig.for_model(name.partition("_")[0], **fields)
    model = AutoModel.from_config(config, attn_implementation=None if "wavlm" in name else "sdpa")
    keys = json.loads((FOLDER / f"{name}_keymap_s3prl_to_hf.json").read_text())
    weights = load_file(FOLDER / f"{name}_base.safetensors")
    state = {keys[key]: tensor for key, tensor in weights.items() if keys[key] is not None}
    model.load_state_dict(state)
    return HuggingFaceEncoder(model, normalize=normalize, mode="s3prl").eval()


@pytest.fixture(scope="module")
def waveforms() -> list[Tensor]:
    stored = load_file(FOLDER / "waveforms.safetensors")
    return [stored[f"wav_{number}"] for number in range(3)]


@pytest.mark.parametrize("padding", [0, 6_400])
@pytest.mark.parametrize("name", MODELS)
def test_batch_gives_the_states_of_s3prl(name: str, padding: int, waveforms: list[Tensor]) -> None:
    expected = load_file(FOLDER / f"{name}_s3prl_hidden.safetensors")
    encoder = oracle_encoder(name)
    batch = torch.full((3, 16_000 + padding), 0.5)  # what lies beyond the lengths is ignored
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    with torch.inference_mode():
        output = encoder(batch, torch.tensor([len(w) for w in waveforms]))
    assert len(output.layers) == 4
    for number, layer in enumerate(output.layers):
        reference = expected[f"batched_hidden_{number}"]
        torch.testing.assert_close(layer, reference, atol=1e-5, rtol=0)
    # round(n / 320), ties to even, and no more than there are frames
    assert output.lengths.tolist() == [49, 39, 23]


@pytest.mark.parametrize("name", MODELS)
def test_single_utterance_gives_the_states_of_s3prl(name: str, waveforms: list[Tensor]) -> None:
    expected = load_file(FOLDER / f"{name}_s3prl_hidden.safetensors")
    encoder = oracle_encoder(name)
    for row, waveform in enumerate(waveforms):
        with torch.inference_mode():
            output = encoder(waveform[None], torch.tensor([len(waveform)]))
        for number, layer in enumerate(output.layers):
            reference = expected[f"single{row}_hidden_{number}"]
            torch.testing.assert_close(layer[0], reference, atol=1e-5, rtol=0)


def test_exact_mode_differs_where_padding_leaks(waveforms: list[Tensor]) -> None:
    encoder = oracle_encoder("hubert")
    encoder.mode = "exact"
    expected = load_file(FOLDER / "hubert_s3prl_hidden.safetensors")
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    with torch.inference_mode():
        output = encoder(batch, torch.tensor([len(w) for w in waveforms]))
    alone = expected["single2_hidden_3"]
    torch.testing.assert_close(output.layers[3][2, :22], alone, atol=1e-5, rtol=0)
    assert float((expected["batched_hidden_3"][2, :22] - alone).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("samples", "frames"),
    [(3_360, 10), (3_680, 12), (3_519, 11), (4_000, 12), (1_000, 3), (15_900, 49)],
)
def test_lengths_round_to_even_and_stop_at_the_frames(samples: int, frames: int) -> None:
    encoder = speech_encoder("wav2vec2", mode="s3prl")
    output = encoder(torch.zeros(2, 16_000), torch.tensor([16_000, samples]))
    assert output.lengths.tolist() == [49, frames]
