"""X-vector head and its losses against s3prl's own classes; see oracle/superb/04_asv."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from oracle_data import cases, oracle, oracle_json
from speechft.data.labels import Vocabulary
from speechft.features.featurizer import WeightedSum
from speechft.tasks import SpeakerHead, XVectorHead, aam_softmax, from_s3prl, to_s3prl
from speechft.tasks.asv import SpeakerModel
from speechft.tasks.measures import Item, weighted_eer, weighted_mtwv
from speechft.tasks.speaker import LOST_FRAMES, SPEAKER_LOSSES

LOSSES: dict[str, Any] = {
    "AMSoftmaxLoss": ("am-softmax", "loss.weight", False),
    "AAMSoftmaxLoss": ("aam-softmax", "loss.class_weight", True),
    "Softmax": ("softmax", "loss.linear.weight", True),
}
"""By s3prl's name: ours, the directions of the speakers, and whether theirs are transposed."""
OPTIONS = {"s": "scale", "m": "margin", "easy_margin": "easy_margin"}
CASES = cases("superb/04_asv/xvector_*")


class Case:
    """What the task ASV is made of, with one of s3prl's losses and its weights."""

    def __init__(self, name: str, *, extra_frame: bool) -> None:
        config = oracle_json(f"{name}/config.json")
        model = config["downstream_expert"]["modelrc"]
        loss = model["ObjectiveLoss"]
        kind, self.directions, self.turned = LOSSES.get(loss, LOSSES["Softmax"])
        settings = model["LossConfig"][loss] if loss in LOSSES else {}
        self.options = {OPTIONS[key]: value for key, value in settings.items()}
        self.model = SpeakerModel(
            loss=kind,
            pooling="statistics" if model["agg_module"] == "SP" else "mean",
            extra_frame=extra_frame,
        )
        state = from_s3prl("asv", load_file(oracle(f"{name}/state.safetensors")))
        directions = state[self.directions]
        own = {f"xvector.{k}": v for k, v in state.items() if not k.startswith("loss.")}
        own["speakers"] = directions.T if self.turned else directions
        if "loss.linear.bias" in state:
            own["bias"] = state["loss.linear.bias"]
        count = config["speaker_num"]
        self.vocabulary = Vocabulary(tuple(f"speaker-{n}" for n in range(count)))
        pooled = model["module_config"]["XVector"]["agg_dim"]
        head = self.model.head(
            config["upstream_dim"], self.vocabulary, model["input_dim"], (pooled,)
        )
        assert isinstance(head, SpeakerHead)
        self.head = head
        self.head.load_state_dict(own)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the losses of a batch as the task has them, with the scale and margin recorded."""
        loss = SPEAKER_LOSSES[self.model.loss]
        scores = logits[:, : len(self.vocabulary)]
        return loss(scores, labels, **self.options)

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
    inputs = load_file(oracle(f"{name}/inputs.safetensors"))
    expected = load_file(oracle(f"{name}/outputs.safetensors"))
    states = inputs["hidden_states"].requires_grad_()
    featurizer = WeightedSum(len(states))
    featurizer.weights.data.copy_(inputs["weights"])
    lengths = torch.tensor([len(expected[f"feature_{n}"]) for n in range(states.shape[1])])
    # s3prl pads what the featurizer cut with zeros; the extra frame sees them
    mask = (torch.arange(states.shape[2]) < lengths[:, None])[..., None]
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
    inputs = load_file(oracle(f"{name}/inputs.safetensors"))
    expected = load_file(oracle(f"{name}/outputs.safetensors"))
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


@pytest.mark.parametrize("name", cases("superb/04_asv/eer/*.json"))
def test_eer_of_many_trials_is_that_of_s3prl(name: str) -> None:
    from speechft.tasks.metrics import equal_error_rate_and_threshold, min_dcf_and_threshold

    recorded = oracle_json(name)
    assert recorded
    for case in recorded.values():
        found = equal_error_rate_and_threshold(case["labels"], case["scores"])
        assert found == pytest.approx(tuple(case["EER"].values()), abs=1e-9)
        costs = [key for key in case if key.startswith("compute_minDCF")]
        assert costs
        for key in costs:  # such as compute_minDCF(p=.05,c_miss=10,c_fa=1)
            prior, miss, alarm = map(float, re.findall(r"[\d.]+", key.partition("(")[2]))
            found = min_dcf_and_threshold(
                case["labels"], case["scores"], p_target=prior, c_miss=miss, c_fa=alarm
            )
            assert found == pytest.approx(tuple(case[key].values()), abs=1e-12)
