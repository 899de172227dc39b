"""Recurrent heads of ASR, SF and TED-LIUM against s3prl's own classes; see oracle/superb."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from oracle_data import cases, oracle, oracle_json
from speechft.data.labels import Vocabulary
from speechft.encoders.hugging_face import s3prl_lengths
from speechft.errors import CheckpointError
from speechft.features.featurizer import WeightedSum
from speechft.tasks import WAV2VEC2_SYMBOLS, RecurrentHead, find_task, from_s3prl, to_s3prl
from speechft.tasks.losses import ctc_losses
from speechft.tasks.recurrent import read_in_time, thin_out


def settings_of(name: str) -> dict[str, Any]:
    expert = oracle_json(f"{name}/config.json")["downstream_expert"]
    found: dict[str, Any] = expert.get("modelrc") or expert["model"]
    return found


CASES = [
    name
    for path in cases("superb/02_ctc/*/config.json", "superb/10_tedlium/*/config.json")
    if settings_of(name := path.removesuffix("/config.json"))["select"] == "RNNs"
]


def head_of(name: str) -> tuple[RecurrentHead, dict[str, Tensor]]:
    config = oracle_json(f"{name}/config.json")
    model, rate = settings_of(name), config["upstream_rate"]
    options = model["RNNs"]
    state = load_file(oracle(f"{name}/state.safetensors"))
    head = RecurrentHead(
        config["upstream_dim"],
        len(state["model.linear.bias"]),
        projection=model["project_dim"],
        hidden=options["dim"],
        bidirectional=options["bidirection"],
        dropout=options["dropout"],
        layer_norm=options["layer_norm"],
        layer_projection=options["proj"],
        keep_every=options["sample_rate"],
        input_keep_every=1 if options["total_rate"] == -1 else round(options["total_rate"] / rate),
        thinning=options["sample_style"],
    )
    head.load_state_dict(from_s3prl("asr", state))
    return head.eval(), state


def letters_of(name: str) -> tuple[tuple[str, ...], int | None]:
    """Return the symbols, LibriSpeech's or TED-LIUM's or none, and the end of the sequence."""
    config = oracle_json(f"{name}/config.json")
    if "symbols" in config:
        recorded = oracle_json("superb/02_ctc/greedy_decode/greedy.json")["asr"]
        return tuple(recorded["vocab"]), recorded["eos"]
    if "vocab" in config:
        return WAV2VEC2_SYMBOLS, None
    return (), None


def loss_of(logits: Tensor, lengths: Tensor, labels: list[list[int]]) -> Tensor:
    return ctc_losses(logits, lengths, [torch.tensor(row) for row in labels]).mean()


def featurizer_of(inputs: dict[str, Tensor], expected: dict[str, Tensor]) -> WeightedSum:
    """Return the featurizer, normalising or not, that made the recorded features."""
    for normalize in (False, True):
        featurizer = WeightedSum(len(inputs["hidden_states"]), normalize=normalize)
        featurizer.weights.data.copy_(inputs["weights"])
        feature = expected["feature_0"]
        made = featurizer(inputs["hidden_states"])[0, : len(feature)]
        if torch.allclose(made, feature, atol=1e-5):
            return featurizer
    raise AssertionError("neither featurizer makes the recorded features")


@pytest.mark.parametrize("name", CASES)
def test_outputs_losses_and_gradients_are_those_of_s3prl(name: str) -> None:
    head, state = head_of(name)
    inputs = load_file(oracle(f"{name}/inputs.safetensors"))
    expected = load_file(oracle(f"{name}/outputs.safetensors"))
    records = oracle_json(f"{name}/records.json")
    states = inputs["hidden_states"].requires_grad_()
    rate = oracle_json(f"{name}/config.json")["upstream_rate"]
    lengths = s3prl_lengths(inputs["wav_lens"], states.shape[2], rate)
    assert lengths.tolist() == records.get("feature_lens", lengths.tolist())
    featurizer = featurizer_of(inputs, expected)
    logits, kept = head.with_lengths(featurizer(states), lengths)
    assert kept.tolist() == expected["log_probs_len"].tolist()
    torch.testing.assert_close(
        logits.log_softmax(-1), expected["log_probs"], atol=1e-5, rtol=0
    )  # padding included: s3prl's LSTMs see zeros there too
    loss = loss_of(logits, kept, records["labels"])
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=1e-5)
    loss.backward()
    own = {f"grad_param.{k}": k for k in state if k != "best_score"}
    found = to_s3prl("asr", {n: p.grad for n, p in head.named_parameters() if p.grad is not None})
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[f"grad_param.{key}"], atol=1e-6, rtol=1e-4)
    assert {f"grad_param.{key}" for key in found} == own.keys()
    torch.testing.assert_close(
        featurizer.weights.grad, expected["grad_weights"], atol=1e-6, rtol=1e-4
    )
    torch.testing.assert_close(states.grad, expected["grad_hidden_states"], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_single_utterances_are_those_of_s3prl(name: str) -> None:
    head, _ = head_of(name)
    inputs = load_file(oracle(f"{name}/inputs.safetensors"))
    expected = load_file(oracle(f"{name}/outputs_batch1.safetensors"))
    features = load_file(oracle(f"{name}/outputs.safetensors"))
    records = oracle_json(f"{name}/records.json")
    symbols, end = letters_of(name)
    for number in range(len(inputs["wav_lens"])):
        row = features[f"feature_{number}"][None]
        logits, length = head.with_lengths(row, torch.tensor([row.shape[1]]))
        torch.testing.assert_close(
            logits[0].log_softmax(-1), expected[f"log_probs_{number}"], atol=1e-5, rtol=0
        )
        loss = loss_of(logits, length, records["labels"][number : number + 1])
        torch.testing.assert_close(loss, expected[f"loss_{number}"], atol=1e-5, rtol=1e-5)
        if symbols:
            [(numbers, _)] = find_task("asr").predict(logits, length, Vocabulary(symbols))
            kept = [number for number in numbers if number != end]
            decoded = find_task("asr").scorer.describe((kept, 0.0), Vocabulary(symbols), None)
            words = records["batch1"]["pred_words"][number]
            assert decoded == (words if isinstance(words, str) else " ".join(words))


def test_padding_does_not_change_what_is_valid() -> None:
    torch.manual_seed(0)
    head = RecurrentHead(6, 4, projection=5, hidden=(3, 3), dropout=0.0)
    features, lengths = torch.randn(2, 9, 6), torch.tensor([9, 5])
    together = head(features, lengths)
    alone = head(features[1:, :5], torch.tensor([5]))
    torch.testing.assert_close(together[1, :5], alone[0])


def test_thinning_out() -> None:
    features, lengths = torch.arange(14.0).view(1, 7, 2), torch.tensor([7])
    joined, counts = thin_out(features, lengths, 3, "concat")
    assert joined.tolist() == [[[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]]
    assert counts.tolist() == [2]
    dropped, counts = thin_out(features, lengths, 3, "drop")
    assert dropped.tolist() == [[[0, 1], [6, 7], [12, 13]]]
    assert counts.tolist() == [2]
    same, counts = thin_out(features, lengths, 1)
    assert same is features
    assert F.mse_loss(same, features) == 0


def test_a_foreign_key_is_refused() -> None:
    with pytest.raises(
        CheckpointError, match=r"'mystery.weight' is not one of the head of task sd"
    ):
        from_s3prl("sd", {"mystery.weight": torch.zeros(1)})


@pytest.mark.parametrize("bidirectional", [True, False])
def test_padded_rows_give_what_packed_sequences_give(bidirectional: bool) -> None:
    torch.manual_seed(1)
    lstm = torch.nn.LSTM(6, 4, batch_first=True, bidirectional=bidirectional)
    lengths = torch.tensor([5, 9, 1, 7])
    results = []
    for packed in (True, False):
        features = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(2))
        features.requires_grad_()
        if packed:
            rows = pack_padded_sequence(features, lengths, batch_first=True, enforce_sorted=False)
            output = pad_packed_sequence(lstm(rows)[0], batch_first=True)[0]
        else:
            output = read_in_time(lstm, features, lengths)
        loss = (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum()
        results.append((output, *torch.autograd.grad(loss, [features, *lstm.parameters()])))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
