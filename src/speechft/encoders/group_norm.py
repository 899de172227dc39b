"""Group normalisation over valid frames only, so that features do not depend on the padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaskedGroupNorm(nn.GroupNorm):
    """GroupNorm whose statistics leave padding out; same parameters and keys as `nn.GroupNorm`.

    HuBERT Base and wav2vec 2.0 Base normalise each channel of their first convolution over time.
    With plain GroupNorm the padding of a batch is part of the statistics, and an utterance's
    features depend on its neighbours (transformers #21534, fairseq #3227). Sums are taken in
    float64: float32 sums over minutes of audio miss 1e-5.
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
        if self.lengths is None:
            return super().forward(inputs)
        batch, channels, frames = inputs.shape
        grouped = inputs.float().reshape(
            batch, self.num_groups, channels // self.num_groups, frames
        )
        padding = torch.arange(frames, device=inputs.device) >= self.lengths[:, None]
        padding = padding[:, None, None, :]
        count = (self.lengths * (channels // self.num_groups))[:, None, None, None].double()
        valid = grouped.masked_fill(padding, 0.0)
        mean = valid.sum((2, 3), keepdim=True, dtype=torch.float64) / count
        centred = (grouped - mean.float()).masked_fill(padding, 0.0)
        variance = centred.square().sum((2, 3), keepdim=True, dtype=torch.float64) / count
        scaled = centred * torch.rsqrt(variance + self.eps).float()
        result = scaled.reshape(batch, channels, frames)
        if self.affine:
            result = torch.addcmul(self.bias[:, None], result, self.weight[:, None])
        return result.to(inputs.dtype)
