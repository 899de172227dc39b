"""MFCC behind the encoder contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers import noise, speech_encoder
from speechft.encoders.mfcc import MfccEncoder
from speechft.errors import CheckpointError, DataError


@pytest.fixture(scope="module")
def mfcc() -> MfccEncoder:
    return MfccEncoder().eval()


@pytest.mark.parametrize("samples", [400, 719, 720, 1_039, 1_040, 16_000, 31_999])
def test_frames_are_as_many_as_of_a_convolutional_encoder(mfcc: MfccEncoder, samples: int) -> None:
    waveforms, lengths = noise(samples)
    output = mfcc(waveforms, lengths)
    assert output.lengths.tolist() == speech_encoder("hubert").frame_lengths(lengths).tolist()
    assert output.layers[0].shape == (1, int(output.lengths[0]), 39)
    assert len(output.layers) == mfcc.num_layers + 1
    assert output.frame_rate == 50.0


def test_frame_covers_its_own_400_samples(mfcc: MfccEncoder) -> None:
    waveforms, lengths = noise(16_000)
    before = mfcc(waveforms, lengths).layers[0][0, :, :13]
    changed = waveforms.clone()
    changed[0, 3_260:3_460] += 0.5
    after = mfcc(changed, lengths).layers[0][0, :, :13]
    touched = (before != after).any(1).nonzero().flatten().tolist()
    assert touched == [t for t in range(49) if 320 * t < 3_460 and 320 * t + 400 > 3_260]


def slow_difference(features: Tensor) -> Tensor:
    rows = []
    for t in range(len(features)):
        total = torch.zeros(features.shape[1], dtype=torch.float64)
        for distance in (1, 2):
            later = features[min(t + distance, len(features) - 1)].double()
            earlier = features[max(t - distance, 0)].double()
            total += distance * (later - earlier)
        rows.append(total / (2 * (1**2 + 2**2)))
    return torch.stack(rows)


@pytest.mark.parametrize("samples", [400, 800, 9_000])
def test_differences_are_those_of_a_loop(mfcc: MfccEncoder, samples: int) -> None:
    features = mfcc(*noise(samples)).layers[0][0]
    first = slow_difference(features[:, :13])
    torch.testing.assert_close(features[:, 13:26].double(), first, atol=1e-5, rtol=1e-5)
    second = slow_difference(features[:, 13:26])
    torch.testing.assert_close(features[:, 26:].double(), second, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cmvn", [False, True])
def test_batched_equals_unbatched(cmvn: bool) -> None:
    encoder = MfccEncoder(cmvn=cmvn)
    waveforms, lengths = noise(16_000, 400, 5_555, offset=0.2)
    batched = encoder(waveforms, lengths)
    for row, samples in enumerate(lengths.tolist()):
        alone = encoder(waveforms[row : row + 1, :samples], lengths[row : row + 1])
        frames = int(alone.lengths[0])
        assert int(batched.lengths[row]) == frames
        torch.testing.assert_close(
            batched.layers[0][row, :frames], alone.layers[0][0], atol=1e-4, rtol=1e-5
        )


def test_cmvn_gives_zero_mean_and_unit_variance() -> None:
    features = MfccEncoder(cmvn=True)(*noise(16_000, offset=0.2)).layers[0][0].double()
    torch.testing.assert_close(features.mean(0), torch.zeros(39).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        features.std(0, correction=0), torch.ones(39).double(), atol=1e-3, rtol=0
    )


def test_too_short_an_utterance_is_refused(mfcc: MfccEncoder) -> None:
    with pytest.raises(DataError, match="399 samples, fewer than one frame"):
        mfcc(*noise(399))


def test_there_is_nothing_to_train_or_to_save(mfcc: MfccEncoder, tmp_path: Path) -> None:
    assert not any(parameter.requires_grad for parameter in mfcc.parameters())
    assert mfcc.downsampler_names() == frozenset()
    with pytest.raises(CheckpointError, match="no weights"):
        mfcc.save(tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()
