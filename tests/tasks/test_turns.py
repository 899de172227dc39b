"""Diarisation labels, loss, counts and turns against s3prl; see oracle/superb/05_sd."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers import TIMING
from oracle_data import cases, entries, oracle, oracle_json
from speechft.data.labels import Vocabulary
from speechft.features.featurizer import WeightedSum
from speechft.tasks import find_task, from_s3prl, pit_losses, to_s3prl, turn_labels, turns_of
from speechft.tasks.metrics import diarization_frame_statistics

FOLDER = "superb/05_sd"
CASES = [p.removesuffix("/state.safetensors") for p in cases(f"{FOLDER}/*/state.safetensors")]
SD = find_task("sd").at(TIMING)


def speakers(count: int) -> Vocabulary:
    return Vocabulary(tuple(f"speaker-{number}" for number in range(count)))


def in_best_order(losses: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best order of the speakers of every utterance, and the labels in it."""
    orders = list(itertools.permutations(range(labels.shape[-1])))
    best = losses.argmin(1)
    rows = [labels[n][:, list(orders[number])] for n, number in enumerate(best.tolist())]
    return best, torch.stack(rows)


def loss_of(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
    """Return the product's loss of a batch whose recordings have the frames of the labels."""
    vocabulary = speakers(labels.shape[-1])
    targets = [row[:n].float() for row, n in zip(labels, lengths.tolist(), strict=True)]
    return SD.losses(logits, lengths, targets, vocabulary).mean()


@pytest.mark.parametrize("name", CASES)
def test_head_loss_and_gradients_are_those_of_s3prl(name: str) -> None:
    inputs = load_file(oracle(f"{name}/inputs.safetensors"))
    expected = load_file(oracle(f"{name}/outputs.safetensors"))
    figures = oracle_json(f"{name}/outputs.json")
    state = from_s3prl("sd", load_file(oracle(f"{name}/state.safetensors")))
    states = inputs["hidden_states"].requires_grad_()
    labels, lengths = inputs["labels_padded"], inputs["label_lens"]
    config = oracle_json(f"{name}/config.json")["downstream_expert"]
    assert config["modelrc"]["rnn_layers"] == 1, "as in SUPERB"
    units, count = (config["modelrc"]["hidden_size"],), config["datarc"]["num_speakers"]
    head = SD.probe_head(states.shape[-1], speakers(count), hidden=None, units=units)
    head.load_state_dict(state)
    featurizer = WeightedSum(len(states))
    featurizer.weights.data.copy_(inputs["weights"])
    kept, frames = torch.tensor(figures["feature_lens"]), torch.arange(states.shape[2])
    features = featurizer(states) * (frames < kept[:, None])[..., None]
    alike = features.shape == expected["model_input"].shape
    if alike:
        torch.testing.assert_close(features, expected["model_input"], atol=1e-5, rtol=0)
    else:  # s3prl repeats and cuts frames to those of labels; ours are made from the frames
        features = expected["model_input"]
    logits = head(features, lengths)
    torch.testing.assert_close(logits, expected["logits"], atol=1e-5, rtol=0)
    losses = pit_losses(logits, labels, lengths)
    torch.testing.assert_close(losses, expected["perm_losses"], atol=1e-5, rtol=1e-5)
    best, permuted = in_best_order(losses, labels)
    assert best.tolist() == expected["perm_idx"].tolist()
    assert torch.equal(permuted, expected["label_perm"])
    loss = loss_of(logits, labels, lengths)
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=1e-5)
    assert diarization_frame_statistics(logits, permuted, lengths) == pytest.approx(
        figures["calc_diarization_error"]
    )
    loss.backward()
    found = {n: p.grad for n, p in head.named_parameters() if p.grad is not None}
    for key, gradient in to_s3prl("sd", found).items():
        torch.testing.assert_close(gradient, expected[f"grad_param.{key}"], atol=1e-6, rtol=1e-4)
    if alike:
        torch.testing.assert_close(
            featurizer.weights.grad, expected["grad_weights"], atol=1e-6, rtol=1e-4
        )
        torch.testing.assert_close(
            states.grad, expected["grad_hidden_states"], atol=1e-6, rtol=1e-4
        )


