"""What each task tells of an utterance, against figures by hand."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch

from helpers import TIMING
from pipelines import SYMBOLS
from speechft.data.labels import Vocabulary
from speechft.tasks import TASKS, find_task
from speechft.tasks.answers import Answer, Span, runs

HOP = 0.02


def tell(task: str, logits: torch.Tensor, setting: object = None) -> Answer:
    vocabulary = Vocabulary(SYMBOLS[task])
    frames = len(logits) if logits.dim() == 2 else 9
    about = find_task(task).at(TIMING)
    [answer] = about.answers(logits[None], torch.tensor([frames]), vocabulary, setting)
    return answer


def path(task: str, *symbols: str) -> torch.Tensor:
    """Return logits whose best path is so; ``_`` is the blank."""
    names = SYMBOLS[task]
    numbers = [0 if symbol == "_" else names.index(symbol) for symbol in symbols]
    return torch.nn.functional.one_hot(torch.tensor(numbers), len(names)).float()


def test_words_have_the_times_of_their_first_and_last_letters() -> None:
    answer = tell("asr", path("asr", *"_AA_B|||_A_A_"))
    assert answer.text == "AB AA"
    assert answer.values["text"] == answer.text
    assert answer.values["words"] == [
        {"word": "AB", "start": pytest.approx(1 * HOP), "end": pytest.approx(5 * HOP)},
        {"word": "AA", "start": pytest.approx(9 * HOP), "end": pytest.approx(12 * HOP)},
    ]
    assert [span.text for span in answer.spans] == ["AB", "AA"]
    silent = tell("asr", path("asr", *"___"))
    assert (silent.text, silent.values["words"], silent.spans) == ("", [], ())


def test_phones_have_times_each() -> None:
    answer = tell("pr", path("pr", "AH", "AH", "_", "AH", "B"))
    assert answer.text == "AH AH B"
    phones = [(p["phone"], p["start"], p["end"]) for p in answer.values["phones"]]
    assert phones == [("AH", 0.0, 0.04), ("AH", 0.06, 0.08), ("B", 0.08, 0.1)]


def test_slots_are_apart_from_words() -> None:
    answer = tell("sf", path("sf", "A", " ", "B-artist ", "B", "A", "_", " E-artist", "_"))
    assert answer.values["text"] == "A BA"
    assert answer.values["tagged"] == answer.text == "A B-artist BA E-artist"
    assert answer.values["slots"] == {"artist": ["BA"]}
    assert [(span.text, span.start) for span in answer.spans] == [("A", 0.0), ("BA", 0.06)]


def test_a_class_has_the_probability_of_the_softmax() -> None:
    answer = tell("sid", torch.tensor([1.0, 3.0, 0.0]))
    weights = [math.exp(1.0), math.exp(3.0), 1.0]
    assert answer.text == answer.values["label"] == "bert"
    assert answer.values["probability"] == pytest.approx(weights[1] / sum(weights), abs=1e-6)


def test_an_intent_has_a_probability_by_slot() -> None:
    answer = tell("ic", torch.tensor([0.0, math.log(3), 0.0, 0.0, math.log(2)]))
    assert answer.text == answer.values["intent"] == "on/none"
    assert [slot["value"] for slot in answer.values["slots"]] == ["on", "none"]
    assert [slot["probability"] for slot in answer.values["slots"]] == [0.75, 0.5]
    assert answer.values["probability"] == pytest.approx(0.375)


def test_an_embedding_is_what_the_head_gives_behind_the_scores() -> None:
    answer = tell("asv", torch.tensor([5.0, 6.0, 0.25, -0.5]))
    assert answer.values == {"embedding": [0.25, -0.5]}
    assert answer.text == "0.250000 -0.500000"


def test_turns_follow_the_setting() -> None:
    logits = torch.tensor([[9.0, -9], [9, -9], [0.5, 9], [-9, 9]])
    answer = tell("sd", logits, (0.5, 1))
    assert answer.values["turns"] == [
        {"speaker": "0", "start": 0.0, "end": 0.06},
        {"speaker": "1", "start": 0.04, "end": 0.08},
    ]
    assert json.loads(answer.text)[0][0] == "_0"
    strict = tell("sd", logits, (0.7, 1))
    assert strict.values["turns"][0]["end"] == 0.04
    assert tell("sd", logits) == answer, "the usual setting"


def test_frames_of_one_phone_are_one_span() -> None:
    answer = tell("pc", path("pc", "AH", "AH", "B"))
    assert answer.spans == (Span(0.0, 0.04, "AH"), Span(0.04, 0.06, "B"))
    assert answer.text == "AH AH B"


def test_frames_of_padding_say_nothing() -> None:
    logits = path("asr", *"AB|A")[None].repeat(2, 1, 1)
    answers = (
        find_task("asr")
        .at(TIMING)
        .answers(logits, torch.tensor([2, 4]), Vocabulary(SYMBOLS["asr"]))
    )
    assert [answer.text for answer in answers] == ["AB", "AB A"]


def test_every_task_with_a_head_answers() -> None:
    formats = {name: task.formats for name, task in TASKS.items() if task.predicts_files}
    assert set(TASKS) - set(formats) == {"qbe"}
    assert all(formats[name][:2] == ("jsonl", "csv") for name in formats)
    assert [n for n in formats if "rttm" in formats[n]] == ["sd"]
    assert {n for n in formats if "vtt" in formats[n]} == {"asr", "pr", "sf", "pc"}


def test_runs() -> None:
    numbers = np.random.default_rng(0).integers(0, 2, 50).tolist()
    found = list(runs(numbers))
    assert [n for number, first, last in found for n in [number] * (last - first)] == numbers
    assert all(a[0] != b[0] and a[2] == b[1] for a, b in itertools.pairwise(found))
    assert list(runs([])) == []
