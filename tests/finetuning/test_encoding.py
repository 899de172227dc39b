"""Utterances of a batch taken apart: the same hidden states and gradients, with little padding."""

from __future__ import annotations

import itertools

import pytest
import torch

from helpers import FAMILIES, noise, speech_encoder, tiny_decoar2
from speechft.data.batching import Batch
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.finetuning import encoding
from speechft.finetuning.encoding import PART_SECONDS, encode, parts_by_length


def _cost(parts: list[list[int]], seconds: list[float]) -> float:
    return sum(PART_SECONDS + len(part) * max(seconds[n] for n in part) for part in parts)


def test_the_split_is_the_cheapest_of_all() -> None:
    seconds = [2.0, 9.5, 1.9, 10.0, 0.4, 5.0]
    order = sorted(range(6), key=lambda n: -seconds[n])
    every = []
    for count in range(6):
        for cuts in itertools.combinations(range(1, 6), count):
            borders = [0, *cuts, 6]
            every.append([order[a:b] for a, b in itertools.pairwise(borders)])
    parts = parts_by_length(seconds)
    assert len(every) == 32
    assert parts in every
    assert _cost(parts, seconds) == pytest.approx(min(_cost(p, seconds) for p in every))
    assert parts == [[3, 1], [5], [0, 2], [4]]


def test_equal_lengths_stay_together() -> None:
    assert parts_by_length([3.0] * 5) == [[0, 1, 2, 3, 4]]
    assert parts_by_length([3.0]) == [[0]]


def _encoder(family: str) -> HuggingFaceEncoder:
    encoder = tiny_decoar2() if family == "decoar2" else speech_encoder(family)
    return encoder.train().requires_grad_(True)


def _encoded(
    family: str, kept: bool
) -> tuple[list[int], torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Return the sizes of the parts, frames, hidden states and gradients."""
    encoder, sizes = _encoder(family), []
    encoder.set_dropout({})
    encoder.model.encoder.register_forward_pre_hook(
        lambda _, inputs: sizes.append(len(inputs[0]))  # type: ignore[func-returns-value]
    )
    waveforms, lengths = noise(8000, 20_000, 7800, 3000)
    batch = Batch(tuple("abcd"), lengths, waveforms=waveforms)
    if kept:
        features = encoder.downsample(waveforms, lengths).detach()
        batch = Batch(tuple("abcd"), lengths, features=features)
    output = encode(encoder, batch)
    inside = torch.arange(output.hidden_states.shape[2]) < output.lengths[:, None]
    states = output.hidden_states[:, inside]
    states.sin().sum().backward()
    gradients = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
    return sizes, output.lengths, states.detach(), gradients


@pytest.mark.parametrize("family", [*FAMILIES, "decoar2"])
@pytest.mark.parametrize("kept", [False, True])
def test_parts_give_the_hidden_states_and_gradients_of_the_whole(
    family: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "PART_SECONDS", 0.1)
    whole, lengths, states, gradients = _encoded(family, kept)
    monkeypatch.setattr("speechft.features.extract.LARGE", 0)
    apart, others, theirs, parts = _encoded(family, kept)
    assert whole == [4]
    assert apart == [1, 2, 1]
    assert torch.equal(lengths, others)
    torch.testing.assert_close(theirs, states, atol=1e-5, rtol=1e-5)
    assert set(gradients) == set(parts)
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(parts[name], gradient, atol=1e-4 * scale + 1e-5, rtol=0)


def test_what_depends_on_its_batch_is_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechft.features.extract.LARGE", 0)
    encoder = speech_encoder("hubert", mode="s3prl")
    waveforms, lengths = noise(8000, 3000)
    together = encode(encoder, Batch(("a", "b"), lengths, waveforms=waveforms))
    expected = encoder(waveforms, lengths)
    assert torch.equal(together.hidden_states, expected.hidden_states)
