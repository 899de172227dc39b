"""Group normalisation that leaves padding out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from speechft.encoders.group_norm import MaskedGroupNorm


def make(groups: int, channels: int, affine: bool = True) -> MaskedGroupNorm:
    norm = nn.GroupNorm(groups, channels, affine=affine)
    if affine:
        torch.manual_seed(1)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return MaskedGroupNorm.from_group_norm(norm)


@pytest.mark.parametrize(("groups", "channels"), [(6, 6), (2, 6), (1, 6)])
@pytest.mark.parametrize("affine", [True, False])
def test_equals_group_norm_in_float64_without_padding(
    groups: int, channels: int, affine: bool
) -> None:
    norm = make(groups, channels, affine)
    torch.manual_seed(2)
    frames = 32_000  # ten seconds at the first convolution's rate
    inputs = 0.3 * torch.randn(2, channels, frames) + 5.0
    weight, bias = (
        (p.detach().double() for p in (norm.weight, norm.bias)) if affine else (None,) * 2
    )
    expected = F.group_norm(inputs.double(), groups, weight, bias, norm.eps)
    norm.lengths = torch.tensor([frames, frames])
    torch.testing.assert_close(norm(inputs).double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("groups", [6, 2])
def test_rows_equal_group_norm_of_their_valid_part(groups: int) -> None:
    norm = make(groups, 6)
    torch.manual_seed(3)
    inputs = torch.randn(3, 6, 50) - 2.0
    norm.lengths = torch.tensor([50, 17, 1])
    for row, length in enumerate([50, 17]):
        part = inputs[row : row + 1, :, :length]
        expected = F.group_norm(part.double(), groups, norm.weight.double(), norm.bias.double())
        torch.testing.assert_close(
            norm(inputs)[row : row + 1, :, :length].double(), expected, atol=2e-6, rtol=0
        )


def test_padding_gets_no_gradient_and_gives_none() -> None:
    norm = make(6, 6)
    norm.lengths = torch.tensor([20, 12])
    inputs = torch.randn(2, 6, 20, generator=torch.Generator().manual_seed(4)).requires_grad_()
    norm(inputs)[:, :, :12].square().sum().backward()
    assert inputs.grad is not None
    assert not inputs.grad[1, :, 12:].any()
    assert inputs.grad[1, :, :12].any()


def test_keys_and_parameters_are_those_of_the_group_norm() -> None:
    plain = nn.GroupNorm(3, 6, eps=1e-3)
    masked = MaskedGroupNorm.from_group_norm(plain)
    assert masked.weight is plain.weight
    assert masked.bias is plain.bias
    assert masked.eps == plain.eps
    assert masked.state_dict().keys() == plain.state_dict().keys()


def test_without_lengths_it_is_plain_group_norm() -> None:
    norm = make(2, 6)
    inputs = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(5))
    assert torch.equal(norm(inputs), F.group_norm(inputs, 2, norm.weight, norm.bias, norm.eps))
