"""Pooling of an encoder's output."""

from __future__ import annotations

import torch

from speechft.encoders.base import EncoderOutput, pooled


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
