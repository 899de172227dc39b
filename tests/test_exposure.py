"""What a run's fine-tunings hear: its cost, and the overlap with what its probes are tested on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from speechft.data.manifest import Corpus, open_corpus, write_corpus
from speechft.data.utterances import Utterance
from speechft.evaluation.predictions import write_items
from speechft.exposure import estimate, mark_overlap
from speechft.recipe import Recipe
from speechft.results import ResultRow
from speechft.tasks import find_task
from speechft.tasks.base import Item

SESSIONS = (1, 2, 3)


@pytest.fixture
def sessions(tmp_path: Path) -> Corpus:
    """Return a corpus of three sessions with a fold each, as IEMOCAP is prepared."""

    def utterances(number: int) -> list[Utterance]:
        return [
            Utterance(
                f"s{number}-{n}",
                f"s{number}-{n}.wav",
                32_000,
                speaker=f"s{number}-{n % 2}",
                labels={"emotion": "ab"[n % 2], "session": f"s{number}"},
            )
            for n in range(4)
        ]

    splits, folds = {}, []
    for number in SESSIONS:
        names = tuple(f"fold{number}-{part}" for part in ("train", "dev", "test"))
        rest = [u for other in SESSIONS if other != number for u in utterances(other)]
        parts = (rest[2:], rest[:2], utterances(number))
        splits |= dict(zip(names, parts, strict=True))
        folds.append(names)
    info: dict[str, Any] = {
        "folds": {"er": folds},
        "task_splits": {"*": folds[0]},
        "tuning_splits": folds[0][:2],
    }
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus", "sessions", "1", splits, info)
    return open_corpus(tmp_path / "corpus")


def recipe(**changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "title": "x",
        "encoder": "tiny-hubert",
        "finetuning": {
            "task": "er",
            "steps": 100,
            "learning_rate": 1e-3,
            "batch_utterances": 3,
            "batch_seconds": 60,
            "accumulation": 2,
        },
        "evaluation": {"tasks": ["er"], "floors": ["mfcc"]},
        **changes,
    }
    return Recipe.model_validate(content)


def row_of(items: list[Item], folder: Path) -> ResultRow:
    write_items(folder / "items.jsonl", items)
    return ResultRow(
        encoder="e", encoder_digest="e", task="er", metric="accuracy", value=50.0,
        higher_is_better=True, n=len(items), interval=None, split="all folds", seed=0,
        protocol="default", learning_rate=0.1, predictions="items.jsonl",
    )  # fmt: skip


def test_folds_whose_test_was_tuned_on_are_counted_and_left_out(
    sessions: Corpus, tmp_path: Path
) -> None:
    """Tuning on the first fold hears the test parts of the others: only the first is clean."""
    items = [
        Item(cut.id, "", "", float(number == 1), 1.0, fold=number)
        for number in SESSIONS
        for cut in sessions.split(f"fold{number}-test")
    ]
    task = find_task("er")
    arguments = (recipe(), {"*": sessions}, [task], {"er": sessions}, tmp_path)
    [marked] = mark_overlap([row_of(items, tmp_path)], *arguments)
    assert marked.details["tuned_on"] == {
        "utterances": [8, 12],
        "speakers": [4, 6],
        "sessions": [2, 3],
    }
    assert marked.details["clean"] == {"value": 100.0, "n": 4}
    assert marked.value == 50.0, "the figure with them stays"


def test_a_run_whose_tests_were_not_heard_says_so(sessions: Corpus, tmp_path: Path) -> None:
    items = [Item(cut.id, "", "", 1.0, 1.0) for cut in sessions.split("fold1-test")]
    task = find_task("er")
    info = {key: value for key, value in sessions.info.items() if key != "folds"}
    single = dataclasses.replace(sessions, info=info)
    arguments = (recipe(), {"*": single}, [task], {"er": single}, tmp_path)
    [marked] = mark_overlap([row_of(items, tmp_path)], *arguments)
    assert marked.details["tuned_on"]["utterances"] == [0, 4]
    assert "clean" not in marked.details


def test_the_cost_of_a_run_follows_from_its_recipe(sessions: Corpus) -> None:
    task = find_task("er")
    cost = estimate(recipe(), {"*": sessions}, [task], {"er": sessions})
    assert cost.updates == 200, "stable and plain"
    assert cost.tuning_hours == pytest.approx(
        200 * 2 * 3 * 2 / 3600, rel=0.02
    )  # 2 batches of 3 of 2 s
    assert cost.encoders == 5  # MFCC, pre-trained, stable, plain, merged
    assert cost.evaluation_hours == pytest.approx(5 * 36 * 2 / 3600, rel=0.02)
    several = recipe(
        baselines=[{"strategy": "plain", "alpha": 0.5}, "early-checkpoint"],
        composition={"kind": "average", "tasks": ["er", "sid"]},
    )
    more = estimate(several, {"*": sessions}, [task], {"er": sessions})
    assert more.updates == 2 * (100 + 100 + 20)
    assert more.encoders == 7
    assert more.gigabytes > cost.gigabytes > 0
    assert "440 updates" in str(more)


def test_what_pretraining_heard_is_counted_or_unknown(sessions: Corpus, tmp_path: Path) -> None:
    items = [Item(cut.id, "", "", 1.0, 1.0) for cut in sessions.split("fold1-test")]
    arguments = (recipe(), {"*": sessions}, [find_task("er")], {"er": sessions}, tmp_path)
    [unknown] = mark_overlap([row_of(items, tmp_path)], *arguments)
    assert unknown.details["pretrained_on"] == "unknown"
    [marked] = mark_overlap([row_of(items, tmp_path)], *arguments, (sessions,))
    heard = {cut.id for cut in sessions.split("fold1-train")}
    tested = {cut.id for n in SESSIONS for cut in sessions.split(f"fold{n}-test")}
    assert marked.details["pretrained_on"]["utterances"] == [len(heard & tested), 12]
    elsewhere = dataclasses.replace(sessions, name="another")
    [other] = mark_overlap([row_of(items, tmp_path)], *arguments, (elsewhere,))
    assert other.details["pretrained_on"]["utterances"] == [0, 12]
