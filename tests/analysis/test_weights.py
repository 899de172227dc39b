"""Moves of weights against closed forms, on a tiny HuBERT with a weight-normalised convolution."""

from __future__ import annotations

import copy

import pytest
import torch

from helpers import speech_encoder, tiny_encoder
from speechft.analysis.weights import agreement, moves, top_share, weights_of
from speechft.encoders.base import Encoder
from speechft.encoders.mfcc import MfccEncoder
from speechft.merging.coefficients import alphas, rule_of_state, selects


def changed(encoder: Encoder, factor: float = 1.0, only: str = "") -> Encoder:
    other = copy.deepcopy(encoder)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if only in name:
                parameter.mul_(factor)
    return other


def test_a_scaled_layer_moved_by_its_scale() -> None:
    base = tiny_encoder()
    found = moves(weights_of(base), weights_of(changed(base, 1.25, "layers.1.attention."))).sums
    assert found[2, "attention"].move == pytest.approx(0.25, rel=1e-5)
    assert found[1, "attention"].move == 0
    assert found[0, None].move == 0
    everything = sum(p.square().sum().item() for n, p in base.named_parameters() if "1.atten" in n)
    assert found[None, None].moved == pytest.approx(everything / 16, rel=1e-4)
    assert found[2, "attention"].share(found[2, "attention"].top) <= 1


def test_the_positional_kernel_counts_as_it_acts() -> None:
    """Another v of the same direction is the same kernel; a doubled g is a doubled kernel."""
    base = tiny_encoder()
    same = moves(weights_of(base), weights_of(changed(base, 3.0, "original1"))).sums
    twice = moves(weights_of(base), weights_of(changed(base, 2.0, "original0"))).sums
    assert same[0, "position"].move == pytest.approx(0, abs=1e-6)
    kernel = base.model.encoder.pos_conv_embed.conv
    norm = kernel.weight.square().sum().item()
    assert twice[0, "position"].moved == pytest.approx(norm, rel=1e-5)
    assert not any("original" in name for name in weights_of(base))


def test_every_parameter_counts_once_and_the_mask_never() -> None:
    for encoder in (tiny_encoder(), speech_encoder("wavlm", large=True)):
        found = weights_of(encoder)
        total = sum(weight.value.numel() for weight in found.values())
        bare = {n: p for n, p in encoder.named_parameters() if "masked_spec" not in n}
        gains = sum(p.numel() for n, p in bare.items() if n.endswith("original0"))
        assert total == sum(p.numel() for p in bare.values()) - gains
        assert {weight.layer for weight in found.values()} == {0, 1, 2}
        assert "other" not in {weight.kind for weight in found.values()}


def test_the_rule_that_is_named_moves_the_layer_that_it_is_named_for() -> None:
    found = weights_of(tiny_encoder())
    names = [name.partition("model.")[2] for name in found]
    for state in (1, 2):
        merged = alphas(names, 0.0, {rule_of_state(state): 1.0}).values()
        assert [alpha == 1 for alpha in merged] == [w.layer == state for w in found.values()]
    for part in rule_of_state(0).replace(" and", ",").split(", "):
        own = {w.layer for n, w in zip(names, found.values(), strict=True) if selects(part)(n)}
        assert own == {0}


def test_the_final_norm_of_a_pre_ln_model_belongs_to_the_last_layer() -> None:
    for large, layer in ((False, 0), (True, 2)):
        weights = weights_of(speech_encoder("hubert", large=large))
        (norm,) = [w for n, w in weights.items() if n.endswith("encoder.layer_norm.weight")]
        assert norm.layer == layer


def test_energy_of_few_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, 60, 3, generator=generator)
    assert top_share(u @ v.T, 3) == pytest.approx(1.0)
    assert top_share(torch.eye(40), 8) == pytest.approx(0.2)
    matrix = torch.randn(30, 70, generator=generator)
    energies = torch.linalg.svdvals(matrix.double()).square()
    assert top_share(matrix, 8) == pytest.approx(float(energies[:8].sum() / energies.sum()))
    assert top_share(matrix.T, 8) == pytest.approx(top_share(matrix, 8))


def test_noise_has_the_energy_of_noise() -> None:
    base = tiny_encoder()
    noisy = copy.deepcopy(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in noisy.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    whole = moves(weights_of(base), weights_of(noisy)).sums[None, None]
    assert whole.share(whole.top) == pytest.approx(whole.share(whole.gaussian), abs=0.03)


def test_cosines_between_task_vectors() -> None:
    base = tiny_encoder()
    one, other = changed(base, 1.5, "layers.0."), changed(base, 0.5, "layers.0.")
    weights = [weights_of(encoder) for encoder in (base, one, other)]
    assert agreement(*weights).sums[1, None].cosine == pytest.approx(-1)
    assert agreement(weights[0], weights[1], weights[1]).sums[None, None].cosine == pytest.approx(1)
    still = agreement(weights[0], weights[0], weights[1]).sums[1, None].cosine
    assert still != still, "a base does not point anywhere"


def test_without_layers_there_is_nothing_to_compare() -> None:
    assert weights_of(MfccEncoder()) == {}
