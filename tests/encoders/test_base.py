"""What an encoder takes and gives, whatever its family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from helpers import tiny_encoder
from speechft.encoders.base import EncoderOutput, pooled
from speechft.errors import DataError


def test_pooled_is_the_mean_of_valid_frames() -> None:
    torch.manual_seed(0)
    layers = tuple(torch.randn(4, 9, 5) for _ in range(3))
    lengths = torch.tensor([9, 1, 4, 8])
    result = pooled(EncoderOutput(layers, lengths, 50.0))
    assert result.shape == (4, 3, 5)
    for row, frames in enumerate(lengths.tolist()):
        for number, layer in enumerate(layers):
            total = torch.zeros(5, dtype=torch.float64)
            for frame in range(frames):
                total += layer[row, frame].double()
            expected = (total / frames).float()
            torch.testing.assert_close(result[row, number], expected, atol=1e-6, rtol=0)


def test_output_gives_all_states_and_the_last() -> None:
    layers = tuple(torch.full((1, 2, 3), float(n)) for n in range(4))
    output = EncoderOutput(layers, torch.tensor([2]), 50.0)
    assert output.hidden_states[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert output.last_hidden_state is layers[-1]


def test_an_output_is_shown_in_a_line() -> None:
    layers = tuple(torch.zeros(2, 49, 32) for _ in range(3))
    shown = repr(EncoderOutput(layers, torch.tensor([49, 30]), 50.0))
    assert shown == "EncoderOutput(3 hidden states (2, 49, 32), valid frames [49, 30])"


WAVE = torch.zeros(2, 16_000)


@pytest.mark.parametrize(
    ("waveforms", "lengths", "told"),
    [
        (WAVE, torch.tensor([16_000, 18_000]), "lengths say 18000 samples, but .* have 16000"),
        (WAVE, [16_000, 16_000], r"lengths are list; expected a tensor \(2,\)"),
        (WAVE, torch.tensor([16_000]), r"lengths are torch.int64 \(1,\); expected"),
        (WAVE, torch.tensor(16_000), r"lengths are torch.int64 \(\); expected"),
        (WAVE[0], torch.tensor([16_000]), r"waveforms are torch.float32 \(16000,\); expected"),
        (WAVE[None], torch.tensor([16_000]), "waveforms are torch.float32"),
        (WAVE.short(), torch.tensor([16_000] * 2), "waveforms are torch.int16"),
        (np.zeros((2, 16_000), np.float32), torch.tensor([16_000] * 2), "waveforms are ndarray"),
    ],
)
def test_what_is_no_padded_batch_is_refused(waveforms: Any, lengths: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        tiny_encoder()(waveforms, lengths)
