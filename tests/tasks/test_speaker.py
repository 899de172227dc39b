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
from speechft.features.featurizer import WeightedSum
from speechft.tasks import AAMSoftmaxLoss, AMSoftmaxLoss, SoftmaxLoss, XVectorHead, from_s3prl
from speechft.tasks.measures import Item, weighted_eer, weighted_mtwv
from speechft.tasks.s3prl import to_s3prl
from speechft.tasks.speaker import LOST_FRAMES

LOSSES: dict[str, Any] = {"AMSoftmaxLoss": AMSoftmaxLoss, "AAMSoftmaxLoss": AAMSoftmaxLoss}
OPTIONS = {"s": "scale", "m": "margin", "easy_margin": "easy_margin"}
CASES = cases("superb/04_asv/xvector_*")


def build(name: str, extra_frame: bool) -> tuple[XVectorHead, nn.Module, dict[str, Tensor]]:
    config = oracle_json(f"{name}/config.json")
    model = config["downstream_expert"]["modelrc"]
    weights = load_file(oracle(f"{name}/state.safetensors"))
    state = from_s3prl("asv", weights)
    head = XVectorHead(
        config["upstream_dim"],
        model["input_dim"],
        model["module_config"]["XVector"]["agg_dim"],
        pooling="statistics" if model["agg_module"] == "SP" else "mean",
        extra_frame=extra_frame,
    )
    loss = model["ObjectiveLoss"]
    settings = model["LossConfig"][loss] if loss in LOSSES else {}
    objective = LOSSES.get(loss, SoftmaxLoss)(
        model["input_dim"],
        config["speaker_num"],
        **{OPTIONS[key]: value for key, value in settings.items()},
    )
    head.load_state_dict({k: v for k, v in state.items() if not k.startswith("loss.")})
    objective.load_state_dict(
        {k.removeprefix("loss."): v for k, v in state.items() if k.startswith("loss.")}
    )
    return head, objective, weights


@pytest.mark.parametrize("name", CASES)
def test_training_batch_is_that_of_s3prl(name: str) -> None:
    head, objective, _ = build(name, extra_frame=True)
    inputs = load_file(oracle(f"{name}/inputs.safetensors"))
    expected = load_file(oracle(f"{name}/outputs.safetensors"))
    states = inputs["hidden_states"].requires_grad_()
    featurizer = WeightedSum(len(states))
    featurizer.weights.data.copy_(inputs["weights"])
    lengths = torch.tensor([len(expected[f"feature_{n}"]) for n in range(states.shape[1])])
    # s3prl pads what the featurizer cut with zeros; the extra frame sees them
    mask = (torch.arange(states.shape[2]) < lengths[:, None])[..., None]
    features = featurizer(states) * mask
    pooled = head.pool(features, lengths)
    torch.testing.assert_close(pooled, expected["pooled"], atol=1e-5, rtol=1e-5)
    vectors = head(features, lengths)
    torch.testing.assert_close(vectors, expected["train_vector"], atol=1e-5, rtol=1e-5)
    loss = objective(vectors, inputs["labels"]).mean()
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=1e-5)
    loss.backward()
    found = dict(head.named_parameters()) | {
        f"loss.{n}": p for n, p in objective.named_parameters()
    }
    gradients = to_s3prl("asv", {n: p.grad for n, p in found.items() if p.grad is not None})
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[f"grad_param.{key}"], atol=2e-6, rtol=1e-4)
    assert len(gradients) == sum(key.startswith("grad_param.") for key in expected)
    torch.testing.assert_close(
        featurizer.weights.grad, expected["grad_weights"], atol=2e-6, rtol=1e-4
    )
    torch.testing.assert_close(states.grad, expected["grad_hidden_states"], atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_single_utterances_and_our_batches_are_s3prls_evaluation(name: str) -> None:
    head, objective, _ = build(name, extra_frame=False)
    inputs = load_file(oracle(f"{name}/inputs.safetensors"))
    expected = load_file(oracle(f"{name}/outputs.safetensors"))
    rows = [expected[f"feature_{n}"] for n in range(len(inputs["labels"]))]
    lengths = torch.tensor([len(row) for row in rows])
    batch = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=7.0)
    torch.testing.assert_close(
        head.pool(batch, lengths), expected["pooled_batch1"], atol=1e-5, rtol=1e-5
    )
    embedded = head.embed(batch, lengths)
    torch.testing.assert_close(embedded, expected["embedding_batch1"], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        embedded @ embedded.T, expected["cosine_scores_batch1"], atol=1e-5, rtol=0
    )
    losses = objective(head(batch, lengths), inputs["labels"])
    torch.testing.assert_close(losses, expected["loss_batch1"], atol=1e-4, rtol=1e-5)


def test_too_short_utterances_are_refused() -> None:
    head = XVectorHead(4, 3, 5)
    with pytest.raises(ValueError, match="15 frames: the x-vector needs at least 16"):
        head(torch.randn(1, 20, 4), torch.tensor([LOST_FRAMES + 1]))
    assert head(torch.randn(1, 20, 4), torch.tensor([LOST_FRAMES + 2])).isfinite().all()


def test_constant_units_have_finite_gradients() -> None:
    head = XVectorHead(4, 3, 5)
    features = torch.zeros(1, 20, 4, requires_grad=True)
    head(features, torch.tensor([20])).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_easy_margin_leaves_wide_angles_alone() -> None:
    torch.manual_seed(0)
    loss = AAMSoftmaxLoss(3, 2, easy_margin=True, margin=0.3, scale=2.0)
    with torch.no_grad():
        loss.class_weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    away = torch.tensor([[-1.0, 0.5, 0.0]])
    cosines = away / away.norm()
    plain = nn.functional.cross_entropy(2.0 * cosines[:, :2], torch.tensor([0]))
    torch.testing.assert_close(loss(away, torch.tensor([0]))[0], plain)


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
