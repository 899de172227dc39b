"""Speaker embeddings for verification: the x-vector head and its losses (SUPERB ASV).

Shapes: B batch, T frames, D dim, H hidden, C speakers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pooling = Literal["statistics", "mean"]
_CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))
"""Frames and dilation of the five layers."""
LOST_FRAMES = sum((size - 1) * dilation for size, dilation in _CONTEXTS)
"""Frames that the layers' contexts use up: 14."""


class TimeDelayLayer(nn.Module):
    """A linear layer over a window of frames, then ReLU.

    The weight is (H, size x D), frame by frame, as s3prl 0.4's ``TDNN`` keeps it.
    """

    def __init__(self, dim: int, hidden: int, size: int, dilation: int) -> None:
        super().__init__()
        self.kernel = nn.Linear(dim * size, hidden)
        self.size, self.dilation = size, dilation

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T - (size - 1) dilation, H)."""
        if self.size == 1:
            return F.relu(self.kernel(features))
        weight = self.kernel.weight.view(len(self.kernel.weight), self.size, -1).transpose(1, 2)
        output = F.conv1d(
            features.transpose(1, 2), weight, self.kernel.bias, dilation=self.dilation
        )
        return F.relu(output.transpose(1, 2))


class XVectorHead(nn.Module):
    """Projection, five time-delay layers, pooling over time, two linear layers (x-vector).

    Source: Snyder et al. 2018; s3prl 0.4 ``downstream/sv_voxceleb1``; SUPERB: projection 512,
    pooled size 1500, statistics pooling.

    Args:
        dim: D.
        hidden: H, size of the projection and of the embedding.
        pooled: Size of the last time-delay layer.
        pooling: ``statistics`` (mean and standard deviation, unbiased) or ``mean``.
        extra_frame: Pool one frame too many of all but the longest utterances of a batch, as
            s3prl does in training; without it a batch gives what single utterances give.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 512,
        pooled: int = 1500,
        *,
        pooling: Pooling = "statistics",
        extra_frame: bool = False,
    ) -> None:
        super().__init__()
        self.projector = nn.Linear(dim, hidden)
        sizes = [hidden] * len(_CONTEXTS) + [pooled]
        self.layers = nn.ModuleList(
            TimeDelayLayer(sizes[n], sizes[n + 1], *context) for n, context in enumerate(_CONTEXTS)
        )
        self.pooling, self.extra_frame = pooling, extra_frame
        self.linear1 = nn.Linear(pooled * (2 if pooling == "statistics" else 1), hidden)
        self.linear2 = nn.Linear(hidden, hidden)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, T, D) with (B,) lengths to two (B, H).

        The first are vectors for the training loss, the second embeddings of unit length.

        Raises:
            ValueError: An utterance has no frame left after the layers' contexts.
        """
        first = F.relu(self.linear1(self.pool(features, lengths)))
        return F.relu(self.linear2(first)), F.normalize(first, dim=-1, eps=1e-12)

    def pool(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Map (B, T, D) with (B,) lengths to (B, P) statistics over time."""
        hidden = self.projector(features)
        for layer in self.layers:
            hidden = layer(hidden)
        lengths = lengths - LOST_FRAMES
        if self.extra_frame:
            lengths = torch.where(lengths < hidden.shape[1], lengths + 1, lengths)
        least = 2 if self.pooling == "statistics" else 1
        if int(lengths.min()) < least:
            raise ValueError(
                f"an utterance has {int(lengths.min()) + LOST_FRAMES} frames: the x-vector needs "
                f"at least {LOST_FRAMES + least}"
            )
        mask = (torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None])[..., None]
        count = lengths[:, None].to(hidden.dtype)
        mean: Tensor = (hidden * mask).sum(1) / count
        if self.pooling == "mean":
            return mean
        squares = ((hidden - mean[:, None]) * mask).square().sum(1)
        variance = squares / (count - 1)
        # the gradient of the root at 0 is infinite; a constant unit has deviation 0, gradient 0
        deviation = torch.where(variance > 0, variance, 1.0).sqrt() * (variance > 0)
        return torch.cat([mean, deviation], dim=-1)


