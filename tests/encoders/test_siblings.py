"""Families of transformers beside the three main ones: exact where they take waveforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from helpers import TINY, noise
from speechft.encoders.base import EncoderOutput
from speechft.encoders.families import FAMILIES
from speechft.encoders.families.convolutional import ConvolutionalFamily
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.load import load_encoder
from speechft.errors import CheckpointError, ConfigError

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("unispeech", {}),
    ("unispeech", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    ("unispeech-sat", {}),
    ("unispeech-sat", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    ("data2vec-audio", {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}),
    ("wav2vec2-conformer", {"position_embeddings_type": "relative"}),
    ("wav2vec2-conformer", {"position_embeddings_type": "rotary", "feat_extract_norm": "layer"}),
]
LENGTHS = (400, 16_000, 719, 48_123, 720, 320_000)

every_kind = pytest.mark.parametrize(("family", "changes"), KINDS)


def sibling(family: str, changes: dict[str, Any]) -> HuggingFaceEncoder:
    fields = {**TINY, "conv_dim": [16] * 7, "conv_depthwise_kernel_size": 5, **changes}
    config = transformers.AutoConfig.for_model(family, **fields)
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return HuggingFaceEncoder(model, normalize="layer" in changes.values()).eval()


def test_every_sibling_is_covered() -> None:
    convolutional = {n for n, f in FAMILIES.items() if isinstance(f, ConvolutionalFamily)}
    assert {family for family, _ in KINDS} == convolutional - {"hubert", "wav2vec2", "wavlm"}


@every_kind
def test_states_are_those_of_transformers(family: str, changes: dict[str, Any]) -> None:
    encoder = sibling(family, changes)
    encoder.normalize = False
    waveforms, lengths = noise(9_000)
    with torch.inference_mode():
        expected = encoder.model(waveforms, output_hidden_states=True)
        output = encoder(waveforms, lengths)
    states = [*expected.hidden_states[:-1], expected.last_hidden_state]
    assert len(states) == len(output.layers) == 3
    for state, reference in zip(output.layers, states, strict=True):
        torch.testing.assert_close(state, reference, atol=1e-5, rtol=0)


@every_kind
def test_batched_equals_unbatched(family: str, changes: dict[str, Any]) -> None:
    encoder = sibling(family, changes)
    waveforms, lengths = noise(*LENGTHS, offset=0.2)
    with torch.inference_mode():
        batched = encoder(waveforms, lengths)
        for row, samples in enumerate(LENGTHS):
            single = encoder(waveforms[row : row + 1, :samples], lengths[row : row + 1])
            frames = int(single.lengths[0])
            for alone, together in zip(single.layers, batched.layers, strict=True):
                scale = max(1.0, float(alone.square().mean().sqrt()))
                difference = (alone[0, :frames] - together[row, :frames]).abs().max()
                assert float(difference) < 1e-5 * scale


@every_kind
def test_gradients_are_those_of_unbatched(family: str, changes: dict[str, Any]) -> None:
    encoder = sibling(family, changes).double()
    waveforms, lengths = noise(4_000, 1_300, 9_011, offset=0.2)
    waveforms = waveforms.double()

    def objective(output: EncoderOutput, row: int) -> Tensor:
        return output.layers[-1][row, : int(output.lengths[row])].square().sum()

    together = encoder(waveforms, lengths)
    sum(objective(together, row) for row in range(3)).backward()  # type: ignore[union-attr]
    batched = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    encoder.zero_grad()
    for row, samples in enumerate(lengths.tolist()):
        output = encoder(waveforms[row : row + 1, :samples], lengths[row : row + 1])
        objective(output, 0).backward()
    assert any("feature_extractor" in name for name in batched)
    for name, parameter in encoder.named_parameters():
        if name in batched:
            assert parameter.grad is not None
            scale = max(1.0, float(parameter.grad.square().mean().sqrt()))
            assert float((batched[name] - parameter.grad).abs().max()) < 1e-5 * scale, name


@every_kind
def test_saved_folder_loads(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    encoder = sibling(family, changes)
    encoder.save(tmp_path)
    loaded = load_encoder(tmp_path)
    batch = noise(5_000, 3_000)
    with torch.inference_mode():
        assert torch.equal(loaded(*batch).hidden_states, encoder(*batch).hidden_states)
    with pytest.raises(ConfigError, match=f"mode 's3prl' is not known for {family}"):
        load_encoder(tmp_path, "s3prl")


@every_kind
def test_no_dropout_makes_training_deterministic(family: str, changes: dict[str, Any]) -> None:
    encoder = sibling(family, changes)
    encoder.set_dropout({})
    encoder.train()
    rates = {m.p for m in encoder.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.0}
    batch = noise(4_000)
    assert torch.equal(encoder(*batch).layers[1], encoder(*batch).layers[1])


@pytest.mark.parametrize("family", ["seamless_m4t", "clap", "bert"])
def test_models_that_take_no_waveforms_are_refused_by_name(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "{family}"}}')
    save_file({"encoder.layers.0.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"type '{family}'; supported are: data2vec-audio, "):
        load_encoder(tmp_path)
