"""The contract of an encoder: what goes in, what comes out, what the frozen downsampler is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from speechft.encoders.timing import FrameTiming
from speechft.errors import DataError

Mode = Literal["exact", "s3prl"]
MODES: tuple[Mode, ...] = ("exact", "s3prl")


@dataclass(frozen=True)
class EncoderOutput:
    """Hidden states of a batch.

    Shapes: B batch, T frames, D dim, L layers.
    """

    layers: tuple[Tensor, ...]
    """L + 1 tensors (B, T, D): the input of the first layer, then the output of each layer; the
    last is the encoder's final output, after its layer norm where it has one."""
    lengths: Tensor
    """(B,) int64 number of valid frames; what lies beyond is undefined."""
    frame_rate: float
    """Frames per second."""

    def __repr__(self) -> str:
        shape, frames = tuple(self.layers[-1].shape), self.lengths.tolist()
        return f"EncoderOutput({len(self.layers)} hidden states {shape}, valid frames {frames})"

    @property
    def hidden_states(self) -> Tensor:
        """(L + 1, B, T, D) all hidden states in one tensor."""
        return torch.stack(self.layers)

    @property
    def last_hidden_state(self) -> Tensor:
        """(B, T, D) the encoder's final output."""
        return self.layers[-1]


class Encoder(nn.Module, ABC):
    """A speech encoder: a downsampler (for most a stack of convolutions) and layers above it."""

    num_layers: int
    """L, not counting the input of the first layer."""
    dim: int
    """D."""
    timing: FrameTiming
    """Where its frames lie in time."""
    window: int | None = None
    """Samples that it always sees, shorter utterances with silence behind them: it takes no longer
    ones, and what lies above the downsampler reads the silence too. None where it takes any."""
    minds_shapes: bool = True
    """Whether a batch of a new length costs more than its arithmetic, as convolutions do whose
    kernels are set up for every shape."""

    @property
    def frame_rate(self) -> float:
        """Return frames per second."""
        return self.timing.frame_rate

    @property
    def hop_size(self) -> int:
        """Return the samples between frames."""
        return self.timing.hop_size

    def forward(self, waveforms: Tensor, lengths: Tensor) -> EncoderOutput:
        """Encode a padded batch.

        Args:
            waveforms: (B, S) 16 kHz samples in [-1, 1].
            lengths: (B,) valid samples of each; what lies beyond them is ignored.

        Returns:
            L + 1 hidden states.

        Raises:
            DataError: This is no padded batch, or an utterance is shorter than one frame.
        """
        _check(waveforms, lengths)
        return self.contextualize(self.downsample(waveforms, lengths), lengths)

    @abstractmethod
    def downsample(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Run the downsampler alone, the part that stable fine-tuning keeps frozen.

        Args:
            waveforms: (B, S) samples.
            lengths: (B,) valid samples.

        Returns:
            (B, T, C) features.
        """

    @abstractmethod
    def contextualize(
        self, features: Tensor, lengths: Tensor, time_mask: Tensor | None = None
    ) -> EncoderOutput:
        """Run everything above the downsampler.

        Args:
            features: (B, T, C) from `downsample`.
            lengths: (B,) valid samples (not frames).
            time_mask: (B, T) bool, frames to replace by the mask embedding (pre-training).
        """

    @abstractmethod
    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Return the number of valid frames for a number of samples, elementwise."""

    @abstractmethod
    def downsampler_names(self) -> frozenset[str]:
        """Return the names of the parameters that belong to the downsampler."""

    def downsampler_settings(self) -> str:
        """Return, as text, what the downsampler's output depends on beside its parameters."""
        return type(self).__name__

    @property
    def depends_on_batch(self) -> bool:
        """Whether an utterance's features depend on the others in its batch."""
        return False

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the encoder into an empty folder, in the Hugging Face layout."""


def pooled(output: EncoderOutput) -> Tensor:
    """Return the mean over valid frames of every hidden state.

    Returns:
        (B, L + 1, D). A sufficient statistic for any probe that is linear before mean pooling.
    """
    frames = output.layers[0].shape[1]
    mask = torch.arange(frames, device=output.lengths.device) < output.lengths[:, None]
    weights = mask.to(output.layers[0].dtype) / output.lengths[:, None]
    return torch.stack(
        [torch.einsum("btd,bt->bd", layer, weights) for layer in output.layers], dim=1
    )


def _check(waveforms: Tensor, lengths: Tensor) -> None:
    """Refuse what is no padded batch; else frames would be counted that are not there."""

    def told(value: object) -> str:
        kind = type(value).__name__
        return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else kind

    batch = isinstance(waveforms, Tensor) and waveforms.dim() == 2 and waveforms.is_floating_point()
    if not batch:
        raise DataError(
            f"waveforms are {told(waveforms)}; expected a floating-point tensor (B, S) of 16 kHz "
            "samples in [-1, 1]",
            hint="of one utterance: torch.as_tensor(samples, dtype=torch.float32)[None]",
        )
    count, size = waveforms.shape
    if not isinstance(lengths, Tensor) or lengths.shape != (count,):
        raise DataError(
            f"lengths are {told(lengths)}; expected a tensor ({count},) of valid samples, one an "
            "utterance",
            hint="torch.tensor([number of samples, ...])",
        )
    if count and (longest := int(lengths.max())) > size:
        raise DataError(f"lengths say {longest} samples, but the waveforms have {size}")
