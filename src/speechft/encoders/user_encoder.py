"""An encoder of the user's own behind the contract: checked once, and at every call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from speechft.encoders.base import Encoder, EncoderOutput, Mode
from speechft.encoders.timing import SAMPLE_RATE, FrameTiming
from speechft.errors import CheckpointError, ConfigError, DataError

_TRIED = (2 * SAMPLE_RATE, SAMPLE_RATE + 4321)
"""Samples of the noises that an encoder is tried on."""
_SLACK = 4
"""Frames that a convolution may lack, or padding may add, at the ends of an utterance."""

_EXPECTED = (
    "expected are sampling_rate (Hz), output_dim, hop_size_in_ms, and a call from waveforms "
    "(batch, samples) and lengths (batch,) to hidden states (batch, frames, output_dim), one or "
    "several in a list"
)


class UserEncoder(Encoder):
    """An object of the user's own class, in evaluation mode.

    Where it has ``frame_lengths(lengths)``, the valid frames of each utterance, it is given whole
    batches; else one utterance at a time, whose frames are all valid. ``receptive_field_in_ms`` is
    the stretch that a frame reads; without it frames are taken to read their hop.

    Args:
        encoder: The object: ``sampling_rate``, ``output_dim``, ``hop_size_in_ms`` and a call.
        name: What it is called in messages.
        mode: Only ``exact``.

    Raises:
        CheckpointError: It lacks something, or what it gives does not fit what it says.
        ConfigError: Another mode is asked for.
    """

    def __init__(self, encoder: Any, name: str, mode: Mode = "exact") -> None:
        super().__init__()
        if mode != "exact":
            raise ConfigError(
                f"mode {mode!r} is not known for {name}, an encoder of your own",
                hint="use mode 'exact'",
            )
        self.name, self._encoder = name, [encoder]  # a list keeps a module's names as they are
        self.module = encoder.eval() if isinstance(encoder, nn.Module) else None
        if not callable(encoder):
            raise CheckpointError(f"{name} cannot be called; {_EXPECTED}")
        self.rate = round(self._number("sampling_rate"))
        self.dim = round(self._number("output_dim"))
        hop = self._number("hop_size_in_ms") * SAMPLE_RATE / 1000
        field = self._number("receptive_field_in_ms", hop * 1000 / SAMPLE_RATE)
        if abs(hop - round(hop)) > 1e-6:
            raise CheckpointError(
                f"{name}: hop_size_in_ms {hop * 1000 / SAMPLE_RATE:g} is {hop:.2f} samples of "
                "16 kHz, expected a whole number of them, such as 20 ms"
            )
        self.timing = FrameTiming(round(hop), round(field * SAMPLE_RATE / 1000))
        self._lacking = 0
        self.num_layers = self._try()

    def _number(self, name: str, default: float | None = None) -> float:
        value = getattr(self._encoder[0], name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            given = f"is {value!r}" if hasattr(self._encoder[0], name) else "is missing"
            raise CheckpointError(f"{self.name}: {name} {given}; {_EXPECTED}")
        return float(value)

    @torch.inference_mode()
    def _try(self) -> int:
        """Encode two noises; return the number of layers."""
        generator = torch.Generator().manual_seed(0)
        place = next((p.device for p in self.parameters()), torch.device("cpu"))
        noise = 0.1 * torch.randn(len(_TRIED), max(_TRIED), generator=generator).to(place)
        lengths = torch.tensor(_TRIED, device=place)
        output = self(noise, lengths)
        for samples, frames in zip(_TRIED, output.lengths.tolist(), strict=True):
            expected = samples // self.hop_size
            if abs(frames - expected) > _SLACK:
                raise CheckpointError(
                    f"{self.name}: {samples / SAMPLE_RATE:.2f} s gave {frames} frames; with "
                    f"hop_size_in_ms {1000 * self.timing.hop_seconds:g} expected are about "
                    f"{expected}"
                )
            windows = int(self._windows(torch.tensor(samples)))
            self._lacking = max(self._lacking, windows - frames)
        return len(output.layers) - 1

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Return what the encoder says, else the windows that fit, less those noise lacked."""
        if hasattr(self._encoder[0], "frame_lengths"):
            told: Tensor = self._encoder[0].frame_lengths(self._at_rate(lengths))
            return told
        return (self._windows(lengths) - self._lacking).clamp(min=0)

    def _windows(self, lengths: Tensor) -> Tensor:
        beyond = lengths - self.timing.receptive_field
        return torch.div(beyond, self.hop_size, rounding_mode="floor") + 1

    def downsample(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Return the (B, S, 1) samples: nothing is known to be frozen."""
        return waveforms[..., None]

    def contextualize(
        self, features: Tensor, lengths: Tensor, time_mask: Tensor | None = None
    ) -> EncoderOutput:
        """Run the encoder on the (B, S, 1) samples."""
        rows = [
            self._resampled(row[:samples, 0])
            for row, samples in zip(features, lengths.tolist(), strict=True)
        ]
        if hasattr(self._encoder[0], "frame_lengths"):
            counts = torch.tensor([len(row) for row in rows], device=lengths.device)
            layers = self._states(pad_sequence(rows, batch_first=True), counts)
            valid = self.frame_lengths(lengths).to(lengths.device)
            if int(valid.max()) > layers[0].shape[1]:
                raise CheckpointError(
                    f"{self.name}: frame_lengths says {int(valid.max())} frames, "
                    f"{layers[0].shape[1]} came out"
                )
        else:
            parts = [self._states(row[None], torch.tensor([len(row)])) for row in rows]
            if len({len(part) for part in parts}) > 1:
                raise CheckpointError(f"{self.name} gave more hidden states for some utterances")
            by_layer = zip(*parts, strict=True)
            layers = [pad_sequence([t[0] for t in states], batch_first=True) for states in by_layer]
            valid = torch.tensor([part[0].shape[1] for part in parts], device=lengths.device)
        if int(valid.min()) < 1:
            raise DataError(f"{self.name} gave no frame for an utterance")
        self._check_finite(layers, valid)
        return EncoderOutput(tuple(layers), valid, self.frame_rate)

    def _states(self, waveforms: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        """Call the encoder on waveforms of its own rate, and check what comes out."""
        place = waveforms.device
        if self.module is None:  # what is no module cannot be moved
            waveforms = waveforms.cpu()
        try:
            found = self._encoder[0](waveforms, lengths.to(waveforms.device))
        except Exception as error:  # the user's code may raise anything
            raise CheckpointError(
                f"{self.name} fails on waveforms {tuple(waveforms.shape)} and lengths: "
                f"{type(error).__name__}: {error}"
            ) from error
        states = list(found) if isinstance(found, list | tuple) else [found]
        shapes = [tuple(s.shape) if isinstance(s, Tensor) else type(s).__name__ for s in states]
        first = shapes[0] if shapes else ()
        fits = len(first) == 3 and (first[0], first[2]) == (len(waveforms), self.dim)
        if not fits or any(shape != first for shape in shapes):
            odd = next((s for s in shapes if s != first), first) if fits else first
            raise CheckpointError(
                f"{self.name} gave {odd or 'nothing'} for waveforms {tuple(waveforms.shape)}; "
                f"expected are hidden states ({len(waveforms)}, frames, {self.dim}), all of one "
                "shape"
            )
        return [state.to(place, torch.float32) for state in states]

    def _check_finite(self, layers: Sequence[Tensor], valid: Tensor) -> None:
        frames = torch.arange(layers[0].shape[1], device=valid.device) < valid[:, None]
        for number, layer in enumerate(layers):
            if not layer[frames.to(layer.device)].isfinite().all():
                raise CheckpointError(
                    f"{self.name}: hidden state {number} holds NaN or infinite values, expected "
                    "are finite ones"
                )

    def _resampled(self, row: Tensor) -> Tensor:
        if self.rate == SAMPLE_RATE:
            return row
        from lhotse.augmentation import get_or_create_resampler

        resampled: Tensor = get_or_create_resampler(SAMPLE_RATE, self.rate)(row.cpu()[None])[0]
        return resampled.to(row.device)

    def _at_rate(self, lengths: Tensor) -> Tensor:
        """Return how many samples of the encoder's rate there are, as the resampler rounds."""
        if self.rate == SAMPLE_RATE:
            return lengths
        return torch.div(lengths * self.rate + SAMPLE_RATE - 1, SAMPLE_RATE, rounding_mode="floor")

    def downsampler_names(self) -> frozenset[str]:
        """Return nothing: what could be frozen is not known."""
        return frozenset()

    def save(self, folder: Path) -> None:
        """Refuse.

        Raises:
            CheckpointError: Always.
        """
        raise CheckpointError(f"{self.name} is an encoder of your own: it saves itself")


def user_encoder(encoder: Any, name: str, mode: Mode = "exact") -> Encoder:
    """Return an object behind the contract; one of speechft's own encoders is behind it already.

    Raises:
        CheckpointError: It is no encoder, see `UserEncoder`.
        ConfigError: It does not compute in that mode.
    """
    if not isinstance(encoder, Encoder):
        return UserEncoder(encoder, name, mode)
    has = getattr(encoder, "mode", "exact")
    if has != mode:
        raise ConfigError(
            f"{name} computes in mode {has!r}, asked for is {mode!r}",
            hint="load it in that mode: load_encoder(..., mode=...)",
        )
    return encoder.eval()
