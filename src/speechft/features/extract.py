"""One pass of a frozen encoder over cuts: pooled statistics, and frames where they are wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from speechft.console import progress_bar
from speechft.data.batching import PAD_TO, pad
from speechft.data.manifest import load_waveform
from speechft.devices import Precision, Resolved, autocast, resolve_precision
from speechft.encoders.base import Encoder, EncoderOutput, pooled

if TYPE_CHECKING:
    from lhotse.cut import Cut


LARGE = 20_000_000
"""Parameters of an encoder whose arithmetic outweighs the setting up of kernels."""


@dataclass
class Features:
    """Features of a set of cuts by cut id. Shapes: N hidden states (L + 1), T frames, D dim."""

    pooled: dict[str, Tensor] = field(default_factory=dict)
    """(N, D) float32 mean over time of every hidden state."""
    frames: dict[str, Tensor] = field(default_factory=dict)
    """(N, T, D) float16 hidden states."""


class DownsamplerCache:
    """Outputs of the frozen downsampler in memory, shared by all encoders that have the same one.

    Stable fine-tuning and interpolation leave the downsampler as it was, so pre-trained, tuned and
    merged encoders share it bit for bit.

    Args:
        limit_bytes: Beyond this nothing more is kept.
    """

    def __init__(self, limit_bytes: int = 4 << 30) -> None:
        self._store: dict[tuple[str, str], tuple[Tensor, int]] = {}
        self._left = limit_bytes

    def get(self, key: str, cut_id: str) -> tuple[Tensor, int] | None:
        """Return the (T, C) output and the number of samples of a cut, if it is kept."""
        return self._store.get((key, cut_id))

    def put(self, key: str, cut_id: str, features: Tensor, samples: int) -> None:
        """Keep the (T, C) output of a cut while there is room."""
        size = features.numel() * features.element_size()
        if size <= self._left:
            self._left -= size
            self._store[key, cut_id] = features.clone(), samples


def downsampler_key(encoder: Encoder, precision: Resolved = "fp32") -> str | None:
    """Return a digest of the downsampler's weights and precision; None where it has no weights."""
    names = encoder.downsampler_names()
    if not names:
        return None
    digest = hashlib.sha256(f"{precision} {encoder.downsampler_settings()}".encode())
    for name, parameter in encoder.named_parameters():
        if name in names:
            digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def downsample_all(
    encoder: Encoder, cuts: Iterable[Cut], cache: DownsamplerCache, device: torch.device
) -> dict[str, tuple[Tensor, int]]:
    """Return the downsampler's output of every cut, (T, C) and samples, by cut id."""
    key = downsampler_key(encoder) or ""
    cuts = list(cuts)
    missing = [cut for cut in cuts if cache.get(key, cut.id) is None]
    result = {}
    with torch.inference_mode(), progress_bar("frozen downsampler", len(missing)) as bar:
        for group in group_by_length(missing, 64.0):
            for cut, row, samples in _downsample(encoder, group, device):
                cache.put(key, cut.id, row, samples)
                result[cut.id] = row.clone(), samples
            bar.advance(len(group))
    for cut in cuts:
        if cut.id not in result:
            stored = cache.get(key, cut.id)
            assert stored is not None
            result[cut.id] = stored
    return result


def extract(
    encoder: Encoder,
    cuts: Iterable[Cut],
    *,
    frames: frozenset[str] = frozenset(),
    device: torch.device,
    precision: Precision = "auto",
    batch_seconds: float | None = None,
    cache: DownsamplerCache | None = None,
    description: str = "features",
) -> Features:
    """Run a frozen encoder over cuts.

    Args:
        encoder: In evaluation mode.
        cuts: What to encode.
        frames: Ids of the cuts whose frames are kept beside the pooled statistics.
        device: Where to compute.
        precision: See `speechft.devices`.
        batch_seconds: Audio in a batch, padding included; None takes what suits the encoder.
        cache: Outputs of the frozen downsampler to reuse and to fill.
        description: Text of the progress bar.

    Raises:
        DataError: A recording cannot be read or is shorter than one frame.
    """
    encoder.to(device)
    resolved = resolve_precision(precision, device)
    key = None
    if cache is not None and not encoder.depends_on_batch:
        key = downsampler_key(encoder, resolved)
    features, cuts = Features(), list(cuts)
    seconds, multiple = batch_limits(encoder, device, batch_seconds)
    with torch.inference_mode(), progress_bar(description, len(cuts)) as bar:
        for group in group_by_length(cuts, seconds):
            with autocast(resolved, device):
                output = _encode(encoder, group, device, cache, key, multiple)
            _keep(features, group, output, frames)
            bar.advance(len(group))
    return features


