"""Wav2Vec2-BERT: transformers' front end and hidden states, batches, folders, merging, tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2BertModel,
)

import speechft
from helpers import noise
from speechft.data.manifest import Corpus
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.load import load_encoder
from speechft.errors import CheckpointError, ConfigError, DataError
from speechft.finetuning.config import FinetuningConfig
from speechft.finetuning.finetune import finetune_encoder

LENGTHS = (560, 16_000, 719, 720, 24_123)
KINDS = ("relative_key", "relative", "rotary")

every_kind = pytest.mark.parametrize("positions", KINDS)


def tiny(positions: str = "relative_key", kind: Any = Wav2Vec2BertModel, **changes: Any) -> Any:
    """Return a tiny model with weights that hide no mistakes."""
    config = Wav2Vec2BertConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_depthwise_kernel_size=5,
        position_embeddings_type=positions,
        vocab_size=8,
        **changes,
    )
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@every_kind
def test_states_are_those_of_transformers_batched_and_alone(positions: str) -> None:
    model = tiny(positions)
    encoder = HuggingFaceEncoder(model).eval()
    waveforms, lengths = noise(*LENGTHS, offset=0.2)
    audio = [row[:n].numpy() for row, n in zip(waveforms, LENGTHS, strict=True)]
    inputs = SeamlessM4TFeatureExtractor()(audio, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs, output_hidden_states=True).hidden_states
        output = encoder(waveforms, lengths)
    frames = inputs.attention_mask.sum(1).tolist()
    assert output.lengths.tolist() == frames == encoder.frame_lengths(lengths).tolist()
    assert frames[0] == frames[2] == 1
    assert len(output.layers) == len(expected) == 3
    for row, count in enumerate(frames):
        with torch.inference_mode():
            alone = encoder(waveforms[row : row + 1, : LENGTHS[row]], lengths[row : row + 1])
        for number, state in enumerate(expected):
            together = output.layers[number][row, :count]
            torch.testing.assert_close(together, state[row, :count], atol=5e-5, rtol=1e-5)
            torch.testing.assert_close(alone.layers[number][0], together, atol=1e-5, rtol=1e-5)


def test_front_end_is_that_of_transformers() -> None:
    encoder = HuggingFaceEncoder(tiny()).eval()
    waveforms, lengths = noise(*LENGTHS, offset=0.1)
    found = encoder.downsample(waveforms, lengths)
    extract = SeamlessM4TFeatureExtractor()
    for row, samples in enumerate(LENGTHS):
        audio = waveforms[row, :samples].numpy()
        inputs = extract(audio, sampling_rate=16_000, return_tensors="pt")
        count = int(inputs.attention_mask.sum())
        torch.testing.assert_close(
            found[row, :count], inputs.input_features[0, :count], atol=5e-4, rtol=0
        )


def test_timing_and_short_audio() -> None:
    encoder = HuggingFaceEncoder(tiny()).eval()
    assert (encoder.frame_rate, encoder.hop_size) == (50.0, 320)
    assert (encoder.timing.receptive_field, encoder.timing.centre_seconds) == (560, 0.0175)
    with pytest.raises(DataError, match="559 samples, fewer than one frame"):
        encoder(*noise(559))


def test_saved_folder_and_task_model_load(tmp_path: Path) -> None:
    ctc = tiny(kind=Wav2Vec2BertForCTC)
    ctc.save_pretrained(tmp_path / "ctc")
    encoder = load_encoder(tmp_path / "ctc")
    assert isinstance(encoder, HuggingFaceEncoder)
    encoder.save(tmp_path / "own")
    state = AutoModel.from_pretrained(tmp_path / "own").state_dict()
    expected = ctc.wav2vec2_bert.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    extractor = SeamlessM4TFeatureExtractor.from_pretrained(tmp_path / "own")
    assert (extractor.num_mel_bins, extractor.stride) == (80, 2)
    batch = noise(9_000, 5_000)
    with torch.inference_mode():
        again = load_encoder(tmp_path / "own")(*batch).hidden_states
        assert torch.equal(again, encoder(*batch).hidden_states)
    with pytest.raises(ConfigError, match="mode 's3prl' is not known for wav2vec2-bert"):
        load_encoder(tmp_path / "own", "s3prl")
    with pytest.raises(CheckpointError, match="no upstream for the family 'wav2vec2-bert'"):
        speechft.convert(tmp_path / "own", tmp_path / "x.pt")


def test_merge_and_fine_tuning(tmp_path: Path, tones: Corpus) -> None:
    encoder = HuggingFaceEncoder(tiny(kind=Wav2Vec2BertModel)).eval()
    encoder.save(tmp_path / "base")
    config = FinetuningConfig(
        task="sid", steps=4, learning_rate=1e-3, batch_seconds=10.0, hidden=None, precision="fp32"
    )
    finetune_encoder(encoder, config, tones, tmp_path, seed=0)
    speechft.merge(tmp_path / "base", tmp_path / "encoder", out=tmp_path / "merged", alpha=0.5)
    base, tuned, merged = (
        load_file(tmp_path / name / "model.safetensors") for name in ("base", "encoder", "merged")
    )
    moved = [name for name in base if not torch.equal(base[name], tuned[name])]
    assert len(moved) > 0.8 * len(base)
    for name in base:
        expected = torch.lerp(base[name], tuned[name], 0.5)
        torch.testing.assert_close(merged[name], expected, atol=1e-7, rtol=1e-6)
    [row] = speechft.evaluate(
        tmp_path / "merged", tasks="sid", corpus=tones.folder, out=tmp_path / "out"
    )
    assert row.n > 0


def test_dropout_reaches_every_module() -> None:
    encoder = HuggingFaceEncoder(tiny(hidden_dropout=0.2, conformer_conv_dropout=0.3)).eval()
    encoder.set_dropout({})
    assert {m.p for m in encoder.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
    rates = {name: 0.1 + number / 100 for number, name in enumerate(encoder.family.dropouts)}
    encoder.set_dropout(rates)
    used = {m.p for m in encoder.modules() if isinstance(m, torch.nn.Dropout)}
    assert used | {encoder.model.config.layerdrop} == set(rates.values())
