"""Hidden states of named cuts, utterance by utterance, whatever is then done with them.

What cannot be read is named and left out; the next batch is read while one is encoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from speechft.console import Bar, progress_bar
from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.batching import pad
from speechft.devices import Resolved, autocast, returning_memory
from speechft.encoders.base import Encoder
from speechft.features.items import read_ahead, readable

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
    bar: Bar | None = None,
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
        bar: One that goes on beyond this call; None shows one of its own.
    """
    seconds, total = 0.0, sum(len(group) for group in groups)
    with nullcontext(bar) if bar is not None else progress_bar(description, total) as bar:
        for group, rows in returning_memory(read_ahead(groups), device):
            heard = readable(group, rows, failed)
            if heard:
                lengths = torch.tensor([len(row) for row in heard.values()])
                batch = pad(list(heard.values()), multiple)
                with torch.inference_mode(), autocast(precision, device):
                    output = encoder(batch.to(device), lengths.to(device))
                for index, name in enumerate(heard):
                    frames = int(output.lengths[index])
                    chosen = [output.layers[n][index, :frames].float() for n in layers]
                    yield Heard(
                        name,
                        group[name],
                        torch.stack(chosen),
                        int(lengths[index]),
                        not heard[name].any(),
                    )
                seconds += float(lengths.sum()) / SAMPLE_RATE
            bar.advance(len(group))
            bar.note(f"{seconds / 60:.1f} min of audio")
