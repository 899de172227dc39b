"""Masked prediction of clusters (HuBERT): the mask, the head, the loss of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechft.data.batching import Batch
from speechft.encoders.base import Encoder
from speechft.finetuning.config import Masking
from speechft.finetuning.objective import Objective

_IGNORED = -100


class CosineHead(nn.Module):
    """Cosine similarity to cluster embeddings: logits cos(A h_t, e_c) / 0.1.

    Source: HuBERT (Hsu et al. 2021, arXiv 2106.07447, equation 3).

    Args:
        dim: Of the encoder.
        inner: Of the embeddings.
        clusters: C.
    """

    def __init__(self, dim: int, inner: int, clusters: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, inner)
        self.embed = nn.Linear(inner, clusters, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, C)."""
        projected = F.normalize(self.project(features), dim=-1)
        return projected @ F.normalize(self.embed.weight, dim=-1).T / 0.1


class HubertObjective(Objective):
    """Cross entropy of the clusters over masked frames, and with a weight over the others.

    Source: HuBERT (arXiv 2106.07447) and its code in fairseq (``HubertCriterion``), which adds the
    mean square of the downsampler's output.

    Args:
        encoder: The encoder in training.
        clusters: C.
        masking: Which frames are masked, and the weight of the others.
        dim: Of the cluster embeddings.
        downsampler_gradient: Factor of the gradient that reaches the downsampler.
        feature_penalty: Weight of the mean square of the downsampler's output.
    """

    def __init__(
        self,
        encoder: Encoder,
        clusters: int,
        masking: Masking,
        dim: int = 96,
        *,
        downsampler_gradient: float = 1.0,
        feature_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = CosineHead(encoder.dim, dim, clusters)
        self.masking = masking
        self.downsampler_gradient, self.feature_penalty = downsampler_gradient, feature_penalty

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss; ``batch.targets`` are (B, T) clusters, -100 beyond the end."""
        assert batch.waveforms is not None
        targets: Tensor = batch.targets
        valid = targets != _IGNORED
        mask = self._mask(valid)
        counts = _counts(mask, valid).clamp(min=1) if batch.counts is None else batch.counts
        features = self._features(batch.waveforms, batch.lengths)[:, : targets.shape[1]]
        output = self.encoder.contextualize(features, batch.lengths, mask)
        logits = self.head(output.last_hidden_state)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        losses = losses.view_as(targets)
        hidden_loss = losses[mask].sum() / counts[0]
        seen_loss = losses[~mask & valid].sum() / counts[1]
        loss: Tensor = hidden_loss + self.masking.unmasked_weight * seen_loss
        if self.feature_penalty:
            squares = features.float().square().mean(-1)
            loss = loss + self.feature_penalty * squares[valid].sum() / counts[2]
        return loss

    def counts(self, batch: Batch) -> Tensor:
        """Return the numbers of masked, seen and all frames that `forward` will find, (3,)."""
        valid = batch.targets != _IGNORED
        return _counts(self._mask(valid), valid)

    def _mask(self, valid: Tensor) -> Tensor:
        return span_mask(valid, self.masking.probability, self.masking.span)

    def _features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        features = self.encoder.downsample(waveforms, lengths)
        if self.downsampler_gradient != 1.0 and features.requires_grad:
            hooked: Any = features  # the method has no types
            hooked.register_hook(lambda gradient: gradient * self.downsampler_gradient)
        return features


def _counts(mask: Tensor, valid: Tensor) -> Tensor:
    return torch.stack([mask.sum(), (~mask & valid).sum(), valid.sum()])


def span_mask(valid: Tensor, probability: float, span: int) -> Tensor:
    """Draw a mask of spans: every valid frame starts one with ``probability``.

    Args:
        valid: (B, T) bool.
        probability: Of a frame to start a span.
        span: Frames of a span.

    Returns:
        (B, T) bool, within ``valid``; every row with a valid frame has a masked one.
    """
    starts = (torch.rand(valid.shape, device=valid.device) < probability) & valid
    empty = ~starts.any(1)
    starts[empty, 0] = True
    mask = F.max_pool1d(F.pad(starts.float()[:, None], (span - 1, 0)), span, stride=1)[:, 0] > 0
    return mask & valid


def pad_clusters(targets: Sequence[Tensor]) -> Tensor:
    """Stack (T_i,) clusters to (B, T); the loss leaves out what is padded."""
    longest = max(len(row) for row in targets)
    return torch.stack([F.pad(row, (0, longest - len(row)), value=_IGNORED) for row in targets])
