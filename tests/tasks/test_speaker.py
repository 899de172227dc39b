"""The x-vector and the losses of speakers against s3prl's own classes; see oracle/superb/04_asv."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers import ORACLE
from speechft.data.labels import Vocabulary
from speechft.features.featurizer import WeightedSum, kept_frames
from speechft.tasks import SpeakerHead, XVectorHead, aam_softmax, from_s3prl, to_s3prl
from speechft.tasks.asv import SpeakerModel
from speechft.tasks.measures import Item, weighted_eer, weighted_mtwv
from speechft.tasks.speaker import LOST_FRAMES

FOLDER = ORACLE / "superb" / "04_asv"
CASES = ("xvector_sp_amsoftmax", "xvector_sp_aamsoftmax", "xvector_mp_softmax")
LOSSES: dict[str, Any] = {
    "amsoftmax": ("am-softmax", "loss.weight", False),
    "aamsoftmax": ("aam-softmax", "loss.class_weight", True),
    "softmax": ("softmax", "loss.linear.weight", True),
}
"""By s3prl's name: ours, the directions of the speakers, and whether theirs are transposed."""


class Case:
    """What the task ASV is made of, with one of s3prl's losses and its weights."""

    def __init__(self, name: str, *, extra_frame: bool) -> None:
        _, pooling, loss = name.split("_")
        kind, self.directions, self.turned = LOSSES[loss]
        self.model = SpeakerModel(
            loss=kind,
            pooling="statistics" if pooling == "sp" else "mean",
            extra_frame=extra_frame,
        )
        state = from_s3prl("asv", load_file(FOLDER / name / "state.safetensors"))
        dim, hidden = state["projector.weight"].shape[1], state["projector.weight"].shape[0]
        directions = state[self.directions]
        own = {f"xvector.{k}": v for k, v in state.items() if not k.startswith("loss.")}
        own["speakers"] = directions.T if self.turned else directions
        if "loss.linear.bias" in state:
            own["bias"] = state["loss.linear.bias"]
        count = own["speakers"].shape[1]
        self.vocabulary = Vocabulary(tuple(f"speaker-{n}" for n in range(count)))
        pooled = len(state["layers.4.kernel.bias"])
        head = self.model.head(dim, self.vocabulary, hidden, (pooled,))
        assert isinstance(head, SpeakerHead)
        self.head = head
        self.head.load_state_dict(own)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the losses of a batch as the task has them."""
        lengths = torch.ones(len(labels), dtype=torch.int64)
        return self.model.losses(logits, lengths, labels.split(1), self.vocabulary)

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients of the weights under s3prl's keys."""
        found = {n: p.grad for n, p in self.head.named_parameters() if p.grad is not None}
        directions = found.pop("speakers")
        theirs = {self.directions: directions.T if self.turned else directions}
        if "bias" in found:
            theirs["loss.linear.bias"] = found.pop("bias")
        theirs |= {n.removeprefix("xvector."): tensor for n, tensor in found.items()}
        return to_s3prl("asv", theirs)


@pytest.mark.parametrize("name", CASES)
def test_training_batch_is_that_of_s3prl(name: str) -> None:
    case = Case(name, extra_frame=True)
    inputs = load_file(FOLDER / name / "inputs.safetensors")
    expected = load_file(FOLDER / name / "outputs.safetensors")
    states = inputs["hidden_states"].requires_grad_()
    featurizer = WeightedSum(len(states))
    featurizer.weights.data.copy_(inputs["weights"])
    frames = states.shape[2]
    lengths = torch.tensor([kept_frames(n, frames) for n in inputs["wav_lens"].tolist()])
    # s3prl pads what the featurizer cut with zeros; the extra frame sees them
    mask = (torch.arange(frames) < lengths[:, None])[..., None]
    features = featurizer(states) * mask
    pooled = case.head.xvector.pool(features, lengths)
    torch.testing.assert_close(pooled, expected["pooled"], atol=1e-5, rtol=1e-5)
    vectors = case.head.xvector(features, lengths)[0]
    torch.testing.assert_close(vectors, expected["train_vector"], atol=1e-5, rtol=1e-5)
    loss = case.losses(case.head(features, lengths), inputs["labels"]).mean()
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=1e-5)
    loss.backward()
    gradients = case.gradients()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[f"grad_param.{key}"], atol=2e-6, rtol=1e-4)
    assert len(gradients) == sum(key.startswith("grad_param.") for key in expected)
    torch.testing.assert_close(
        featurizer.weights.grad, expected["grad_weights"], atol=2e-6, rtol=1e-4
    )
    torch.testing.assert_close(states.grad, expected["grad_hidden_states"], atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_single_utterances_and_our_batches_are_s3prls_evaluation(name: str) -> None:
    case = Case(name, extra_frame=False)
    inputs = load_file(FOLDER / name / "inputs.safetensors")
    expected = load_file(FOLDER / name / "outputs.safetensors")
    rows = [expected[f"feature_{n}"] for n in range(len(inputs["labels"]))]
    lengths = torch.tensor([len(row) for row in rows])
    batch = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=7.0)
    torch.testing.assert_close(
        case.head.xvector.pool(batch, lengths), expected["pooled_batch1"], atol=1e-5, rtol=1e-5
    )
    logits = case.head(batch, lengths)
    embedded = torch.stack(case.model.predict(logits, lengths, case.vocabulary))
    torch.testing.assert_close(embedded, expected["embedding_batch1"], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        embedded @ embedded.T, expected["cosine_scores_batch1"], atol=1e-5, rtol=0
    )
    losses = case.losses(logits, inputs["labels"])
    torch.testing.assert_close(losses, expected["loss_batch1"], atol=1e-4, rtol=1e-5)


