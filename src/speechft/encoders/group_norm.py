"""Group normalisation over valid frames only, so that features do not depend on the padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskedGroupNorm(nn.GroupNorm):
    """GroupNorm whose statistics leave padding out; same parameters and keys as `nn.GroupNorm`.

    HuBERT Base and wav2vec 2.0 Base normalise each channel of their first convolution over time.
    With plain GroupNorm the padding of a batch is part of the statistics, and an utterance's
    features depend on its neighbours (transformers #21534, fairseq #3227). Each utterance's valid
    part goes through torch's fused kernel by itself, whose float32 statistics are good to 1e-6
    over minutes of audio.
    """

    lengths: Tensor | None = None
    """(B,) valid frames of the batch in flight; None normalises over everything."""

    @classmethod
    def from_group_norm(cls, module: nn.GroupNorm) -> MaskedGroupNorm:
        """Take over the parameters of a GroupNorm."""
        twin = cls(module.num_groups, module.num_channels, module.eps, module.affine)
        twin.weight, twin.bias = module.weight, module.bias
        return twin

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise (B, C, T) per group over channels of the group and valid frames."""
        frames = inputs.shape[2]
        lengths = [frames] if self.lengths is None else self.lengths.tolist()
        if min(lengths) == frames:
            return self._normalize(inputs)
        rows = [
            F.pad(self._normalize(row[None, :, :length]), (0, frames - length))
            for row, length in zip(inputs, lengths, strict=True)
        ]
        return torch.cat(rows)

    def _normalize(self, inputs: Tensor) -> Tensor:
        return torch.group_norm(inputs, self.num_groups, self.weight, self.bias, self.eps)
