"""The TED-LIUM tuning head against the official one: logits, loss and gradients."""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from helpers import ORACLE
from speechft.finetuning.heads import WAV2VEC2_CHARACTERS, RecurrentHead

_FOLDER = ORACLE / "superb" / "10_tedlium"


def _head() -> RecurrentHead:
    head = RecurrentHead(24, 32, 16, layers=3, size=8, dropout=0.2)
    theirs = load_file(_FOLDER / "expert_rnns" / "state.safetensors")
    state = {
        name.removeprefix("model.").replace("rnns.", "recurrent.").replace(".layer.", "."): tensor
        for name, tensor in theirs.items()
        if name != "best_score"
    }
    head.load_state_dict(state)
    return head.eval()


def test_logits_loss_and_gradients_equal_the_official_head() -> None:
    inputs = load_file(_FOLDER / "expert_rnns" / "inputs.safetensors")
    expected = load_file(_FOLDER / "expert_rnns" / "outputs.safetensors")
    records = json.loads((_FOLDER / "expert_rnns" / "records.json").read_text())
    lengths = torch.tensor(records["feature_lens"])
    features = torch.zeros(4, int(lengths.max()), 24)
    for number, length in enumerate(lengths.tolist()):
        features[number, :length] = expected[f"feature_{number}"]
    features.requires_grad_(True)
    head = _head()
    logits = head(features, lengths).log_softmax(-1)
    for number, length in enumerate(lengths.tolist()):
        ours, theirs = logits[number, :length], expected["log_probs"][number, :length]
        assert torch.allclose(ours, theirs, atol=1e-5)
    losses = F.ctc_loss(
        logits.transpose(0, 1),
        torch.cat([torch.tensor(row) for row in records["labels"]]),
        lengths,
        inputs["label_lens"],
        reduction="none",
    )
    assert torch.allclose(losses, expected["ctc_loss_none"], rtol=1e-5)
    loss = (losses / inputs["label_lens"]).mean()
    assert torch.allclose(loss, expected["loss"], rtol=1e-5)
    loss.backward()
    assert features.grad is not None
    for number, length in enumerate(lengths.tolist()):
        ours, theirs = features.grad[number, :length], expected[f"grad_feature_{number}"]
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    gradient = head.recurrent[0].weight_ih_l0.grad
    theirs = expected["grad_param.model.rnns.0.layer.weight_ih_l0"]
    assert gradient is not None
    assert torch.allclose(gradient, theirs, rtol=1e-4, atol=1e-6)


def test_symbols_are_those_of_the_tokenizer() -> None:
    vocabulary = json.loads((_FOLDER / "normalise_tokenise.json").read_text())["vocab"]
    assert tuple(sorted(vocabulary, key=vocabulary.__getitem__)) == WAV2VEC2_CHARACTERS
