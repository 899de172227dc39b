"""The weighted sum of hidden states against s3prl's Featurizer."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from oracle_data import entries, oracle, oracle_json
from speechft.encoders.hugging_face import s3prl_lengths
from speechft.features.featurizer import WeightedSum

FOLDER = "superb/01_featurizer"
CASES = [name for name in entries(f"{FOLDER}/meta.json", "cases") if "_weights" in name]


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_s3prl(case: str) -> None:
    inputs = load_file(oracle(f"{FOLDER}/inputs.safetensors"))
    stored = load_file(oracle(f"{FOLDER}/outputs.safetensors"))
    meta = oracle_json(f"{FOLDER}/meta.json")
    lengths = meta["cases"][case]["feature_lens"]
    expected = {
        name.removeprefix(f"{case}."): tensor
        for name, tensor in stored.items()
        if name.startswith(f"{case}.")
    }
    states = inputs["hidden_states"].requires_grad_()
    found = s3prl_lengths(inputs["wav_lens"], states.shape[2], meta["downsample_rate"])
    assert found.tolist() == lengths
    featurizer = WeightedSum(len(states), normalize=case.endswith("normalize"))
    if not case.startswith("zero"):
        featurizer.weights.data.copy_(inputs["weights"])
    torch.testing.assert_close(featurizer.weights.softmax(0), expected["norm_weights"])
    summed = featurizer(states)
    probes = inputs["probe"]
    for row, length in enumerate(lengths):
        reference = expected[f"feature_{row}"]
        torch.testing.assert_close(summed[row, :length], reference, atol=1e-5, rtol=0)
    total = sum((summed[n, :t] * probes[n, :t]).sum() for n, t in enumerate(lengths))
    assert isinstance(total, torch.Tensor)
    torch.testing.assert_close(total, expected["probe_sum"], atol=1e-4, rtol=1e-5)
    total.backward()
    gradients = (featurizer.weights.grad, states.grad)
    for gradient, name in zip(gradients, ("weights", "hidden_states"), strict=True):
        torch.testing.assert_close(gradient, expected[f"grad_{name}"], atol=1e-4, rtol=1e-4)


def test_it_starts_as_the_plain_mean() -> None:
    states = torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(WeightedSum(4)(states), states.mean(0))
