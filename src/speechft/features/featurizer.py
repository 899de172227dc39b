"""The learnable weighted sum over hidden states that SUPERB puts between encoder and probe."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightedSum(nn.Module):
    """Softmax-weighted sum of the hidden states.

    Shapes: N hidden states (L + 1), B batch, T frames, D dim.

    Source: s3prl 0.4 ``Featurizer``, SUPERB (Yang et al. 2021, arXiv 2105.01051).

    Args:
        states: N.
        normalize: Layer-normalise each hidden state first, without parameters.
    """

    mask: Tensor

    def __init__(self, states: int, *, normalize: bool = False) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(states))
        self.register_buffer("mask", torch.zeros(states), persistent=False)
        self.normalize = normalize

    def see_only(self, state: int) -> None:
        """Give one hidden state the whole weight: the sum is that state, and stays so."""
        self.mask.fill_(-torch.inf)
        self.mask[state] = 0.0

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Reduce (N, B, T, D) to (B, T, D)."""
        if self.normalize:
            hidden_states = F.layer_norm(hidden_states, hidden_states.shape[-1:])
        summed: Tensor = torch.tensordot((self.weights + self.mask).softmax(0), hidden_states, 1)
        return summed
