"""SpecAugment against s3prl: the warp to the digit, the masks by their statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from oracle_data import entries, oracle, oracle_json
from speechft.data.augment import SpecAugment, warp_time
from speechft.data.config import SpecAugmentConfig

FOLDER = "superb/08_specaug"
META = f"{FOLDER}/specaug.json"


@pytest.mark.parametrize("case", entries(META, "fixed_time_warp"))
def test_warp_equals_s3prl(case: str) -> None:
    tensors = load_file(oracle(f"{FOLDER}/time_warp_fixed.safetensors"))
    where = oracle_json(META)["fixed_time_warp"][case]
    ours = warp_time(tensors["x"][0], where["center"], where["warped"])
    assert torch.allclose(ours, tensors[f"{case}.out"][0], atol=1e-6)


def _config(kwargs: dict[str, Any]) -> SpecAugmentConfig:
    adaptive = kwargs.get("adaptive", False)
    return SpecAugmentConfig(
        time_warp=kwargs.get("time_warp_window", 5) if kwargs["apply_time_warp"] else 0,
        time_masks=kwargs.get("num_time_mask", 2),
        time_width=tuple(kwargs["time_mask_width_range"]),
        channel_masks=kwargs.get("num_freq_mask", 0) if kwargs.get("apply_freq_mask", True) else 0,
        channel_width=tuple(kwargs["freq_mask_width_range"]),
        adaptive=kwargs.get("adaptive_size_ratio", 0.04) if adaptive else 0.0,
    )


@pytest.mark.parametrize("case", entries(META, "statistics"))
def test_masked_shares_are_those_of_s3prl(case: str) -> None:
    expected = oracle_json(META)["statistics"][case]
    augment = SpecAugment(_config(expected["kwargs"]))
    frames, dim = expected["T"], expected["D"]
    torch.manual_seed(0)
    draws = 1500
    rows = torch.rand(draws, frames, dim) + 1.0
    result = augment(rows, torch.full((draws,), frames))
    hidden = result == 0
    times, channels = hidden.all(2).float().mean(1), hidden.all(1).float().mean(1)
    for shares, name in ((times, "time"), (channels, "freq")):
        theirs = expected[f"masked_{name}_fraction_utt0"]
        error = theirs["std"] * (1 / expected["draws"] + 1 / draws) ** 0.5
        assert shares.mean().item() == pytest.approx(theirs["mean"], abs=4 * error + 1e-6)
        assert shares.std().item() == pytest.approx(theirs["std"], rel=0.15, abs=1e-6)


def test_masks_lie_within_the_utterance_and_the_input_stays_as_it_is() -> None:
    augment = SpecAugment(SpecAugmentConfig(time_warp=0, channel_masks=0, time_width=(10, 11)))
    rows, lengths = torch.ones(64, 100, 3), torch.tensor([100, 30] * 32)
    torch.manual_seed(1)
    result = augment(rows, lengths)
    assert (rows == 1).all()
    assert (result[1::2, 30:] == 1).all(), "no mask beyond the end of the short ones"
    masked = (result[1::2, :30, 0] == 0).sum(1)
    assert masked.min() >= 10
    assert masked.max() <= 20


def test_short_utterances_are_not_warped_and_gradients_flow() -> None:
    augment = SpecAugment(SpecAugmentConfig(time_masks=0, channel_masks=0))
    rows = torch.randn(2, 40, 4, requires_grad=True)
    torch.manual_seed(0)
    result = augment(rows, torch.tensor([40, 10]))
    assert torch.equal(result[1], rows[1]), "ten frames leave no room for a window of five"
    assert not torch.equal(result[0], rows[0])
    result.sum().backward()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


def test_the_same_seed_draws_the_same_masks() -> None:
    augment, rows = SpecAugment(SpecAugmentConfig()), torch.randn(3, 60, 80)
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        results.append(augment(rows, torch.tensor([60, 50, 40])))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
