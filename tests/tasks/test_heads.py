"""Heads, losses and gradients against s3prl's own classes at reduced sizes; see oracle/superb."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from oracle_data import cases, oracle, oracle_json
from speechft.data.labels import Vocabulary
from speechft.encoders.hugging_face import s3prl_lengths
from speechft.features.featurizer import WeightedSum
from speechft.tasks import find_task
from speechft.tasks.heads import FrameHead, UtteranceHead, mean_pool

UTTERANCE = [name for name in cases("superb/03_utterance/*") if not name.endswith("ic")]
_KEYS = {
    "projector": "projector",
    "model.linear": "linear",
    "model.post_net.linear": "linear",
}


class Case:
    """One oracle folder: its inputs, a featurizer and a head with its weights."""

    def __init__(self, name: str, head: type[nn.Module]) -> None:
        folder = oracle(name)
        self.inputs = load_file(folder / "inputs.safetensors")
        self.expected = load_file(folder / "outputs.safetensors")
        self.records: dict[str, Any] = oracle_json(f"{name}/records.json")
        self.config: dict[str, Any] = oracle_json(f"{name}/config.json")
        state = load_file(folder / "state.safetensors")
        self.states = self.inputs["hidden_states"].requires_grad_()
        normalize = self.records.get("normalize", False)
        self.featurizer = WeightedSum(len(self.states), normalize=normalize)
        self.featurizer.weights.data.copy_(self.inputs["weights"])
        self.names = {
            f"{_KEYS[prefix]}.{leaf}": f"{prefix}.{leaf}"
            for prefix, _, leaf in (name.rpartition(".") for name in state)
            if prefix in _KEYS
        }
        projection, dim = state[self.names["projector.weight"]].shape
        self.head = head(dim, len(state[self.names["linear.bias"]]), projection)
        self.head.load_state_dict({own: state[name] for own, name in self.names.items()})
        rate = self.config.get("upstream_rate", 320)
        self.lengths = s3prl_lengths(self.inputs["wav_lens"], self.states.shape[2], rate)
        assert self.lengths.tolist() == self.records["feature_lens"]

    def logits(self) -> Tensor:
        result: Tensor = self.head(self.featurizer(self.states), self.lengths)
        return result

    def check_gradients(self, loss: Tensor) -> None:
        torch.testing.assert_close(loss, self.expected["loss"], atol=1e-5, rtol=1e-5)
        loss.backward()
        found = {f"grad_param.{self.names[n]}": p.grad for n, p in self.head.named_parameters()}
        found |= {"grad_weights": self.featurizer.weights.grad}
        found |= {"grad_hidden_states": self.states.grad}
        recorded = {name for name in self.expected if name.startswith("grad_")}
        assert found.keys() == {name for name in recorded if not name.startswith("grad_feature_")}
        for name, gradient in found.items():
            torch.testing.assert_close(
                gradient, self.expected[name], atol=1e-6, rtol=1e-4, msg=lambda m, n=name: n + m
            )


def test_phone_recognition_is_that_of_s3prl() -> None:
    case = Case("superb/02_ctc/pr_framelevel", FrameHead)
    task = find_task("pr")
    logits = case.logits()
    log_probs = logits.log_softmax(-1)
    assert case.expected["log_probs_len"].tolist() == case.lengths.tolist()
    for row, length in enumerate(case.lengths.tolist()):
        torch.testing.assert_close(
            log_probs[row, :length], case.expected["log_probs"][row, :length], atol=1e-5, rtol=0
        )
    targets = [torch.tensor(labels) for labels in case.records["labels"]]
    losses = task.losses(logits, case.lengths, targets, Vocabulary(()))
    alone = case.expected["ctc_loss_none_zero_inf"] / case.inputs["label_lens"]
    torch.testing.assert_close(losses, alone, atol=1e-5, rtol=1e-5)
    case.check_gradients(losses.mean())


def test_ctc_counts_what_cannot_be_aligned_as_zero() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 6, 5, requires_grad=True)
    targets = [torch.tensor([1, 2]), torch.tensor([1, 1, 1, 1]), torch.tensor([3, 3, 4])]
    lengths = torch.tensor([6, 6, 4])
    losses = find_task("pr").losses(logits, lengths, targets, Vocabulary(()))
    padded = nn.utils.rnn.pad_sequence(targets, batch_first=True)
    sizes = torch.tensor([2, 4, 3])
    log_probs = logits.log_softmax(-1).transpose(0, 1)
    expected = nn.CTCLoss(zero_infinity=True)(log_probs, padded, lengths, sizes)
    torch.testing.assert_close(losses.mean(), expected)
    assert losses[1].item() == 0.0
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[1].any()


@pytest.mark.parametrize("name", UTTERANCE)
def test_utterance_classification_is_that_of_s3prl(name: str) -> None:
    case = Case(name, UtteranceHead)
    logits = case.logits()
    torch.testing.assert_close(logits, case.expected["logits"], atol=1e-5, rtol=0)
    task = find_task("sid")
    targets = list(case.inputs["labels"].split(1))
    best = task.predict(logits, case.lengths, Vocabulary(()))
    hits = [float(p == int(t)) for p, t in zip(best, targets, strict=True)]
    assert hits == case.expected["acc_per_utt"].tolist()
    case.check_gradients(task.losses(logits, case.lengths, targets, Vocabulary(())).mean())


def test_intent_classification_is_that_of_s3prl() -> None:
    case = Case("superb/03_utterance/ic", UtteranceHead)
    sizes = case.config["values_per_slot"]
    vocabulary = Vocabulary(tuple(f"{n}:{v}" for n, size in enumerate(sizes) for v in range(size)))
    logits = case.logits()
    torch.testing.assert_close(logits, case.expected["logits"], atol=1e-5, rtol=0)
    task = find_task("ic")
    targets = list(case.inputs["labels"] + torch.tensor([0, *sizes[:-1]]).cumsum(0))
    predictions = task.predict(logits, case.lengths, vocabulary)
    hits = [float(p == t.tolist()) for p, t in zip(predictions, targets, strict=True)]
    assert hits == case.expected["acc_per_utt"].tolist()
    case.check_gradients(task.losses(logits, case.lengths, targets, vocabulary).mean())


@pytest.mark.parametrize("name", UTTERANCE)
def test_utterance_head_on_pooled_features_is_the_same(name: str) -> None:
    case = Case(name, UtteranceHead)
    states = case.states
    if case.featurizer.normalize:  # frames are normalised one by one, so before the mean
        states, case.featurizer.normalize = F.layer_norm(states, states.shape[-1:]), False
    pooled = torch.stack([mean_pool(state, case.lengths) for state in states])
    ones = torch.ones_like(case.lengths)
    logits = case.head(case.featurizer(pooled[:, :, None]), ones)
    torch.testing.assert_close(logits, case.expected["logits"], atol=1e-5, rtol=0)


def test_mean_pool_leaves_padding_out() -> None:
    features = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))
    lengths = [7, 1, 5]
    expected = torch.stack([row[:n].mean(0) for row, n in zip(features, lengths, strict=True)])
    torch.testing.assert_close(mean_pool(features, torch.tensor(lengths)), expected)


@pytest.mark.parametrize("kind", [FrameHead, UtteranceHead])
def test_head_without_projection_is_one_linear_layer(kind: type[nn.Module]) -> None:
    head = kind(6, 3, None)
    assert sorted(dict(head.named_parameters())) == ["linear.bias", "linear.weight"]
    features = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(0))
    expected = F.linear(features, head.linear.weight, head.linear.bias)
    result = head(features, torch.ones(2, dtype=torch.int64))
    torch.testing.assert_close(result, expected.view(result.shape))