@pytest.mark.parametrize("name", entries(f"{FOLDER}/direct_stats/outputs.json"))
def test_loss_and_counts_are_those_of_s3prl(name: str) -> None:
    inputs = load_file(oracle(f"{FOLDER}/direct_stats/inputs.safetensors"))
    expected = load_file(oracle(f"{FOLDER}/direct_stats/outputs.safetensors"))
    figures = oracle_json(f"{FOLDER}/direct_stats/outputs.json")[name]
    logits = inputs[f"{name}.pred"].requires_grad_()
    labels, lengths = inputs[f"{name}.label"], inputs[f"{name}.length"]
    best, permuted = in_best_order(pit_losses(logits, labels, lengths), labels)
    assert best.tolist() == expected[f"{name}.perm_idx"].tolist()
    assert torch.equal(permuted, expected[f"{name}.label_perm"])
    loss = loss_of(logits, labels, lengths)
    torch.testing.assert_close(loss, expected[f"{name}.loss"], atol=1e-5, rtol=1e-5)
    loss.backward()
    torch.testing.assert_close(logits.grad, expected[f"{name}.grad_pred"], atol=1e-6, rtol=1e-4)
    for kind, used in (("permuted", permuted), ("unpermuted", labels)):
        found = diarization_frame_statistics(logits, used, lengths)
        assert found == pytest.approx(figures[f"stats_{kind}"])


def test_logits_of_padded_waveforms_have_more_frames_than_targets() -> None:
    """Fine-tuning without the downsampler's cache: "target of 73 frames against 79"."""
    torch.manual_seed(0)
    logits, lengths = torch.randn(2, 79, 2), torch.tensor([73, 60])
    targets = [torch.randint(2, (int(n), 2)).float() for n in lengths]
    padded = SD.losses(logits, lengths, targets, speakers(2))
    torch.testing.assert_close(padded, SD.losses(logits[:, :73], lengths, targets, speakers(2)))


def test_labels_of_chunks_are_those_of_s3prl() -> None:
    """But for turns that cover a whole chunk, which s3prl loses."""
    data = oracle_json(f"{FOLDER}/labels_and_rttm/labels_from_segments.json")
    turns: dict[str, list[tuple[str, float, float]]] = {}
    for _, recording, speaker, start, end in data["segments"]:
        turns.setdefault(recording, []).append((speaker, start, end))
    compared = 0
    for run in data["runs"]:
        shift = run["frame_shift"]
        for recording, first, last, labels in _chunks(run):
            frames = [
                [round(time * data["rate"] / shift) for time in turn[1:]]
                for turn in turns[recording]
            ]
            if any(begin < first and end > last for begin, end in frames):
                continue
            found = turn_labels(turns[recording], first, last, frame_shift=shift, rate=data["rate"])
            assert found.tolist() == labels
            compared += 1
    assert compared


def _chunks(run: dict[str, Any]) -> list[tuple[str, int, int, list[list[int]]]]:
    """Return recording, first and last frame, and labels of every chunk."""
    if run["mode"] == "test":
        return [
            (item["rec"], chunk[1], chunk[2], labels)
            for item in run["items"]
            for chunk, labels in zip(item["chunks"], item["labels"], strict=True)
        ]
    return [(*item["chunk"][:3], item["labels"]) for item in run["items"]]


def test_a_turn_that_covers_the_chunk_counts() -> None:
    turns = [("A", 0.0, 3.0)]
    assert turn_labels(turns, 60, 120, frame_shift=320).all()
    assert turn_labels(turns, 140, 160, frame_shift=320)[:, 0].tolist() == [1] * 10 + [0] * 10


def test_turns_are_those_of_the_rttm_files_of_s3prl() -> None:
    data = oracle_json(f"{FOLDER}/labels_and_rttm/rttm.json")
    assert data["rttm"]
    for name, expected in data["rttm"].items():
        median, threshold = name.removeprefix("med").split("_th")
        lines = []
        for recording, probabilities in data["posteriors"].items():
            turns = turns_of(
                np.asarray(probabilities),
                threshold=float(threshold),
                median=int(median),
                frame_shift=data["frame_shift"],
            )
            lines += [
                f"SPEAKER {recording} 1 {start:7.2f} {end - start:7.2f} <NA> <NA> "
                f"{recording}{speaker} <NA>"
                for speaker, start, end in turns
            ]
        assert lines == expected
