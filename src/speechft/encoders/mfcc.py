"""MFCC behind the encoder contract: the floor that a learned encoder has to beat."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
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
        rows = []
        for waveform, samples in zip(waveforms, lengths.tolist(), strict=True):
            static = self.transform(waveform[None, :samples])[0]
            first = _difference(static)
            row = torch.cat([static, first, _difference(first)], dim=-1)
            if self.cmvn:
                row = (row - row.mean(0)) / (row.std(0, correction=0) + 1e-5)
            rows.append(F.pad(row, (0, 0, 0, int(frames.max()) - len(row))))
        return torch.stack(rows)

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


def _difference(features: Tensor) -> Tensor:
    """Return Kaldi's delta over two frames either side, edges repeated: (T, D) to (T, D)."""
    padded = F.pad(features.T[None], (2, 2), mode="replicate")[0].T
    count = len(features)
    near = padded[3 : 3 + count] - padded[1 : 1 + count]
    far = padded[4 : 4 + count] - padded[0:count]
    return (near + 2 * far) / 10
