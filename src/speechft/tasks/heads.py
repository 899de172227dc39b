"""Heads on top of features: per frame, or per utterance after mean pooling.

Shapes: B batch, T frames, D dim, H hidden, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FrameHead(nn.Module):
    """Optional linear projection, then a linear layer, for every frame.

    Source: s3prl 0.4 ``FrameLevel`` (SUPERB PR): D to 256 to the phones.

    Args:
        dim: D.
        classes: C.
        hidden: H; None leaves the projection out (two linear layers in a row are one).
    """

    def __init__(self, dim: int, classes: int, hidden: int | None = 256) -> None:
        super().__init__()
        self.projector = nn.Identity() if hidden is None else nn.Linear(dim, hidden)
        self.linear = nn.Linear(dim if hidden is None else hidden, classes)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, C); lengths are not needed."""
        logits: Tensor = self.linear(self.projector(features))
        return logits


class UtteranceHead(nn.Module):
    """Optional linear projection, mean over valid frames, linear layer.

    The mean is taken first: projection and mean are linear, so the result is that of s3prl 0.4's
    ``UtteranceLevel`` (SUPERB SID, ER, KS, IC), which projects every frame.

    Args:
        dim: D.
        classes: C.
        hidden: H; None leaves the projection out.
    """

    def __init__(self, dim: int, classes: int, hidden: int | None = 256) -> None:
        super().__init__()
        self.projector = nn.Identity() if hidden is None else nn.Linear(dim, hidden)
        self.linear = nn.Linear(dim if hidden is None else hidden, classes)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Map (B, T, D) with (B,) lengths to (B, C)."""
        logits: Tensor = self.linear(self.projector(mean_pool(features, lengths)))
        return logits


def mean_pool(features: Tensor, lengths: Tensor) -> Tensor:
    """Average (B, T, D) over the valid frames of each row: (B, D)."""
    frames = torch.arange(features.shape[1], device=features.device)
    mask = (frames < lengths[:, None]).to(features.dtype)
    return torch.einsum("btd,bt->bd", features, mask / lengths[:, None])