def batch_limits(
    encoder: Encoder, device: torch.device, seconds: float | None = None
) -> tuple[float, int]:
    """Return seconds of audio in a batch, and the number of samples that lengths are rounded up to.

    A processor gains nothing from a batch: a large encoder is fastest on one utterance at a time
    without any padding, for then attention needs no mask. A small one is held up by kernels that
    are set up for every new shape, so it gets batches of few shapes.

    Args:
        encoder: What computes.
        device: Where it computes.
        seconds: A limit that was asked for instead.
    """
    if seconds is not None:
        return seconds, PAD_TO
    if device.type != "cpu":
        return 160.0, PAD_TO
    is_large = sum(p.numel() for p in encoder.parameters()) > LARGE
    return (0.0, 1) if is_large else (48.0, PAD_TO)


def group_by_length(cuts: Iterable[Cut], seconds: float) -> Iterator[list[Cut]]:
    """Yield groups of cuts of similar length, longest first, of at most ``seconds`` padded."""
    group: list[Cut] = []
    for cut in sorted(cuts, key=lambda cut: (-cut.duration, cut.id)):
        if group and group[0].duration * (len(group) + 1) > seconds:
            yield group
            group = []
        group.append(cut)
    if group:
        yield group


def _encode(
    encoder: Encoder,
    group: list[Cut],
    device: torch.device,
    cache: DownsamplerCache | None,
    key: str | None,
    multiple: int,
) -> EncoderOutput:
    if cache is None or key is None:
        waveforms, lengths = _read(group, device, multiple)
        return encoder(waveforms, lengths)  # type: ignore[no-any-return]
    stored = [cache.get(key, cut.id) for cut in group]
    if any(item is None for item in stored):
        stored = []
        for cut, row, samples in _downsample(encoder, group, device, multiple):
            cache.put(key, cut.id, row.cpu(), samples)
            stored.append((row, samples))
    pairs = [item for item in stored if item is not None]
    rows = pad([row.to(device) for row, _ in pairs], max(multiple // 320, 1))
    return encoder.contextualize(rows, torch.tensor([n for _, n in pairs], device=device))


def _read(group: list[Cut], device: torch.device, multiple: int) -> tuple[Tensor, Tensor]:
    rows = [torch.from_numpy(load_waveform(cut)) for cut in group]
    lengths = torch.tensor([len(row) for row in rows])
    return pad(rows, multiple).to(device), lengths.to(device)


def _downsample(
    encoder: Encoder, group: list[Cut], device: torch.device, multiple: int = PAD_TO
) -> Iterator[tuple[Cut, Tensor, int]]:
    waveforms, lengths = _read(group, device, multiple)
    rows = encoder.downsample(waveforms, lengths)
    counts = encoder.frame_lengths(lengths).tolist()
    for cut, row, count, samples in zip(group, rows, counts, lengths.tolist(), strict=True):
        yield cut, row[:count].float(), samples


def _keep(
    features: Features, group: list[Cut], output: EncoderOutput, frames: frozenset[str]
) -> None:
    output = EncoderOutput(
        tuple(x.float() for x in output.layers), output.lengths, output.frame_rate
    )
    means = pooled(output).cpu()
    for number, (cut, count) in enumerate(zip(group, output.lengths.tolist(), strict=True)):
        features.pooled[cut.id] = means[number].clone()
        if cut.id in frames:
            rows = [layer[number, :count].half() for layer in output.layers]
            features.frames[cut.id] = torch.stack(rows).cpu()
