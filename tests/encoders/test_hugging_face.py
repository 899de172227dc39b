"""The encoder contract on tiny HuBERT, wav2vec 2.0 and WavLM models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel

from helpers import FAMILIES, noise, speech_encoder
from speechft.encoders.base import EncoderOutput
from speechft.encoders.families import FAMILIES as ALL_FAMILIES
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.errors import ConfigError, DataError

SHAPES = [(family, large) for family in FAMILIES for large in (False, True)]
LENGTHS = (400, 16_000, 719, 48_123, 720, 320_000)
"""From one frame to 20 seconds, on both sides of a frame's edge."""

every_shape = pytest.mark.parametrize(("family", "large"), SHAPES)


def conv_length(samples: int) -> int:
    for kernel, stride in ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)):
        samples = (samples - kernel) // stride + 1
    return samples


def test_frame_lengths_follow_the_convolutions() -> None:
    encoder = speech_encoder("hubert")
    samples = [*range(400, 2_000), 16_000, 320_000]
    expected = [conv_length(n) for n in samples]
    assert encoder.frame_lengths(torch.tensor(samples)).tolist() == expected
    assert encoder.frame_rate == 50.0
    with torch.inference_mode():
        for n in (400, 719, 720, 5_007):
            waveforms, lengths = noise(n)
            assert encoder(waveforms, lengths).layers[0].shape[1] == conv_length(n)


@every_shape
def test_states_are_those_of_transformers(family: str, large: bool) -> None:
    encoder = speech_encoder(family, large=large)
    waveforms, lengths = noise(9_000, offset=0.1)
    inputs = waveforms
    if large:
        centred = waveforms - waveforms.mean()
        inputs = centred / (centred.square().mean() + 1e-7).sqrt()
    with torch.inference_mode():
        expected = encoder.model(inputs, output_hidden_states=True)
        output = encoder(waveforms, lengths)
    assert len(output.layers) == encoder.num_layers + 1 == 3
    assert output.lengths.tolist() == [conv_length(9_000)]
    assert output.hidden_states.shape == (3, 1, conv_length(9_000), encoder.dim)
    for state, reference in zip(output.layers[:-1], expected.hidden_states, strict=False):
        torch.testing.assert_close(state, reference, atol=1e-5, rtol=0)
    last = expected.last_hidden_state
    torch.testing.assert_close(output.last_hidden_state, last, atol=1e-5, rtol=0)


def test_first_state_is_what_the_first_layer_gets() -> None:
    encoder = speech_encoder("hubert")
    seen: list[Tensor] = []
    encoder.model.encoder.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.inference_mode():
        output = encoder(*noise(4_000))
    assert torch.equal(output.layers[0], seen[0])


def test_last_state_of_pre_norm_models_is_normalised() -> None:
    encoder = speech_encoder("wav2vec2", large=True)
    outputs: list[Tensor] = []
    encoder.model.encoder.layer_norm.register_forward_hook(lambda *args: outputs.append(args[2]))
    with torch.inference_mode():
        assert torch.equal(encoder(*noise(4_000)).last_hidden_state, outputs[0])


def deviation(single: EncoderOutput, batched: EncoderOutput, row: int) -> float:
    """Return the largest difference of any layer, over max(1, rms of the layer)."""
    frames = int(single.lengths[0])
    assert int(batched.lengths[row]) == frames
    return max(
        float((alone[0, :frames] - together[row, :frames]).abs().max())
        / max(1.0, float(alone[0, :frames].square().mean().sqrt()))
        for alone, together in zip(single.layers, batched.layers, strict=True)
    )


@every_shape
def test_batched_equals_unbatched(family: str, large: bool) -> None:
    encoder = speech_encoder(family, large=large)
    waveforms, lengths = noise(*LENGTHS, offset=0.2)
    with torch.inference_mode():
        batched = encoder(waveforms, lengths)
        for row, samples in enumerate(LENGTHS):
            single = encoder(waveforms[row : row + 1, :samples], lengths[row : row + 1])
            assert deviation(single, batched, row) < 1e-5


