"""What the verbs `evaluate` and `compare` make of their options; which tasks and cuts they take."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from helpers import cut_of
from speechft.api import compare
from speechft.data.manifest import Corpus, open_corpus, write_corpus
from speechft.data.utterances import Utterance
from speechft.errors import ConfigError, DataError
from speechft.evaluation.compare import difference_table
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.crops import cropped
from speechft.evaluation.predictions import read_items, write_items
from speechft.evaluation.suite import assign_tasks, choose_tasks
from speechft.results import ResultRow, write_rows
from speechft.tasks import SUPERB, find_task
from speechft.tasks.base import Item


def row(encoder: str, task: str, metric: str, value: float, **changes: object) -> ResultRow:
    fields: dict[str, object] = {
        "encoder": encoder,
        "encoder_digest": "0",
        "task": task,
        "metric": metric,
        "value": value,
        "higher_is_better": metric not in ("per", "slot_value_cer"),
        "n": 10,
        "interval": (value - 1, value + 1),
        "split": "test",
        "seed": 0,
        "protocol": "default",
        "learning_rate": 1e-3,
    }
    return ResultRow.model_validate({**fields, **changes})


def test_compare_without_predictions_has_no_interval(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "results.jsonl",
        [row("a", "pr", "per", 10.0), row("b", "pr", "per", 12.5)],
    )
    [found] = compare(tmp_path, baseline="b")
    assert (found.encoder, found.baseline, found.difference) == ("a", "b", -2.5)
    assert found.interval is None
    assert found.better is None
    with pytest.raises(ConfigError, match="unknown encoder 'c'; choices are: a, b"):
        compare([tmp_path], baseline="c")


def test_tasks_take_the_first_corpus_that_supports_them(tones: Corpus, miniature: Corpus) -> None:
    config = EvaluationConfig(tasks=("sid", "sd", "er"), floors=())
    tasks, by_task = assign_tasks(config, [tones, miniature])
    assert [task.name for task in tasks] == ["sid", "sd", "er"]
    assert [by_task[task.name].name for task in tasks] == ["tones", "miniature", "miniature"]
    with pytest.raises(DataError, match=r"for task sd: tones: every.*'turns'.*; tones: every"):
        assign_tasks(config, [tones, tones])
    every, _ = assign_tasks(EvaluationConfig(tasks="available"), [tones, miniature])
    assert set(SUPERB) <= {task.name for task in every}


def test_a_corpus_with_lists_of_its_own_for_a_task_comes_first(tones: Corpus) -> None:
    info = {**tones.info, "task_splits": {"sid": ["train", "dev", "test"]}}
    voices = replace(tones, name="voices", info=info)
    config = EvaluationConfig(tasks=("pr", "sid"), floors=())
    for given in ([tones, voices], [voices, tones]):
        _, by_task = assign_tasks(config, given)
        assert by_task["sid"].name == "voices"
        assert by_task["pr"].name == given[0].name


def test_speakers_that_training_lacks_are_no_task(tmp_path: Path) -> None:
    splits = {
        "train": [Utterance(f"a{n}", "a.wav", 16_000, speaker=f"a{n}") for n in range(3)],
        "dev": [Utterance("d0", "d.wav", 16_000, speaker="a0")],
        "test": [Utterance(f"t{n}", "t.wav", 16_000, speaker=f"t{n}") for n in range(3)],
    }
    write_corpus(tmp_path, "books", "x", splits, {})
    corpus = open_corpus(tmp_path)
    with pytest.raises(
        DataError,
        match=r"books cannot be used for task sid: speaker 't0' of its split test does not occur "
        r"in train, nor do 2 more",
    ):
        choose_tasks(EvaluationConfig(tasks=("sid",)), corpus)
    assert [t.name for t in choose_tasks(EvaluationConfig(tasks="available"), corpus)] == ["asv"]


def test_compare_says_what_is_drawn_and_what_was_computed_otherwise(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), []
    for name, precision in (("a", "fp32"), ("b", "bf16"), ("c", "fp32")):
        for task, group in (("pr", "s{}"), ("ic", "")):
            hits = rng.integers(0, 2, 60).astype(float)
            items = [
                Item(f"{n:02d}", "", "", hits[n], 1.0, group=group.format(n // 6))
                for n in range(60)
            ]
            file = f"{name}-{task}.jsonl"
            write_items(tmp_path / file, items)
            changes = {"evaluation": precision, "predictions": file}
            details = {"precision": precision, "kernel": "AVX2"}
            metric = "per" if task == "pr" else "accuracy"
            value = float(100 * hits.mean())
            rows.append(row(name, task, metric, value, **changes, details=details))
    write_rows(tmp_path / "results.jsonl", rows)
    found = {(d.encoder, d.task): d for d in compare(tmp_path, baseline="a")}
    assert found["c", "pr"].note == "10 groups only"
    assert found["c", "ic"].note == "60 items only"
    assert found["c", "pr"].warning == ""
    warning = "other data or settings; precision bf16 against fp32"
    assert found["b", "pr"].warning == found["b", "ic"].warning == warning
    header, cells = difference_table(list(found.values()))
    assert header[-1] == "over"
    assert {line[-1] for line in cells} == {"10 groups only", "60 items only"}
    assert all(warning in line[-2] for line in cells if line[2] == "b")


def test_compare_needs_something_in_common(tmp_path: Path) -> None:
    rows = [row("a", "pr", "per", 10.0), row("b", "pr", "per", 12.5, split="dev")]
    write_rows(tmp_path / "results.jsonl", rows)
    with pytest.raises(DataError, match="b and a have no task, split and protocol in common"):
        compare(str(tmp_path))


def test_items_may_hold_line_separators(tmp_path: Path) -> None:
    item = Item("a\u2028b\x85c", "x", "y", 1.0, 1.0)
    text = json.dumps(asdict(item), ensure_ascii=False)
    (tmp_path / "sid.jsonl").write_text(f"{text}\n{text}\n", encoding="utf-8")
    assert read_items(tmp_path / "sid.jsonl") == [item, item]


def test_only_noise_is_cropped_where_words_are_spotted() -> None:
    cuts = [cut_of(k, 32_000, labels={"keyword": k}) for k in ("yes", "_silence_")]
    ids = [cut.id for cut in cropped(find_task("ks"), cuts, 1.0, 2, seed=0)]
    assert ids == ["yes", "_silence_#crop0", "_silence_#crop1"]


def test_crops_are_random_but_fixed() -> None:
    cuts = [cut_of("long", 48_000, labels={"x": "1"}), cut_of("short", 12_000)]
    sid = find_task("sid")
    first = cropped(sid, cuts, 1.0, 3, seed=0)
    assert [cut.id for cut in first] == ["long#crop0", "long#crop1", "long#crop2", "short"]
    assert [cut.duration for cut in first] == [1.0, 1.0, 1.0, 0.75]
    assert [cut.start for cut in first] == [cut.start for cut in cropped(sid, cuts, 1.0, 3, seed=0)]
    assert len({cut.start for cut in first[:3]}) == 3
    assert [c.start for c in first] != [c.start for c in cropped(sid, cuts, 1.0, 3, seed=1)]
    assert cropped(sid, cuts, None, 3, seed=0) == cuts