class SpeakerHead(nn.Module):
    """X-vector and the directions of the training speakers.

    Args:
        dim: D.
        speakers: C.
        hidden: H.
        pooled: Size of the last time-delay layer.
        biased: Score speakers by a linear layer with bias rather than by cosines.
        pooling: See `XVectorHead`.
        extra_frame: See `XVectorHead`.
    """

    def __init__(
        self,
        dim: int,
        speakers: int,
        hidden: int,
        pooled: int,
        *,
        biased: bool = False,
        pooling: Pooling = "statistics",
        extra_frame: bool = False,
    ) -> None:
        super().__init__()
        self.xvector = XVectorHead(dim, hidden, pooled, pooling=pooling, extra_frame=extra_frame)
        self.speakers = nn.Parameter(torch.empty(hidden, speakers))
        nn.init.xavier_normal_(self.speakers)
        self.bias = nn.Parameter(torch.zeros(speakers)) if biased else None

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Map (B, T, D) to (B, C + H): scores of the speakers, then the embedding."""
        vectors, embeddings = self.xvector(features, lengths)
        if self.bias is None:
            scores = F.normalize(vectors, dim=1) @ F.normalize(self.speakers, dim=0)
        else:
            scores = vectors @ self.speakers + self.bias
        return torch.cat([scores, embeddings], dim=1)


def softmax(scores: Tensor, labels: Tensor, *, ignored: int = -1) -> Tensor:
    """Return cross entropies, (B,), of (B, C) scores of speakers (B,); 0 where ignored."""
    return F.cross_entropy(scores, labels, reduction="none", ignore_index=ignored)


def am_softmax(
    cosines: Tensor, labels: Tensor, *, scale: float = 30.0, margin: float = 0.4, ignored: int = -1
) -> Tensor:
    """Return additive-margin softmax losses, (B,): of ``scale (cos - margin at the target)``.

    Source: Wang et al. 2018 (arXiv 1801.05599); SUPERB ASV: scale 30, margin 0.4.

    Args:
        cosines: (B, C) to the directions of speakers.
        labels: (B,) speakers.
        scale: s.
        margin: m.
        ignored: Label whose loss is 0.
    """
    margins = margin * F.one_hot(labels.clamp(min=0), cosines.shape[1])
    return softmax(scale * (cosines - margins), labels, ignored=ignored)


def aam_softmax(
    cosines: Tensor,
    labels: Tensor,
    *,
    scale: float = 15.0,
    margin: float = 0.3,
    easy_margin: bool = False,
    ignored: int = -1,
) -> Tensor:
    """Return additive angular margin softmax losses, (B,): the target's angle grows by the margin.

    Source: Deng et al. 2019 (arXiv 1801.07698), with a linear penalty where the angle would pass
    pi, as in s3prl 0.4: scale 15, margin 0.3.

    Args:
        cosines: (B, C) to the directions of speakers.
        labels: (B,) speakers.
        scale: s.
        margin: m, in radians.
        easy_margin: Apply the margin to angles below pi / 2 only.
        ignored: Label whose loss is 0.
    """
    sines = (1.0 - cosines.square()).clamp(0, 1).sqrt()
    moved = cosines * math.cos(margin) - sines * math.sin(margin)
    if easy_margin:
        moved = torch.where(cosines > 0, moved, cosines)
    else:
        linear = cosines - math.sin(math.pi - margin) * margin
        moved = torch.where(cosines > math.cos(math.pi - margin), moved, linear)
    chosen = F.one_hot(labels.clamp(min=0), cosines.shape[1]).to(cosines.dtype)
    return softmax(scale * (chosen * moved + (1.0 - chosen) * cosines), labels, ignored=ignored)


SPEAKER_LOSSES: dict[str, Callable[..., Tensor]] = {
    "softmax": softmax,
    "am-softmax": am_softmax,
    "aam-softmax": aam_softmax,
}
"""Losses of speakers by name."""
