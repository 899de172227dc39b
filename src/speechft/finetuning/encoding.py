"""From a batch to hidden states; on a processor a large encoder takes unequal utterances apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from speechft.data.acoustics import SAMPLE_RATE
from speechft.data.batching import Batch
from speechft.encoders.base import Encoder, EncoderOutput
from speechft.features.extract import is_large
from speechft.finetuning.state import is_sharded

PART_SECONDS = 0.5
"""What a part of a batch costs beside its audio, in seconds of audio: the gradient of every weight
is computed, and added, once more."""


def encode(encoder: Encoder, batch: Batch) -> EncoderOutput:
    """Encode a batch of waveforms, or of downsampler outputs where they stand in for them.

    On a processor a large encoder takes utterances of unequal length apart, see `parts_by_length`:
    their hidden states are the same, and the loss stays that of the whole batch.
    """
    if not _takes_parts(encoder, batch.lengths.device):
        return _encode(encoder, batch)
    parts = parts_by_length((batch.lengths / SAMPLE_RATE).tolist())
    if len(parts) == 1:
        return _encode(encoder, batch)
    return _joined(parts, [_encode(encoder, _part(encoder, batch, part)) for part in parts])


def _encode(encoder: Encoder, batch: Batch) -> EncoderOutput:
    if batch.features is not None:
        return encoder.contextualize(batch.features, batch.lengths)
    assert batch.waveforms is not None
    output: EncoderOutput = encoder(batch.waveforms, batch.lengths)
    return output


def _part(encoder: Encoder, batch: Batch, numbers: Sequence[int]) -> Batch:
    """Return some utterances of a batch without the padding that only the others needed."""
    chosen = list(numbers)
    lengths = batch.lengths[chosen]
    frames = int(encoder.frame_lengths(lengths.max()))
    return Batch(
        tuple(batch.ids[number] for number in chosen),
        lengths,
        None if batch.waveforms is None else batch.waveforms[chosen, : int(lengths.max())],
        None if batch.features is None else batch.features[chosen, :frames],
    )


def _takes_parts(encoder: Encoder, device: torch.device) -> bool:
    together = encoder.depends_on_batch or is_sharded(encoder)
    return device.type == "cpu" and not together and is_large(encoder)


def parts_by_length(seconds: Sequence[float]) -> list[list[int]]:
    """Split a batch into parts that are encoded one after the other, with little padding in each.

    On a processor a second of padding costs as much as a second of speech, and every part costs
    `PART_SECONDS` beside its audio. Of all splits of the utterances sorted by length the cheapest
    is taken, found by dynamic programming.

    Args:
        seconds: Lengths of the utterances.

    Returns:
        Numbers of the utterances in each part, longest first.
    """
    order = sorted(range(len(seconds)), key=lambda number: -seconds[number])
    best: list[tuple[float, int]] = [(0.0, 0)]  # of the first n: cost, and where the last begins
    for end in range(1, len(order) + 1):
        costs = [
            (best[start][0] + PART_SECONDS + (end - start) * seconds[order[start]], start)
            for start in range(end)
        ]
        best.append(min(costs))
    parts: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        parts.append(order[start:end])
        end = start
    return parts[::-1]


def _joined(parts: Sequence[Sequence[int]], outputs: Sequence[EncoderOutput]) -> EncoderOutput:
    """Put the utterances of parts back into the order of their batch."""
    places = torch.tensor([number for part in parts for number in part]).argsort()
    frames = max(output.last_hidden_state.shape[1] for output in outputs)
    layers = [
        torch.cat([F.pad(row, (0, 0, 0, frames - row.shape[1])) for row in rows])[places]
        for rows in zip(*(output.layers for output in outputs), strict=True)
    ]
    lengths = torch.cat([output.lengths for output in outputs])[places]
    return EncoderOutput(tuple(layers), lengths, outputs[0].frame_rate)
