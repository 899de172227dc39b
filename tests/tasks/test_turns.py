"""Diarisation labels, loss, counts and RTTM against s3prl; see oracle/superb/05_sd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from oracle_data import cases, entries, oracle, oracle_json
from speechft.features.featurizer import WeightedSum
from speechft.tasks import DiarizationHead, from_s3prl, pit_loss, pit_losses, rttm_lines, turns_of
from speechft.tasks.metrics import diarization_frame_statistics
from speechft.tasks.s3prl import to_s3prl
from speechft.tasks.turns import chunk_bounds, match_frames, turn_labels

SD = "superb/05_sd"


@pytest.mark.parametrize(
    "name", [path.removesuffix("/state.safetensors") for path in cases(f"{SD}/*/state.safetensors")]
)
def test_head_loss_and_gradients_are_those_of_s3prl(name: str) -> None:
    inputs = load_file(oracle(f"{name}/inputs.safetensors"))
    expected = load_file(oracle(f"{name}/outputs.safetensors"))
    figures = oracle_json(f"{name}/outputs.json")
    config = oracle_json(f"{name}/config.json")["downstream_expert"]
    head = DiarizationHead(
        inputs["hidden_states"].shape[-1],
        config["datarc"]["num_speakers"],
        config["modelrc"]["hidden_size"],
        config["modelrc"]["rnn_layers"],
    )
    head.load_state_dict(from_s3prl("sd", load_file(oracle(f"{name}/state.safetensors"))))
    states = inputs["hidden_states"].requires_grad_()
    featurizer = WeightedSum(len(states))
    featurizer.weights.data.copy_(inputs["weights"])
    kept, frames = torch.tensor(figures["feature_lens"]), torch.arange(states.shape[2])
    features = featurizer(states) * (frames < kept[:, None])[..., None]
    matched = match_frames(features, inputs["labels_padded"].shape[1])
    torch.testing.assert_close(matched, expected["model_input"], atol=1e-5, rtol=0)
    lengths = inputs["label_lens"]
    logits = head(matched, lengths)
    torch.testing.assert_close(logits, expected["logits"], atol=1e-5, rtol=0)
    losses, best, permuted = pit_losses(logits, inputs["labels_padded"], lengths)
    torch.testing.assert_close(losses, expected["perm_losses"], atol=1e-5, rtol=1e-5)
    assert best.tolist() == expected["perm_idx"].tolist()
    assert torch.equal(permuted, expected["label_perm"])
    loss = pit_loss(logits, inputs["labels_padded"], lengths)
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=1e-5)
    assert diarization_frame_statistics(logits, permuted, lengths) == pytest.approx(
        figures["calc_diarization_error"]
    )
    loss.backward()
    found = {n: p.grad for n, p in head.named_parameters() if p.grad is not None}
    for key, gradient in to_s3prl("sd", found).items():
        torch.testing.assert_close(gradient, expected[f"grad_param.{key}"], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(
        featurizer.weights.grad, expected["grad_weights"], atol=1e-6, rtol=1e-4
    )
    torch.testing.assert_close(states.grad, expected["grad_hidden_states"], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", entries(f"{SD}/direct_stats/outputs.json"))
def test_loss_and_counts_are_those_of_s3prl(name: str) -> None:
    inputs = load_file(oracle(f"{SD}/direct_stats/inputs.safetensors"))
    expected = load_file(oracle(f"{SD}/direct_stats/outputs.safetensors"))
    figures = oracle_json(f"{SD}/direct_stats/outputs.json")[name]
    logits = inputs[f"{name}.pred"].requires_grad_()
    labels, lengths = inputs[f"{name}.label"], inputs[f"{name}.length"]
    _, best, permuted = pit_losses(logits, labels, lengths)
    assert best.tolist() == expected[f"{name}.perm_idx"].tolist()
    assert torch.equal(permuted, expected[f"{name}.label_perm"])
    loss = pit_loss(logits, labels, lengths)
    torch.testing.assert_close(loss, expected[f"{name}.loss"], atol=1e-5, rtol=1e-5)
    loss.backward()
    torch.testing.assert_close(logits.grad, expected[f"{name}.grad_pred"], atol=1e-6, rtol=1e-4)
    for kind, used in (("permuted", permuted), ("unpermuted", labels)):
        found = diarization_frame_statistics(logits, used, lengths)
        assert found == pytest.approx(figures[f"stats_{kind}"])


def test_labels_of_chunks_are_those_of_s3prl() -> None:
    data = oracle_json(f"{SD}/labels_and_rttm/labels_from_segments.json")
    turns: dict[str, list[tuple[str, float, float]]] = {}
    for _, recording, speaker, start, end in data["segments"]:
        turns.setdefault(recording, []).append((speaker, start, end))
    compared = 0
    for run in data["runs"]:
        shift = run["frame_shift"]
        for recording, seconds in data["reco2dur"].items():
            bounds = chunk_bounds(int(seconds * data["rate"] / shift), run["chunk_size"])
            if run["mode"] == "test":
                item = next(x for x in run["items"] if x["rec"] == recording)
                expected = dict(
                    zip((tuple(x[1:]) for x in item["chunks"]), item["labels"], strict=True)
                )
            else:
                mine = [x for x in run["items"] if x["chunk"][0] == recording]
                expected = {tuple(x["chunk"][1:]): x["labels"] for x in mine}
            assert bounds == list(expected)
            for chunk, labels in expected.items():
                found = turn_labels(
                    turns[recording], *chunk, frame_shift=shift, rate=data["rate"], lose_inside=True
                )
                assert found.tolist() == labels
                compared += 1
    items = [item for run in data["runs"] for item in run["items"]]
    assert compared == sum(len(item.get("chunks", [item])) for item in items) > 0


def test_a_turn_that_covers_the_chunk_counts() -> None:
    turns = [("A", 0.0, 3.0)]
    assert turn_labels(turns, 60, 120).all()
    assert not turn_labels(turns, 60, 120, lose_inside=True).any()
    assert turn_labels(turns, 140, 160)[:, 0].tolist() == [1] * 10 + [0] * 10


def test_rttm_is_that_of_s3prl() -> None:
    data = oracle_json(f"{SD}/labels_and_rttm/rttm.json")
    assert data["rttm"]
    for name, expected in data["rttm"].items():
        median, threshold = name.removeprefix("med").split("_th")
        lines = []
        for recording, probabilities in data["posteriors"].items():
            turns = turns_of(
                np.asarray(probabilities),
                name=recording,
                threshold=float(threshold),
                median=int(median),
                frame_shift=data["frame_shift"],
            )
            lines += rttm_lines(recording, turns)
        assert lines == expected
