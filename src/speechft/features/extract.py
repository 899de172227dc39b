"""One pass of a frozen encoder over cuts: pooled statistics, and frames where they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from speechft.console import progress_bar
from speechft.data.batching import PAD_TO, pad, read_waveforms
from speechft.data.waveform import count_samples
from speechft.devices import Precision, autocast, resolve_precision, returning_memory
from speechft.encoders.base import Encoder, EncoderOutput, pooled
from speechft.encoders.timing import SAMPLE_RATE
from speechft.errors import DataError
from speechft.features.cache import FrameCache, PooledCache, Room, audio_key
from speechft.features.downsampler import DownsamplerCache, downsampler_key

if TYPE_CHECKING:
    from lhotse.cut import Cut


LARGE = 20_000_000
"""Parameters of an encoder whose arithmetic outweighs the setting up of kernels."""


Compute = Callable[[list["Cut"]], list[Tensor]]
"""From cuts to their (N, T, D) float16 hidden states."""


@dataclass
class Features:
    """Features of a set of cuts by cut id. Shapes: N hidden states (L + 1), T frames, D dim."""

    pooled: dict[str, Tensor] = field(default_factory=dict)
    """(N, D) float32 mean over time of every hidden state."""
    frames: dict[str, Tensor] = field(default_factory=dict)
    """(N, T, D) float16 hidden states, of those that are kept in memory."""
    lengths: dict[str, int] = field(default_factory=dict)
    """T of those that are not."""
    cache: FrameCache | None = None
    """Where further frames may lie."""
    compute: Compute | None = None
    """How frames are made that lie nowhere."""

    def length(self, cut: Cut) -> int:
        """Return T of a cut whose frames were asked for."""
        kept = self.frames.get(cut.id)
        return self.lengths[cut.id] if kept is None else kept.shape[1]

    def mean(self, cut: Cut) -> Tensor:
        """Return the (N, D) mean over time of the hidden states."""
        return self.pooled[cut.id]

    def rows(self, cuts: Sequence[Cut]) -> list[Tensor]:
        """Return the (N, T, D) hidden states of cuts: kept, read from disk, or computed again."""
        found = {cut.id: self.frames[cut.id] for cut in cuts if cut.id in self.frames}
        missing = [cut for cut in cuts if cut.id not in found]
        if self.cache is not None:
            for cut in missing:
                stored = self.cache.get(audio_key(cut))
                if stored is not None:
                    found[cut.id] = stored
            missing = [cut for cut in missing if cut.id not in found]
        if missing:
            assert self.compute is not None
            found |= zip((cut.id for cut in missing), self.compute(missing), strict=True)
        return [found[cut.id] for cut in cuts]


@dataclass(frozen=True)
class Storage:
    """Where an encoder's features are kept between and during evaluations."""

    pooled: PooledCache | None = None
    frames: FrameCache | None = None
    memory: int = 4 << 30
    """Bytes of frames that are kept in memory; the others are streamed."""


_FLUSH = 2000
"""Utterances after which new pooled statistics are written."""