def test_speakers_that_training_does_not_hold_have_no_loss() -> None:
    logits, labels = torch.randn(3, 6), torch.tensor([0, -1, 3])
    vocabulary = Vocabulary(tuple("abcd"))
    for loss in ("softmax", "am-softmax", "aam-softmax"):
        losses = SpeakerModel(loss=loss).losses(  # type: ignore[arg-type]
            logits, torch.ones(3), labels.split(1), vocabulary
        )
        assert losses[1] == 0.0
        assert (losses[[0, 2]] > 0.0).all()


def test_fewer_frames_than_the_task_asks_for_are_too_few_for_the_head() -> None:
    assert SpeakerModel.least_frames == LOST_FRAMES + 2


def test_too_short_utterances_are_refused() -> None:
    head = XVectorHead(4, 3, 5)
    with pytest.raises(ValueError, match="15 frames: the x-vector needs at least 16"):
        head(torch.randn(1, 20, 4), torch.tensor([LOST_FRAMES + 1]))
    vectors, embeddings = head(torch.randn(1, 20, 4), torch.tensor([LOST_FRAMES + 2]))
    assert vectors.isfinite().all()
    assert embeddings.isfinite().all()


def test_constant_units_have_finite_gradients() -> None:
    head = XVectorHead(4, 3, 5)
    features = torch.zeros(1, 20, 4, requires_grad=True)
    head(features, torch.tensor([20]))[0].sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_easy_margin_leaves_wide_angles_alone() -> None:
    cosines, speaker = torch.tensor([[-0.9, 0.4]]), torch.tensor([0])
    plain = nn.functional.cross_entropy(2.0 * cosines, speaker)
    found = aam_softmax(cosines, speaker, easy_margin=True, margin=0.3, scale=2.0)
    torch.testing.assert_close(found[0], plain)


@pytest.mark.parametrize("statistic", [weighted_eer, weighted_mtwv])
def test_scores_that_are_not_finite_have_no_figure(statistic: Any) -> None:
    def figure(*scores: float) -> float:
        items = [Item(str(n), "", "", s, float(n < 2), group="q") for n, s in enumerate(scores)]
        return float(statistic(items, np.ones((1, len(items))))[0])

    assert math.isfinite(figure(2.0, 1.0, 0.0))
    for bad in (math.nan, math.inf):
        assert math.isnan(figure(2.0, bad, 0.0))


def test_eer_of_200_trials_is_that_of_s3prl() -> None:
    from speechft.tasks.metrics import equal_error_rate_and_threshold, min_dcf_and_threshold

    cases = json.loads((FOLDER / "eer" / "eer_200.json").read_text())
    assert len(cases) == 4
    for case in cases.values():
        found = equal_error_rate_and_threshold(case["labels"], case["scores"])
        assert found == pytest.approx(tuple(case["EER"].values()), abs=1e-9)
        found = min_dcf_and_threshold(case["labels"], case["scores"])
        expected = case["compute_minDCF_default(p=.01,1,1)"]
        assert found == pytest.approx(tuple(expected.values()), abs=1e-12)
        found = min_dcf_and_threshold(case["labels"], case["scores"], p_target=0.05, c_miss=10)
        expected = case["compute_minDCF(p=.05,c_miss=10,c_fa=1)"]
        assert found == pytest.approx(tuple(expected.values()), abs=1e-12)