@every_shape
def test_gradients_are_those_of_unbatched(family: str, large: bool) -> None:
    encoder = speech_encoder(family, large=large).double()
    waveforms, lengths = noise(4_000, 1_300, 9_011, offset=0.2)
    waveforms = waveforms.double()
    probe = torch.randn(encoder.dim, generator=torch.Generator().manual_seed(1)).double()

    def objective(output: EncoderOutput, row: int) -> Tensor:
        frames = int(output.lengths[row])
        return sum((layer[row, :frames] @ probe).sum() for layer in output.layers)  # type: ignore

    together = encoder(waveforms, lengths)
    sum(objective(together, row) for row in range(3)).backward()  # type: ignore[union-attr]
    batched = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    encoder.zero_grad()
    for row, samples in enumerate(lengths.tolist()):
        alone = encoder(waveforms[row : row + 1, :samples], lengths[row : row + 1])
        objective(alone, 0).backward()
    assert any("feature_extractor" in name for name in batched)
    for name, parameter in encoder.named_parameters():
        if name in batched:
            expected = parameter.grad
            assert expected is not None
            scale = max(1.0, float(expected.square().mean().sqrt()))
            assert float((batched[name] - expected).abs().max()) < 1e-5 * scale, name


def test_padding_content_is_ignored() -> None:
    encoder = speech_encoder("hubert")
    waveforms, lengths = noise(8_000, 3_000)
    other = waveforms.clone()
    other[1, 3_000:] = 7.0
    with torch.inference_mode():
        first, second = encoder(waveforms, lengths), encoder(other, lengths)
    frames = int(first.lengths[1])
    assert torch.equal(first.layers[-1][1, :frames], second.layers[-1][1, :frames])
    assert torch.equal(first.layers[-1][0], second.layers[-1][0])


@pytest.mark.parametrize("samples", [0, 399])
def test_too_short_an_utterance_is_refused(samples: int) -> None:
    encoder = speech_encoder("hubert")
    with pytest.raises(DataError, match=rf"{samples} samples, fewer than one frame"):
        encoder(torch.zeros(2, 4_000), torch.tensor([4_000, samples]))


@every_shape
def test_downsampler_and_the_rest_make_the_whole(family: str, large: bool) -> None:
    encoder = speech_encoder(family, large=large)
    waveforms, lengths = noise(8_000, 3_000)
    with torch.inference_mode():
        whole = encoder(waveforms, lengths)
        features = encoder.downsample(waveforms, lengths)
        parts = encoder.contextualize(features, lengths)
        cut = features.clone()
        cut[1, conv_length(3_000) :] = 0.0
        kept = encoder.contextualize(F.pad(cut, (0, 0, 0, 7)), lengths)
    for a, b, c in zip(whole.layers, parts.layers, kept.layers, strict=True):
        assert torch.equal(a, b)
        for row, frames in enumerate(whole.lengths.tolist()):
            torch.testing.assert_close(a[row, :frames], c[row, :frames], atol=1e-5, rtol=0)


def test_downsampler_names_are_the_convolutions() -> None:
    encoder = speech_encoder("hubert")
    convolutions = set(encoder.model.feature_extractor.parameters())
    named = dict(encoder.named_parameters())
    assert {named[name] for name in encoder.downsampler_names()} == convolutions


def test_time_mask_replaces_frames_by_the_embedding() -> None:
    encoder = speech_encoder("hubert")
    waveforms, lengths = noise(8_000)
    features = encoder.downsample(waveforms, lengths)
    mask = torch.zeros(features.shape[:2], dtype=torch.bool)
    mask[0, 5:9] = True
    changed = features.clone()
    changed[mask] = 3.0
    with torch.inference_mode():
        masked = encoder.contextualize(features, lengths, mask)
        same = encoder.contextualize(changed, lengths, mask)
        plain = encoder.contextualize(features, lengths)
        everything = encoder.contextualize(features, lengths, torch.ones_like(mask))
    assert torch.equal(masked.layers[-1], same.layers[-1])
    assert not torch.allclose(masked.layers[-1], plain.layers[-1], atol=1e-3)
    seen = encoder.model.masked_spec_embed.expand(1, features.shape[1], -1)
    with torch.inference_mode():
        expected = encoder.model.encoder(seen.clone())[0]
    torch.testing.assert_close(everything.layers[-1], expected, atol=1e-5, rtol=0)