def downsample_all(
    encoder: Encoder, cuts: Iterable[Cut], cache: DownsamplerCache, device: torch.device
) -> dict[str, tuple[Tensor, int]]:
    """Return the downsampler's output of every cut, (T, C) and samples, by cut id."""
    key = downsampler_key(encoder) or ""
    cuts = list(cuts)
    missing = [cut for cut in cuts if cache.get(key, cut) is None]
    result = {}
    with torch.inference_mode(), progress_bar("frozen downsampler", len(missing)) as bar:
        for group in group_by_length(missing, 64.0):
            for cut, row, samples in _downsample(encoder, group, device):
                row = row.cpu()  # readers of batches may be other processes
                cache.put(key, cut, row, samples)
                kept = cache.get(key, cut)
                result[cut.id] = (row.clone(), samples) if kept is None else kept
            bar.advance(len(group))
    for cut in cuts:
        if cut.id not in result:
            stored = cache.get(key, cut)
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
    storage: Storage | None = None,
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
        storage: Features to reuse and to fill, and how much is kept in memory; None keeps all in
            memory and nothing elsewhere.
        description: Text of the progress bar.

    Raises:
        DataError: A recording cannot be read or is shorter than one frame.
    """
    encoder.to(device)
    resolved = resolve_precision(precision, device)
    key = None
    if cache is not None and not encoder.depends_on_batch:
        key = downsampler_key(encoder, resolved)
    seconds, multiple = batch_limits(encoder, device, batch_seconds)
    storage = storage or Storage(memory=1 << 62)
    if encoder.depends_on_batch:
        storage = Storage(memory=storage.memory)

    def states(group: list[Cut]) -> EncoderOutput:
        with torch.inference_mode(), autocast(resolved, device):
            return in_float(encode(encoder, group, device, cache, key, multiple))

    def compute(group: list[Cut]) -> list[Tensor]:
        found: dict[str, Tensor] = {}
        for part in group_by_length(group, seconds, encoder.window):
            output = states(part)
            for number, cut in enumerate(part):
                row = _frames(output, number)
                found[cut.id] = row if storage.frames is None else storage.frames.as_kept(row)
        return [found[cut.id] for cut in group]

    features = Features(cache=storage.frames, compute=compute)
    keeper = _Keeper(features, frames, storage)
    left = keeper.reuse(encoder, list(cuts))
    with progress_bar(description, len(left)) as bar:
        for group in returning_memory(group_by_length(left, seconds, encoder.window), device):
            keeper.keep(group, states(group))
            bar.advance(len(group))
    keeper.flush()
    return features


class _Keeper:
    """Keeps an encoder's output in memory and on disk, as far as the storage has room."""

    def __init__(self, features: Features, frames: frozenset[str], storage: Storage) -> None:
        self._features, self._frames, self._storage = features, frames, storage
        self._room = Room(storage.memory)
        self._new: dict[str, Tensor] = {}

    def reuse(self, encoder: Encoder, cuts: list[Cut]) -> list[Cut]:
        """Read the features that earlier evaluations kept; return the cuts that have none yet."""
        if self._storage.pooled is None:
            return cuts
        keys = {cut.id: audio_key(cut) for cut in cuts}
        known = self._storage.pooled.get(keys.values())
        left = []
        for cut in cuts:
            stored = known.get(keys[cut.id])
            if stored is not None:
                self._features.pooled[cut.id] = stored
            if stored is None or (cut.id in self._frames and not self._reuse_frames(cut, encoder)):
                left.append(cut)
        return left

    def _reuse_frames(self, cut: Cut, encoder: Encoder) -> bool:
        cache = self._storage.frames
        stored = None if cache is None else cache.get(audio_key(cut))
        if stored is None:
            return False
        self._remember(cut, stored)
        return True

    def keep(self, group: list[Cut], output: EncoderOutput) -> None:
        means = pooled(output).cpu()
        for number, cut in enumerate(group):
            if cut.id not in self._features.pooled:  # else what was kept stays, to the bit
                self._features.pooled[cut.id] = means[number].clone()
                if self._storage.pooled is not None:
                    self._new[audio_key(cut)] = self._features.pooled[cut.id]
            if cut.id in self._frames:
                states, disk = _frames(output, number), self._storage.frames
                if disk is not None:
                    disk.put(audio_key(cut), states)
                    states = disk.as_kept(states)
                self._remember(cut, states)
        if len(self._new) >= _FLUSH:
            self.flush()

    def _remember(self, cut: Cut, states: Tensor) -> None:
        size = states.numel() * states.element_size()
        if self._room.fits(cut.id, size):
            self._room.hold(cut.id, size)
            self._features.frames[cut.id] = states
        else:
            self._features.lengths[cut.id] = states.shape[1]

    def flush(self) -> None:
        if self._storage.pooled is not None:
            self._storage.pooled.put(self._new)
        self._new = {}


def batch_limits(
    encoder: Encoder, device: torch.device, seconds: float | None = None
) -> tuple[float, int]:
    """Return seconds of audio in a batch, and the number of samples that lengths are rounded up to.

    A processor gains nothing from a batch: a large encoder is fastest on one utterance at a time
    without any padding, for then attention needs no mask. A small one is held up by kernels that
    are set up for every new shape, so it gets batches of few shapes, where it has such kernels.

    Args:
        encoder: What computes.
        device: Where it computes.
        seconds: A limit that was asked for instead.
    """
    if seconds is not None:
        return seconds, PAD_TO
    if device.type != "cpu":
        return 160.0, PAD_TO
    if is_large(encoder):
        return 0.0, 1
    return 48.0, PAD_TO if encoder.minds_shapes else 1


