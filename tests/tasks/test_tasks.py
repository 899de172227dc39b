"""The list of tasks, and which of them a corpus supports."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from helpers import cut_of
from speechft.data.kept_cuts import Cuts
from speechft.data.labels import Vocabulary
from speechft.data.manifest import Corpus
from speechft.errors import ConfigError, DataError
from speechft.tasks import SUPERB, TASKS, LanguageModel, find_task, measure_of
from speechft.tasks.measures import Item, Measure, ratio


def corpus_with(labels: dict[str, dict[str, int]], info: dict[str, Any] | None = None) -> Corpus:
    statistics = {
        split: {"utterances": 10, "hours": 0.1, "speakers": 2, "labels": counts}
        for split, counts in labels.items()
    }
    corpus = Corpus(Path("nowhere"), "mine", "digest", statistics, info or {})
    for split, counts in labels.items():
        corpus._values.update({(split, kind): frozenset("ab") for kind in counts})
    return corpus


EVERYWHERE = ("train", "dev", "test")


def test_every_task_is_found_by_its_key() -> None:
    assert {*SUPERB, "pc", "style", "label"} == TASKS.keys()
    assert len(SUPERB) == 10
    for name, task in TASKS.items():
        assert find_task(name) is task
        assert task.name == name


def test_languages_are_identified_where_that_is_asked_for() -> None:
    task = find_task("lid")
    assert (task.name, task.label, "lid" in TASKS) == ("lid", "language", False)
    assert [m.name for m in task.measures] == ["accuracy", "uar", "macro_f1"]
    assert measure_of("lid", "uar").written == "UAR"


def test_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown task 'slid'; choices are: asr, asv,") as caught:
        find_task("slid")
    assert caught.value.hint == "did you mean 'sid'?"


@pytest.mark.parametrize("name", ["label:language", "label:First Language", "label:a.b/c:d"])
def test_any_column_is_a_task(name: str) -> None:
    task = find_task(name)
    assert task == find_task(name)
    assert (task.name, task.label) == (name, name.partition(":")[2])
    assert [m.name for m in task.measures] == ["accuracy", "uar", "macro_f1"]
    assert re.fullmatch(r"[A-Za-z0-9_-]+", task.folder)
    corpus = corpus_with({s: {task.label: 10} for s in EVERYWHERE})
    assert task.supported_by(corpus)


def test_columns_have_folders_of_their_own() -> None:
    names = ("label:a-b", "label:a b", "label:a:b", "label:a.b", "label:Ä", "label:Ö")
    assert len({find_task(name).folder for name in names}) == len(names)
    assert find_task("label:language").folder == "label-language"
    assert all(task.folder == name for name, task in TASKS.items())


def test_a_column_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="names no column") as caught:
        find_task("label:")
    assert "label:language" in (caught.value.hint or "")
    corpus = corpus_with({s: {"speaker": 10, "accent": 10} for s in EVERYWHERE})
    lacking = find_task("label:langage").lacks(corpus)
    assert lacking == (
        "every utterance needs label 'langage', in its split train 0 of 10 have it; its labels: "
        "speaker, accent"
    )


def test_what_a_task_cannot_do_is_declared() -> None:
    assert [n for n, task in TASKS.items() if not task.can_finetune] == ["qbe"]
    assert [n for n, task in TASKS.items() if not task.trained] == ["qbe"]
    assert [n for n, task in TASKS.items() if not task.predicts_files] == ["qbe"]
    assert [n for n, task in TASKS.items() if task.takes_language_model] == ["asr"]
    by_frame = {n for n, task in TASKS.items() if task.per_frame}
    assert by_frame == {"pr", "asr", "sf", "sd", "pc"}
    pooled = {n for n, task in TASKS.items() if task.level == "utterance"}
    assert pooled == {"ks", "sid", "er", "ic", "style", "label"}
    for name in ("qbe", "sid"):
        with pytest.raises(ConfigError, match=f"task {name} takes no language model"):
            find_task(name).with_language_model(LanguageModel(Path("any.arpa")))
    with pytest.raises(ConfigError, match="task qbe trains no head"):
        find_task("qbe").probe_head(4, Vocabulary(()), hidden=None)


def test_a_protocol_changes_what_is_ctc_only() -> None:
    assert {n for n, task in TASKS.items() if task.variant("s3prl") != task} == {"pr", "asr", "sf"}
    assert all(task.variant("default") is task for task in TASKS.values())


def test_all_utterances_of_all_splits_need_the_label() -> None:
    sid = find_task("sid")
    assert sid.supported_by(corpus_with({s: {"speaker": 10} for s in EVERYWHERE}))
    assert not sid.supported_by(corpus_with({s: {"text": 10} for s in EVERYWHERE}))
    some = {s: {"speaker": 10} for s in EVERYWHERE} | {"dev": {"speaker": 9}}
    assert not sid.supported_by(corpus_with(some))
    assert sid.supported_by(corpus_with(some), 0.1), "one in ten may be left out"
    none = some | {"dev": {"speaker": 0}}
    assert not sid.supported_by(corpus_with(none), 1.0)
    assert not sid.supported_by(corpus_with({s: {"speaker": 10} for s in ("train", "dev")}))


def test_tasks_may_have_their_own_splits() -> None:
    splits = {name: {"speaker": 10} for name in ("a", "b", "c")}
    named = {"task_splits": {"sid": ["a", "b", "c"]}}
    corpus = corpus_with(splits, named)
    assert find_task("sid").supported_by(corpus)


def test_every_class_has_to_occur_in_training() -> None:
    corpus = corpus_with({s: {"speaker": 10} for s in EVERYWHERE})
    corpus._values["test", "speaker"] = frozenset("abcd")
    speakers = ["a"] * 38 + ["c", "d"]
    corpus._cuts["test"] = Cuts.of(cut_of(f"{n}", speaker=s) for n, s in enumerate(speakers))
    sid = find_task("sid")
    new = "speaker 'c' of its split test does not occur in train, nor do 1 more"
    assert sid.lacks(corpus, 0.04) == sid.lacks(corpus, 0.0) == new
    assert sid.lacks(corpus, 0.05) == sid.lacks(corpus) == "", "few enough to be left out"
    corpus._cuts["test"] = corpus._cuts["test"][38:]
    assert sid.lacks(corpus, 1.0) == new, "nothing would be left of the split"
    assert find_task("asv").supported_by(corpus), "verification wants other speakers"


def test_tone_corpus_supports_what_its_labels_serve(tones: Corpus) -> None:
    supported = {name for name, task in TASKS.items() if task.supported_by(tones)}
    assert supported == TASKS.keys() - {"ks", "qbe", "sd", "er", "sf"}


def test_an_empty_split_does_not_support_a_task() -> None:
    corpus = corpus_with({s: {"speaker": 10} for s in EVERYWHERE})
    empty = {**corpus.statistics, "test": {"utterances": 0, "labels": {}}}
    assert not find_task("sid").supported_by(dataclasses.replace(corpus, statistics=empty))


def test_require_names_what_is_missing_and_what_there_is() -> None:
    corpus = corpus_with({s: {"speaker": 10, "phones": 4} for s in EVERYWHERE})
    find_task("sid").require(corpus, [])
    with pytest.raises(DataError) as caught:
        find_task("pr").require(corpus, ["sid", "style"])
    assert str(caught.value) == (
        "corpus mine cannot be used for task pr: every utterance needs label 'phones', in its "
        "split train 4 of 10 have it\nhint: tasks that this corpus supports: sid, style"
    )
    with pytest.raises(DataError, match="supports: none"):
        find_task("pr").require(corpus, [])
    with pytest.raises(DataError, match=r"no file of query pairs as info\.qbe"):
        find_task("qbe").require(corpus, [])


def test_figure_is_the_ratio_of_sums() -> None:
    figure = Measure("rate", True, ratio).value
    items = [Item("a", "", "", 1, 4), Item("b", "", "", 3, 4), Item("c", "", "", 1, 2)]
    assert figure(items) == pytest.approx(50.0)
    assert figure([*items, Item("d", "", "", 5, 10)]) == pytest.approx(50.0)
    assert figure([Item("a", "", "", 3, 1), Item("b", "", "", 0, 9)]) == pytest.approx(30.0)
    assert figure([]) != figure([])  # NaN
