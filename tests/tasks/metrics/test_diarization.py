"""Diarisation error rate against closed forms and a count over small steps of time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from speechft.tasks import metrics

Turns = list[tuple[str, float, float]]


def by_steps(reference: Turns, hypothesis: Turns, step: float = 0.001) -> float:
    times = np.arange(0, 12, step) + step / 2

    def active(turns: Turns, names: list[str]) -> np.ndarray:
        result = np.zeros((len(names), len(times)), dtype=bool)
        for name, start, end in turns:
            result[names.index(name)] |= (times >= start) & (times < end)
        return result

    names = [sorted({t[0] for t in turns}) for turns in (reference, hypothesis)]
    truth, guess = active(reference, names[0]), active(hypothesis, names[1])
    size = max(len(truth), len(guess))
    truth = np.pad(truth, ((0, size - len(truth)), (0, 0)))
    guess = np.pad(guess, ((0, size - len(guess)), (0, 0)))
    wrong = np.maximum(truth.sum(0), guess.sum(0))
    best = max((truth & guess[list(p)]).sum() for p in itertools.permutations(range(size)))
    return float((wrong.sum() - best) / truth.sum())


@pytest.mark.parametrize("seed", range(6))
def test_rate_is_that_of_a_count_over_time(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def turns(names: str) -> Turns:
        starts = rng.uniform(0, 9, 6)
        return [
            (str(rng.choice(list(names))), round(s, 2), round(s + rng.uniform(0.2, 2), 2))
            for s in starts
        ]

    reference, hypothesis = turns("AB"), turns("xyz")
    found = metrics.der([reference], [hypothesis])
    assert found == pytest.approx(by_steps(reference, hypothesis), abs=2e-3)


def test_parts_add_up() -> None:
    errors = metrics.diarization_errors(
        [("A", 0.0, 4.0), ("B", 3.0, 6.0)], [("1", 0.0, 3.0), ("2", 3.5, 7.0)]
    )
    assert errors.speech == pytest.approx(7.0)
    assert errors.false_alarm == pytest.approx(1.0)
    assert errors.missed == pytest.approx(1.5)
    assert errors.confusion == pytest.approx(0.0)


def test_no_speech() -> None:
    assert metrics.diarization_errors([], []).total == 0.0
    assert metrics.diarization_errors([], [("x", 0.0, 1.0)]).false_alarm == 1.0
    assert metrics.diarization_errors([("A", 0.0, 1.0)], []).missed == 1.0
    with pytest.raises(ValueError, match="no speech"):
        metrics.der([[]], [[]])


def test_frames_are_counted_as_by_hand() -> None:
    """Six valid frames of two speakers and one of padding, which counts nowhere."""
    labels = torch.tensor([[[1, 0], [1, 1], [0, 0], [0, 1], [1, 0], [0, 0], [1, 1]]])
    guess = torch.tensor([[[1, 0], [1, 0], [1, 1], [1, 0], [0, 0], [0, 0], [0, 1]]])
    found = metrics.diarization_frame_statistics(guess - 0.5, labels, torch.tensor([6]))
    assert found == {
        "correct": 3.0,
        "num_frames": 6.0,
        "speech_scored": 4.0,
        "speech_miss": 1.0,
        "speech_falarm": 1.0,
        "speaker_scored": 5.0,
        "speaker_miss": 2.0,
        "speaker_falarm": 2.0,
        "speaker_error": 1.0,
    }
    silent = metrics.diarization_frame_statistics(
        torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), torch.tensor([2])
    )
    assert (silent["speech_falarm"], silent["correct"]) == (0.0, 2.0), "logit 0 is no decision"
