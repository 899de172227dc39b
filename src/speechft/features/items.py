"""Named cuts on their way through an encoder: which can be used, in which groups, read ahead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from speechft.console import log, warn
from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.manifest import load_waveform
from speechft.data.waveform import place_of
from speechft.encoders.base import Encoder
from speechft.errors import DataError
from speechft.features.extract import group_by_length
from speechft.naming import shown

if TYPE_CHECKING:
    from lhotse.cut import Cut


def usable_cuts(
    encoder: Encoder,
    cuts: Mapping[str, Cut],
    failed: dict[str, str],
    longest: int | None,
    least_frames: int = 1,
) -> dict[str, Cut]:
    """Return the cuts that are neither too short nor too long.

    Args:
        encoder: What is to hear them.
        cuts: By name.
        failed: Is told what is wrong with the others, by path; holds what is known already.
        longest: Samples of the longest that can be taken; None takes any.
        least_frames: Fewer are too short.
    """
    result = {}
    for name, cut in cuts.items():
        samples = cut.num_samples * SAMPLE_RATE // cut.sampling_rate
        frames = max(0, int(encoder.frame_lengths(torch.tensor(samples))))
        if frames < least_frames:
            few = "one frame" if least_frames == 1 else f"the {least_frames} frames that are needed"
            failed[place_of(cut)] = (
                f"has {cut.num_samples} samples at {cut.sampling_rate} Hz, fewer than {few}"
            )
        elif longest is not None and samples > longest:
            failed[place_of(cut)] = (
                f"lasts {cut.duration:.1f} s; the encoder sees {longest / SAMPLE_RATE:g} s "
                "and takes nothing longer"
            )
        else:
            result[name] = cut
    for path, problem in failed.items():
        warn(f"left out: {path} {problem}")
    return result


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
    """Return cuts by name in groups of similar length, see `group_by_length`."""
    names = {id(cut): name for name, cut in cuts.items()}
    groups = group_by_length(cuts.values(), seconds, window)
    return [{names[id(cut)]: cut for cut in group} for group in groups]


def read_ahead(
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


def readable(
    group: dict[str, Cut], rows: dict[str, Tensor | str], failed: dict[str, str]
) -> dict[str, Tensor]:
    """Return the samples of a group that could be read; the others are told and noted.

    Args:
        group: Cuts by name.
        rows: Their samples, or what is wrong.
        failed: Is told what is wrong, by path.
    """
    found = {}
    for name, row in rows.items():
        if isinstance(row, Tensor):
            found[name] = row
        else:
            tell_failed(place_of(group[name]), row, failed)
    return found


def tell_failed(place: str, problem: str, failed: dict[str, str]) -> None:
    """Warn that something is left out, and note it."""
    failed[place] = problem
    warn(f"left out: {place} {problem}")


def _read(group: dict[str, Cut]) -> dict[str, Tensor | str]:
    rows: dict[str, Tensor | str] = {}
    for name, cut in group.items():
        try:
            rows[name] = torch.from_numpy(load_waveform(cut))
        except DataError as error:
            problem = error.message.removeprefix(shown(f"audio {place_of(cut)} "))
            rows[name] = problem.removesuffix(" Details:")
    return rows


def none_usable(failed: dict[str, str]) -> DataError:
    """Return the error of a command that could use none of what it was given."""
    if len(failed) == 1:
        path, problem = next(iter(failed.items()))
        return DataError(f"audio {path} {problem}")
    first = "; ".join(f"{path} {problem}" for path, problem in list(failed.items())[:3])
    return DataError(f"none of {len(failed)} audio files can be used: {first}")
