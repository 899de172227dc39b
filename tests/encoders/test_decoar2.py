"""DeCoAR 2.0: its front end, padding, and the Hugging Face classes around it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel

from helpers import noise
from oracle_data import oracle
from speechft.encoders.families.decoar2.model import Decoar2Config, Decoar2Model
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.load import load_encoder
from speechft.errors import DataError

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


@pytest.fixture
def encoder() -> HuggingFaceEncoder:
    torch.manual_seed(3)
    return HuggingFaceEncoder(Decoar2Model(Decoar2Config(**SIZES))).eval()


def test_published_sizes_make_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = Decoar2Model(Decoar2Config())
    assert sum(p.numel() for p in model.parameters()) == 89_837_696
    assert len(model.state_dict()) == 199


def test_front_end_is_that_of_s3prl(encoder: HuggingFaceEncoder) -> None:
    expected = load_file(oracle("merge/decoar2_s3prl_hidden.safetensors"))
    waveforms = load_file(oracle("merge/waveforms.safetensors"))
    for number in range(len(waveforms)):
        waveform = waveforms[f"wav_{number}"]
        features = encoder.downsample(waveform[None], torch.tensor([len(waveform)]))[0]
        reference = expected[f"fbank_cmvn_lfr_{number}"]
        torch.testing.assert_close(features, reference, atol=2e-6, rtol=0)


def test_front_end_in_closed_form(encoder: HuggingFaceEncoder) -> None:
    """One frame of a sine, in float64, by the definition of Kaldi's features."""
    time = torch.arange(400 + 160, dtype=torch.float64) / 16_000
    waveform = 0.3 * torch.sin(2 * math.pi * 440 * time) + 0.1 * torch.cos(5_000 * time)
    rows = []
    for start in (0, 160):
        frame = waveform[start : start + 400]
        frame = frame - frame.mean()
        frame = frame - 0.97 * torch.cat([frame[:1], frame[:-1]])
        window = 0.54 - 0.46 * torch.cos(2 * math.pi * torch.arange(400) / 399)
        power = torch.fft.rfft(frame * window, 512).abs() ** 2
        mel = 1127 * torch.log1p(torch.arange(257) * 16_000 / 512 / 700)
        edges = torch.linspace(1127 * math.log1p(20 / 700), 1127 * math.log1p(8_000 / 700), 82)
        up = (mel - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
        down = (edges[2:, None] - mel) / (edges[2:] - edges[1:-1])[:, None]
        filters = torch.minimum(up, down).clamp(min=0).double()
        rows.append((filters @ power).clamp(min=torch.finfo(torch.float32).eps).log())
    both = torch.stack(rows)
    expected = (both[0] - both.mean(0)) / both.std(0)  # +-sqrt(1/2) wherever the rows differ
    found = encoder.downsample(waveform.float()[None], torch.tensor([560]))[0]
    assert found.shape == (1, 80)
    clear = (both[0] - both[1]).abs() > 1e-2
    assert int(clear.sum()) > 40
    torch.testing.assert_close(found[0, clear].double(), expected[clear], atol=1e-3, rtol=0)


def test_batched_equals_unbatched_with_gradients(encoder: HuggingFaceEncoder) -> None:
    lengths = (400, 16_000, 719, 48_123, 560, 320_000)
    waveforms, counts = noise(*lengths, offset=0.2)
    encoder.double()
    batched = encoder(waveforms, counts)
    frames = [(n - 400) // 320 + 1 for n in lengths]
    assert batched.lengths.tolist() == frames
    probe = torch.randn(encoder.dim, generator=torch.Generator().manual_seed(1)).double()

    def objective(last: Tensor, count: int) -> Tensor:
        return (last[:count] @ probe).sum()

    sum(objective(batched.layers[-1][r], n) for r, n in enumerate(frames)).backward()  # type: ignore[union-attr]
    together = {name: p.grad for name, p in encoder.named_parameters()}
    encoder.zero_grad()
    for row, samples in enumerate(lengths):
        single = encoder(waveforms[row : row + 1, :samples], counts[row : row + 1])
        for alone, all_ in zip(single.layers, batched.layers, strict=True):
            torch.testing.assert_close(alone[0], all_[row, : frames[row]], atol=1e-5, rtol=0)
        objective(single.layers[-1][0], frames[row]).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        scale = max(1.0, float(parameter.grad.abs().max()))
        assert float((parameter.grad - together[name]).abs().max()) < 1e-5 * scale, name


def test_padding_and_short_audio(encoder: HuggingFaceEncoder) -> None:
    waveforms, lengths = noise(8_000, 3_000)
    changed = waveforms.clone()
    changed[1, 3_000:] = 9.0
    frames = int(encoder.frame_lengths(lengths)[1])
    with torch.inference_mode():
        first, second = encoder(waveforms, lengths), encoder(changed, lengths)
    assert torch.equal(first.layers[-1][1, :frames], second.layers[-1][1, :frames])
    with pytest.raises(DataError, match="399 samples, fewer than one frame"):
        encoder(torch.zeros(1, 399), torch.tensor([399]))


def test_saved_folder_loads_through_transformers_and_speechft(
    encoder: HuggingFaceEncoder, tmp_path: Path
) -> None:
    encoder.set_dropout({"hidden_dropout": 0.5})
    encoder.save(tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    assert isinstance(model, Decoar2Model)
    assert model.config.hidden_dropout == 0.1
    features = encoder.downsample(*noise(6_000))
    batch = noise(6_000)
    with torch.inference_mode():
        states = model(features, output_hidden_states=True).hidden_states
        expected = encoder(*batch)
        loaded = load_encoder(tmp_path)
        assert isinstance(loaded, HuggingFaceEncoder)
        assert isinstance(loaded.model, Decoar2Model)
        again = loaded(*batch)
    for state, one, two in zip(states, expected.layers, again.layers, strict=True):
        torch.testing.assert_close(state, one, atol=1e-6, rtol=0)
        assert torch.equal(one, two)
    assert not (tmp_path / "preprocessor_config.json").exists()


def test_dropout_reaches_training(encoder: HuggingFaceEncoder) -> None:
    encoder.set_dropout({"attention_dropout": 0.5})
    assert encoder.model.encoder.layers[0].self_attn.dropout == 0.5
    assert {m.p for m in encoder.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
    encoder.set_dropout({})
    encoder.train()
    batch = noise(4_000)
    assert torch.equal(encoder(*batch).layers[-1], encoder.eval()(*batch).layers[-1])
    encoder.set_dropout({"layerdrop": 1.0})
    encoder.train()
    output = encoder(*batch)
    assert len(output.layers) == 3
    assert torch.equal(output.layers[0], output.layers[2])


def test_nothing_is_frozen_with_the_downsampler(encoder: HuggingFaceEncoder) -> None:
    assert encoder.downsampler_names() == frozenset()
    assert not encoder.depends_on_batch
