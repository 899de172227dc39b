"""Hidden states of named cuts, utterance by utterance, whatever is then done with them.

What cannot be read is named and left out; the next batch is read while one is encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from speechft.console import log, progress_bar, warn
from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.batching import pad
from speechft.data.manifest import load_waveform
from speechft.devices import Resolved, autocast
from speechft.encoders.base import Encoder
from speechft.errors import DataError
from speechft.features.extract import group_by_length

if TYPE_CHECKING:
    from lhotse.cut import Cut


class Heard(NamedTuple):
    """An utterance that was encoded."""

    name: str
    cut: Cut
    states: Tensor
    """(N, T, D) float32."""
    samples: int
    is_silent: bool
    """Whether every sample is 0."""


def usable(encoder: Encoder, cuts: Mapping[str, Cut], failed: dict[str, str]) -> dict[str, Cut]:
    """Return the cuts that are neither too short nor too long; the others are failures.

    Args:
        encoder: What is to encode them.
        cuts: By name.
        failed: What is wrong with the files that cannot be used, by path; gets more.
    """
    result = {}
    for name, cut in cuts.items():
        samples = cut.num_samples * SAMPLE_RATE // cut.sampling_rate
        if int(encoder.frame_lengths(torch.tensor(samples))) < 1:
            failed[place_of(cut)] = (
                f"has {cut.num_samples} samples at {cut.sampling_rate} Hz, fewer than one frame"
            )
        elif encoder.window is not None and samples > encoder.window:
            failed[place_of(cut)] = (
                f"lasts {cut.duration:.1f} s; the encoder sees {encoder.window / SAMPLE_RATE:g} s "
                "and takes nothing longer"
            )
        else:
            result[name] = cut
    for path, problem in failed.items():
        warn(f"left out: {path} {problem}")
    return result


def nothing_left(failed: Mapping[str, str]) -> DataError:
    """Build the error for audio of which nothing can be used."""
    if len(failed) == 1:
        path, problem = next(iter(failed.items()))
        return DataError(f"audio {path} {problem}")
    first = "; ".join(f"{path} {problem}" for path, problem in list(failed.items())[:3])
    return DataError(f"none of {len(failed)} audio files can be used: {first}")


def place_of(cut: Cut) -> str:
    """Return where the audio of a cut lies."""
    return str(cut.recording.sources[0].source)


def announce(cuts: Iterable[Cut]) -> None:
    """Say once what is done to audio that is not 16 kHz mono."""
    listed = list(cuts)
    other_rate = [cut for cut in listed if cut.sampling_rate != SAMPLE_RATE]
    several = [cut for cut in listed if cut.num_channels > 1]
    for found, what in ((other_rate, "not at 16 kHz: resampled"), (several, "averaged to mono")):
        if found:
            first = f"{place_of(found[0])}, {found[0].sampling_rate} Hz"
            first += f", {found[0].num_channels} channels" if found is several else ""
            log(f"{len(found)} of {len(listed)} files {what} ({first})")


def named_groups(
    cuts: Mapping[str, Cut], seconds: float, window: int | None
) -> list[dict[str, Cut]]:
    """Return the batches of `group_by_length` with the names of their cuts."""
    names = {id(cut): name for name, cut in cuts.items()}
    groups = group_by_length(cuts.values(), seconds, window)
    return [{names[id(cut)]: cut for cut in group} for group in groups]


def encoded(
    encoder: Encoder,
    groups: Sequence[dict[str, Cut]],
    layers: Sequence[int],
    failed: dict[str, str],
    *,
    precision: Resolved,
    device: torch.device,
    multiple: int,
    description: str = "features",
) -> Iterator[Heard]:
    """Yield every utterance with its hidden states.

    Args:
        encoder: In evaluation mode, on the device.
        groups: The batches.
        layers: Numbers of the N hidden states.
        failed: What cannot be read is named here, by path, and left out.
        precision: To compute in.
        device: Where to compute.
        multiple: Samples that lengths are rounded up to.
        description: Text of the progress bar.
    """
    seconds = 0.0
    with progress_bar(description, sum(len(group) for group in groups)) as bar:
        for group, rows in _read_ahead(groups):
            readable = {name: row for name, row in rows.items() if isinstance(row, Tensor)}
            for name, row in rows.items():
                if not isinstance(row, Tensor):
                    place = place_of(group[name])
                    failed[place] = row.removeprefix(f"audio {place} ").removesuffix(" Details:")
                    warn(f"left out: {place} {failed[place]}")
            if readable:
                lengths = torch.tensor([len(row) for row in readable.values()])
                batch = pad(list(readable.values()), multiple)
                with torch.inference_mode(), autocast(precision, device):
                    output = encoder(batch.to(device), lengths.to(device))
                for index, name in enumerate(readable):
                    frames = int(output.lengths[index])
                    chosen = [output.layers[n][index, :frames].float() for n in layers]
                    yield Heard(
                        name,
                        group[name],
                        torch.stack(chosen),
                        int(lengths[index]),
                        not readable[name].any(),
                    )
                seconds += float(lengths.sum()) / SAMPLE_RATE
            bar.advance(len(group))
            bar.note(f"{seconds / 60:.1f} min of audio")


def _read_ahead(
    groups: Sequence[dict[str, Cut]],
) -> Iterator[tuple[dict[str, Cut], dict[str, Tensor | str]]]:
    """Yield each group with its samples, or what is wrong; the next group is read meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(_read, groups[0]) if groups else None
        for number, group in enumerate(groups):
            assert following is not None
            rows = following.result()
            if number + 1 < len(groups):
                following = reader.submit(_read, groups[number + 1])
            yield group, rows


def _read(group: dict[str, Cut]) -> dict[str, Tensor | str]:
    rows: dict[str, Tensor | str] = {}
    for name, cut in group.items():
        try:
            rows[name] = torch.from_numpy(load_waveform(cut))
        except DataError as error:
            problem = error.message.removeprefix(f"audio {place_of(cut)} ")
            rows[name] = problem.removesuffix(" Details:")
    return rows
