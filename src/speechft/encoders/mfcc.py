"""MFCC behind the encoder contract: the floor that a learned encoder has to beat."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from speechft.encoders.base import Encoder, EncoderOutput
from speechft.encoders.timing import FrameTiming
from speechft.errors import CheckpointError, DataError

_FRAME, _HOP = 400, 320


class MfccEncoder(Encoder):
    """13 Kaldi MFCCs with first and second differences, aligned with a 320-stride encoder.

    Frame t covers samples [320 t, 320 t + 400), exactly as frame t of HuBERT does, so the same
    features serve as targets of HuBERT's first pre-training iteration (Hsu et al. 2021,
    arXiv 2106.07447, section III-A; there at 100 frames per second).

    Args:
        cmvn: Subtract each utterance's mean and divide by its standard deviation.
    """

    num_layers = 0
    dim = 39
    timing = FrameTiming(_HOP, _FRAME)
    minds_shapes = False

    def __init__(self, *, cmvn: bool = False) -> None:
        super().__init__()
        from lhotse.features.kaldi.layers import Wav2MFCC

        self.cmvn = cmvn
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # snip_edges is what we want; NumPy 2 deprecations
            self.transform: nn.Module = Wav2MFCC(
                sampling_rate=16_000,
                frame_length=_FRAME / 16_000,
                frame_shift=_HOP / 16_000,
                dither=0.0,
                snip_edges=True,
                num_filters=23,
                num_ceps=13,
            )

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Return floor((n - 400) / 320) + 1."""
        return torch.div(lengths - _FRAME, _HOP, rounding_mode="floor") + 1

    def downsample(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Return (B, T, 39) features."""
        if int(lengths.min()) < _FRAME:
            raise DataError(f"an utterance has {int(lengths.min())} samples, fewer than one frame")
        frames = self.frame_lengths(lengths)
        longest = int(frames.max())
        static = self.transform(waveforms)[:, :longest]  # a frame hears nothing of the others
        first = _difference(static, frames)
        rows = torch.cat([static, first, _difference(first, frames)], dim=-1)
        if self.cmvn:
            for row, count in zip(rows, frames.tolist(), strict=True):
                own = row[:count]
                own.copy_((own - own.mean(0)) / (own.std(0, correction=0) + 1e-5))
        beyond = torch.arange(longest, device=rows.device) >= frames[:, None]
        return rows.masked_fill(beyond[..., None], 0.0)

    def contextualize(
        self, features: Tensor, lengths: Tensor, time_mask: Tensor | None = None
    ) -> EncoderOutput:
        """Return the features as the only hidden state."""
        return EncoderOutput((features,), self.frame_lengths(lengths), self.frame_rate)

    def downsampler_names(self) -> frozenset[str]:
        """Return nothing: there is nothing to train."""
        return frozenset()

    def save(self, folder: Path) -> None:
        """Refuse: MFCC has no weights.

        Raises:
            CheckpointError: Always.
        """
        raise CheckpointError("MFCC features have no weights to save")


def _difference(features: Tensor, frames: Tensor) -> Tensor:
    """Return Kaldi's delta over two frames either side, edges repeated, of utterances.

    Args:
        features: (B, T, D).
        frames: (B,) of T that are an utterance's.

    Returns:
        (B, T, D).
    """
    places = torch.arange(features.shape[1], device=features.device)[None]
    last = (frames - 1)[:, None]

    def moved(by: int) -> Tensor:
        at = torch.minimum((places + by).clamp(min=0), last)
        return features.gather(1, at[..., None].expand(-1, -1, features.shape[2]))

    near, far = moved(1) - moved(-1), moved(2) - moved(-2)
    return (near + 2 * far) / 10
