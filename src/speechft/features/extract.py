"""One pass of a frozen encoder over cuts: pooled statistics, and frames where they are wanted."""

from __future__ import annotations

import time
from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from speechft.console import log, progress_bar
from speechft.data.batching import PAD_TO, pad, read_waveforms
from speechft.data.kept_cuts import Cuts, chosen
from speechft.data.waveform import count_samples
from speechft.devices import Precision, autocast, resolve_precision, returning_memory
from speechft.encoders.base import Encoder, EncoderOutput
from speechft.encoders.timing import SAMPLE_RATE
from speechft.errors import DataError
from speechft.features.downsampler import Downsampled, DownsamplerCache, downsampler_key
from speechft.features.frame_plan import FramePlan
from speechft.features.keeping import Features, Keeper, Storage, frames_of
from speechft.features.kept import Timed
from speechft.storage.scratch import free_bytes, scratch_folder

if TYPE_CHECKING:
    from lhotse.cut import Cut


LARGE = 20_000_000
"""Parameters of an encoder whose arithmetic outweighs the setting up of kernels."""


def downsample_all(
    encoder: Encoder, cuts: Sequence[Cut], cache: DownsamplerCache, device: torch.device
) -> Downsampled:
    """Return the downsampler's output of every cut, (T, C) and samples, by cut id."""
    key, own = downsampler_key(encoder) or "", Timed()
    missing = chosen(cuts, lambda cut: not cache.has(key, cut))
    with torch.inference_mode(), progress_bar("frozen downsampler", len(missing)) as bar:
        for group in group_by_length(missing, 64.0):
            for cut, row, samples in _downsample(encoder, group, device):
                row = row.cpu()  # readers of batches may be other processes
                cache.put(key, cut, row, samples)
                if not cache.has(key, cut):
                    own.add(cut.id, row, samples)
            bar.advance(len(group))
    return Downsampled(cache, key, cuts, own)


def extract(
    encoder: Encoder,
    cuts: Iterable[Cut],
    *,
    frames: Container[str] = frozenset(),
    rare: Container[str] = frozenset(),
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
        rare: Those of them that are read seldom.
        device: Where to compute.
        precision: See `speechft.devices`.
        batch_seconds: Audio in a batch, padding included; None takes what suits the encoder.
        cache: Outputs of the frozen downsampler to reuse and to fill.
        storage: Features to reuse and to fill, and how many frames are kept meanwhile; None reuses
            and fills nothing.
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
    storage = storage or Storage()
    if encoder.depends_on_batch:
        storage = Storage(room=storage.room)

    def states(group: list[Cut]) -> EncoderOutput:
        with torch.inference_mode(), autocast(resolved, device):
            return in_float(encode(encoder, group, device, cache, key, multiple))

    def compute(group: list[Cut]) -> list[Tensor]:
        found: dict[str, Tensor] = {}
        for part in group_by_length(group, seconds, encoder.window):
            output = states(part)
            for number, cut in enumerate(part):
                row = frames_of(output, number)
                found[cut.id] = row if storage.frames is None else storage.frames.as_kept(row)
        return [found[cut.id] for cut in group]

    kept = Cuts.of(cuts)
    plan = _frame_plan(encoder, kept, frames, rare, storage)
    features = Features(cache=storage.frames, compute=compute)
    keeper = Keeper(features, frames, storage, plan)
    left = keeper.reuse(kept)
    started, total = time.perf_counter(), float(left.seconds.sum())
    with progress_bar(description, len(left)) as bar:
        for number, group in enumerate(
            returning_memory(group_by_length(left, seconds, encoder.window), device)
        ):
            keeper.keep(group, states(group))
            bar.advance(len(group))
            heard = sum(cut.duration for cut in group)
            cost = None if number else plan.cost(heard, time.perf_counter() - started, total)
            if cost is not None:
                log(cost)
    keeper.flush()
    return features


def _frame_plan(
    encoder: Encoder, cuts: Cuts, frames: Container[str], rare: Container[str], storage: Storage
) -> FramePlan:
    """Return which frames are kept, and say so where it is much."""
    counts = encoder.frame_lengths(torch.from_numpy(cuts.samples)).clamp(min=0).numpy()
    often = seldom = 0
    for name, count in zip(cuts.ids, counts, strict=True) if frames else ():
        if name in frames:
            size = 2 * (encoder.num_layers + 1) * encoder.dim * int(count)
            often, seldom = (often, seldom + size) if name in rare else (often + size, seldom)
    free = free_bytes()
    plan = FramePlan(often, seldom, free // 2 if storage.room is None else storage.room, rare)
    if told := plan.text(scratch_folder(), free):
        log(told)
    return plan


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


def count_frames(encoder: Encoder, cuts: Sequence[Cut]) -> Sequence[int]:
    """Return the frames that an encoder makes of each cut, without reading any audio.

    Raises:
        DataError: A cut is longer than the encoder takes.
    """
    known = cuts.samples if isinstance(cuts, Cuts) else [count_samples(cut) for cut in cuts]
    samples = torch.tensor(known, dtype=torch.int64)
    if encoder.window is not None:
        for number in (samples > encoder.window).nonzero()[:1].flatten().tolist():
            cut, count = cuts[number], int(samples[number])
            raise DataError(
                f"recording {cut.id} lasts {count / SAMPLE_RATE:.1f} s; the encoder sees "
                f"{encoder.window / SAMPLE_RATE:g} s and takes nothing longer",
                hint="cut it up, or leave it out",
            )
    return array("q", encoder.frame_lengths(samples).clamp(min=0).numpy().tobytes())


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
    for cut in (
        cuts.longest_first()
        if isinstance(cuts, Cuts)
        else sorted(cuts, key=lambda cut: (-cut.duration, cut.id))
    ):
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