def applied_rates(encoder: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Run a training pass and count how often a dropout of each rate was applied."""
    counts: dict[str, int] = {}
    original, attention = F.dropout, F.scaled_dot_product_attention
    multi_head = F.multi_head_attention_forward

    def count(rate: float) -> None:
        counts[f"{rate:g}"] = counts.get(f"{rate:g}", 0) + 1

    def dropout(inputs: Tensor, p: float, training: bool, inplace: bool = False) -> Tensor:
        count(p if training else 0.0)
        return original(inputs, p, training, inplace)

    def scaled(*args: Any, dropout_p: float = 0.0, **kwargs: Any) -> Tensor:
        count(dropout_p)
        return attention(*args, dropout_p=dropout_p, **kwargs)

    def many(*args: Any, **kwargs: Any) -> Any:  # WavLM's attention
        count(args[10])
        with monkeypatch.context() as inner:
            inner.setattr(F, "dropout", original)
            return multi_head(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(F, "dropout", dropout)
        patch.setattr(F, "scaled_dot_product_attention", scaled)
        patch.setattr(F, "multi_head_attention_forward", many)
        encoder.train()
        encoder(*noise(4_000))
    return counts


@every_shape
def test_set_dropout_reaches_every_dropout(
    family: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {
        "hidden_dropout": 0.11,
        "attention_dropout": 0.12,
        "activation_dropout": 0.13,
        "feat_proj_dropout": 0.14,
    }
    built = speech_encoder(family, large=large, **rates, layerdrop=0.0)
    expected = applied_rates(built, monkeypatch)
    # after the projection, before the layers, twice and twice more in each of two layers
    assert expected == {"0.14": 1, "0.11": 5, "0.12": 2, "0.13": 2}
    encoder = speech_encoder(family, large=large)
    encoder.set_dropout(rates)
    assert applied_rates(encoder, monkeypatch) == expected
    encoder.set_dropout({})
    assert set(applied_rates(encoder, monkeypatch)) == {"0"}


def test_no_dropout_makes_training_deterministic() -> None:
    encoder = speech_encoder("hubert", layerdrop=0.5)
    encoder.set_dropout({})
    encoder.train()
    batch = noise(4_000)
    assert torch.equal(encoder(*batch).layers[-1], encoder.eval()(*batch).layers[-1])


def test_unknown_dropout_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown dropout 'atention_dropout'") as caught:
        speech_encoder("hubert").set_dropout({"atention_dropout": 0.1})
    assert caught.value.hint == "did you mean 'attention_dropout'?"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(4))
def test_layer_drop_keeps_the_number_of_states(family: str, seed: int) -> None:
    encoder = speech_encoder(family, num_hidden_layers=4)
    encoder.set_dropout({"layerdrop": 0.6})
    encoder.train()
    ran: list[int] = []
    for number, layer in enumerate(encoder.model.encoder.layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    torch.manual_seed(seed)
    output = encoder(*noise(4_000))
    assert len(ran) < 4
    assert len(output.layers) == 5
    for number in range(4):
        same = torch.equal(output.layers[number], output.layers[number + 1])
        assert same == (number not in ran)


@every_shape
def test_saved_folder_loads_elsewhere(family: str, large: bool, tmp_path: Path) -> None:
    own = {"hidden_dropout": 0.07, "attention_dropout": 0.06, "activation_dropout": 0.05}
    encoder = speech_encoder(family, large=large, **own, feat_proj_dropout=0.04, layerdrop=0.03)
    encoder.set_dropout({"hidden_dropout": 0.5})
    encoder.save(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(encoder.model)
    state = loaded.state_dict()
    expected = encoder.model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    saved = [getattr(loaded.config, name) for name in ALL_FAMILIES["hubert"].dropouts]
    assert saved == [0.07, 0.06, 0.05, 0.04, 0.03]
    assert loaded.config.apply_spec_augment is True
    assert encoder.model.config.hidden_dropout == 0.5
    assert encoder.model.config.apply_spec_augment is False


def test_a_saved_encoder_may_be_read_like_any_new_file(tmp_path: Path) -> None:
    speech_encoder("hubert").save(tmp_path / "encoder")
    (tmp_path / "new").write_text("")
    usual = (tmp_path / "new").stat().st_mode
    assert {file.stat().st_mode for file in (tmp_path / "encoder").iterdir()} == {usual}
