"""Texts: sets share no template and no content word outside the command vocabulary."""

from __future__ import annotations

import itertools
import re
from typing import get_args

import numpy as np
import pytest

from speechft.data.corpora.synthetic import DEMO, texts
from speechft.data.corpora.synthetic.texts import (
    ACTIONS,
    LOCATIONS,
    OBJECTS,
    TextSet,
    lexicon,
    make_text,
    pseudo_word,
    word_set,
)

SETS: tuple[TextSet, ...] = get_args(TextSet)
CONTENT = (texts._NAMES, texts._NOUNS, texts._VERBS, texts._ADJECTIVES)
COMMAND = {word for ways in ACTIONS.values() for way in ways for word in way.split()}
COMMAND |= {*OBJECTS, *LOCATIONS}
KINDS = {"tune": "sentence", "train": "command", "test": "command"}


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def content_of(name: TextSet) -> set[str]:
    return {word.lower() for words in CONTENT for word in word_set(words, name)}


def drawn(name: TextSet, count: int = 300) -> list[texts.Text]:
    rng = np.random.default_rng(0)
    return [make_text(KINDS.get(name, "words"), name, rng) for _ in range(count)]


@pytest.mark.parametrize(("one", "two"), list(itertools.combinations(SETS, 2)))
def test_content_words_are_disjoint(one: TextSet, two: TextSet) -> None:
    assert not content_of(one) & content_of(two)


@pytest.mark.parametrize("name", SETS)
def test_no_content_word_is_a_command_word(name: TextSet) -> None:
    assert not content_of(name) & COMMAND


def test_every_word_belongs_to_one_set() -> None:
    for words in CONTENT:
        parts = [word for name in SETS for word in word_set(words, name)]
        assert sorted(parts) == sorted(words)
        assert len(set(words)) == len(words)


def test_templates_are_disjoint() -> None:
    templates = [
        template
        for group in (texts._COMMANDS, texts._SENTENCES)
        for choices in group.values()
        for template in choices
    ]
    assert len(set(templates)) == len(templates)
    skeletons = {re.sub(r"\{\w+\}", "_", template) for template in templates}
    assert len(skeletons) == len(templates), "not even by exchanging the slots"


@pytest.mark.parametrize("name", ["tune", "train", "test"])
def test_drawn_texts_keep_to_their_set(name: TextSet) -> None:
    found = set().union(*(words_of(text.words) for text in drawn(name)))
    for other in SETS:
        if other != name:
            assert not found & content_of(other), other
    assert len(found & content_of(name)) > 25, "and use it"
    if name == "tune":
        assert not found & COMMAND


def test_the_lexicon_of_pretraining_keeps_to_its_set_and_is_zipfian() -> None:
    words, cumulative = lexicon("pretrain")
    assert {word.lower() for word in words} >= content_of("pretrain")
    others = set().union(*(content_of(name) for name in SETS if name != "pretrain")) | COMMAND
    assert not {word.lower() for word in words} & others - {w.lower() for w in texts._LINKS}
    frequencies = np.diff(cumulative, prepend=0.0)
    assert len(words) == 4_000
    assert cumulative[-1] == pytest.approx(1.0)
    assert frequencies[0] / frequencies[99] == pytest.approx(102.7 / 3.7)
    common = [len(word) for word in words[:400]]
    assert np.mean(common) + 3 < np.mean([len(word) for word in words[-400:]])


@pytest.mark.parametrize("name", ["train", "test"])
def test_commands_say_their_intent(name: TextSet) -> None:
    intents = set()
    for text in drawn(name):
        assert text.intent is not None
        action, thing, location = text.intent
        spoken = text.words.lower()
        assert any(way in spoken for way in ACTIONS[action])
        assert thing in spoken
        assert location in spoken
        assert "{" not in spoken
        assert text.words[0].isupper()
        intents.add(text.intent)
    assert {intent[0] for intent in intents} == set(ACTIONS)
    assert {intent[1] for intent in intents} == set(OBJECTS)
    assert {intent[2] for intent in intents} == set(LOCATIONS)


def test_free_texts_have_no_intent() -> None:
    assert all(text.intent is None for name in ("tune", "pretrain") for text in drawn(name, 20))


@pytest.mark.parametrize("kind", ["command", "sentence", "words", "pseudo"])
def test_texts_are_determined_by_the_seed(kind: str) -> None:
    name: TextSet = {"command": "train", "sentence": "tune"}.get(kind, "pretrain")  # type: ignore[assignment]
    first, again, other = (
        [make_text(kind, name, np.random.default_rng(seed)) for seed in range(start, start + 20)]
        for start in (0, 0, 100)
    )
    assert first == again
    assert first != other


def test_pseudo_words_are_never_real_words() -> None:
    rng = np.random.default_rng(0)
    real = set().union(*(content_of(name) for name in SETS)) | COMMAND
    words = [pseudo_word(rng) for _ in range(20_000)]
    assert not real & set(words)
    assert len(set(words)) > 4_000
    assert all(re.fullmatch(r"[a-z]{2,30}", word) for word in words)


def test_the_demo_tunes_probes_and_tests_on_different_sets() -> None:
    sets = {partition.name: partition.text_set for partition in DEMO.partitions}
    assert sets["tune-train"] == "tune"
    assert sets["train"] == "train"
    assert {sets[name] for name in ("test", "test-unseen", "dev", "dev-unseen")} == {"test"}