def count_frames(encoder: Encoder, cuts: Sequence[Cut]) -> list[int]:
    """Return the frames that an encoder makes of each cut, without reading any audio.

    Raises:
        DataError: A cut is longer than the encoder takes.
    """
    samples = torch.tensor([count_samples(cut) for cut in cuts], dtype=torch.int64)
    for cut, count in zip(cuts, samples.tolist(), strict=True):
        if encoder.window is not None and count > encoder.window:
            raise DataError(
                f"recording {cut.id} lasts {count / SAMPLE_RATE:.1f} s; the encoder sees "
                f"{encoder.window / SAMPLE_RATE:g} s and takes nothing longer",
                hint="cut it up, or leave it out",
            )
    counts: list[int] = encoder.frame_lengths(samples).clamp(min=0).tolist()
    return counts


def is_large(encoder: Encoder) -> bool:
    """Return whether arithmetic, not the setting up of kernels, takes an encoder's time."""
    return sum(p.numel() for p in encoder.parameters()) > LARGE


def group_by_length(
    cuts: Iterable[Cut], seconds: float, window: int | None = None
) -> Iterator[list[Cut]]:
    """Yield groups of cuts of similar length, longest first, of at most ``seconds`` padded.

    Args:
        cuts: What to group.
        seconds: Audio in a group, padding included.
        window: Samples that every utterance is padded to, if it is.
    """
    group: list[Cut] = []
    for cut in sorted(cuts, key=lambda cut: (-cut.duration, cut.id)):
        longest = max(group[0].duration, (window or 0) / SAMPLE_RATE) if group else 0.0
        if longest * (len(group) + 1) > seconds and group:
            yield group
            group = []
        group.append(cut)
    if group:
        yield group


def encode(
    encoder: Encoder,
    group: list[Cut],
    device: torch.device,
    cache: DownsamplerCache | None,
    key: str | None,
    multiple: int,
) -> EncoderOutput:
    """Run an encoder over one batch of cuts, through the outputs of its downsampler that are kept.

    Args:
        encoder: In evaluation mode.
        group: The cuts of the batch.
        device: Where to compute.
        cache: Outputs of the frozen downsampler to reuse and to fill.
        key: What `downsampler_key` says of the encoder; None reuses nothing.
        multiple: Samples that lengths are rounded up to.
    """
    if cache is None or key is None:
        waveforms, lengths = _read(group, device, multiple)
        return encoder(waveforms, lengths)  # type: ignore[no-any-return]
    stored = [cache.get(key, cut) for cut in group]
    if any(item is None for item in stored):
        stored = []
        for cut, row, samples in _downsample(encoder, group, device, multiple):
            cache.put(key, cut, row.cpu(), samples)
            stored.append((row, samples))
    pairs = [item for item in stored if item is not None]
    rows = pad([row.to(device) for row, _ in pairs], max(multiple // encoder.hop_size, 1))
    return encoder.contextualize(rows, torch.tensor([n for _, n in pairs], device=device))


def _read(group: list[Cut], device: torch.device, multiple: int) -> tuple[Tensor, Tensor]:
    waveforms, lengths = read_waveforms(group, multiple)
    return waveforms.to(device), lengths.to(device)


def _downsample(
    encoder: Encoder, group: list[Cut], device: torch.device, multiple: int = PAD_TO
) -> Iterator[tuple[Cut, Tensor, int]]:
    waveforms, lengths = _read(group, device, multiple)
    rows = encoder.downsample(waveforms, lengths)
    counts = encoder.frame_lengths(lengths).tolist()
    for cut, row, count, samples in zip(group, rows, counts, lengths.tolist(), strict=True):
        yield cut, row[:count].float(), samples


def in_float(output: EncoderOutput) -> EncoderOutput:
    """Return hidden states in float32, whatever they were computed in."""
    return EncoderOutput(
        tuple(layer.float() for layer in output.layers), output.lengths, output.frame_rate
    )


def _frames(output: EncoderOutput, number: int) -> Tensor:
    """Return the (N, T, D) float16 states of one utterance of a batch."""
    count = int(output.lengths[number])
    return torch.stack([layer[number, :count].half() for layer in output.layers]).cpu()
