"""Several encoders over the same batches in one pass, the frozen downsampler computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from speechft.console import progress_bar
from speechft.devices import Precision, autocast, resolve_precision, returning_memory
from speechft.encoders.base import Encoder, EncoderOutput
from speechft.errors import ConfigError
from speechft.features.downsampler import DownsamplerCache, downsampler_key
from speechft.features.extract import batch_limits, encode, group_by_length, in_float

if TYPE_CHECKING:
    from lhotse.cut import Cut


def encode_together(
    encoders: Sequence[Encoder],
    cuts: Sequence[Cut],
    *,
    device: torch.device,
    precision: Precision = "auto",
    batch_seconds: float | None = None,
    description: str = "encoders",
) -> Iterator[tuple[list[Cut], list[EncoderOutput]]]:
    """Yield batches of cuts with what every encoder makes of them; nothing is kept.

    Encoders whose downsampler is the same (see `downsampler_key`) share its output within a batch,
    so memory does not grow with the audio.

    Args:
        encoders: In evaluation mode.
        cuts: What to encode.
        device: Where to compute.
        precision: See `speechft.devices`.
        batch_seconds: Audio in a batch, padding included; None takes what suits the encoders.
        description: Text of the progress bar.

    Raises:
        ConfigError: What an encoder makes of an utterance depends on the others in its batch.
        DataError: A recording cannot be read or is shorter than one frame.
    """
    if any(encoder.depends_on_batch for encoder in encoders):
        raise ConfigError("an encoder in mode s3prl cannot be run beside others: use mode exact")
    resolved = resolve_precision(precision, device)
    for encoder in encoders:
        encoder.to(device)
    groups = grouped_together(encoders, cuts, device=device, batch_seconds=batch_seconds)
    _, multiple = _limits(encoders, device, batch_seconds)
    keys = [downsampler_key(encoder, resolved) for encoder in encoders]
    shared = {key for key in keys if key is not None and keys.count(key) > 1}
    with progress_bar(description, len(cuts)) as bar:
        for group in returning_memory(groups, device):
            cache = DownsamplerCache()
            outputs = []
            with torch.inference_mode(), autocast(resolved, device):
                for encoder, key in zip(encoders, keys, strict=True):
                    kept = cache if key in shared else None
                    outputs.append(in_float(encode(encoder, group, device, kept, key, multiple)))
            yield group, outputs
            bar.advance(len(group))


def grouped_together(
    encoders: Sequence[Encoder],
    cuts: Sequence[Cut],
    *,
    device: torch.device,
    batch_seconds: float | None = None,
) -> list[list[Cut]]:
    """Return the batches of `encode_together`; of the cuts of some of them it makes the same."""
    seconds, _ = _limits(encoders, device, batch_seconds)
    window = max((e.window for e in encoders if e.window is not None), default=None)
    return list(group_by_length(cuts, seconds, window))


def _limits(
    encoders: Sequence[Encoder], device: torch.device, batch_seconds: float | None
) -> tuple[float, int]:
    """Return the smallest batch that any of them asks for, see `batch_limits`."""
    limits = [batch_limits(encoder, device, batch_seconds) for encoder in encoders]
    return min(limits, key=lambda limit: (limit[0], -limit[1]))
