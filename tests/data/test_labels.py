"""Labels: symbols to numbers and back, with errors that name what was not seen in training."""

from __future__ import annotations

import pytest

from speechft.data.labels import UNKNOWN, Vocabulary, label_of, phones_of
from speechft.data.utterances import Utterance, to_cut
from speechft.errors import DataError


def test_symbols_are_sorted_after_the_first_ones() -> None:
    vocabulary = Vocabulary.from_symbols(["b", "a", "<blank>", "b"], first=["<blank>", UNKNOWN])
    assert vocabulary.symbols == ("<blank>", UNKNOWN, "a", "b")
    assert len(vocabulary) == 4
    assert Vocabulary.from_symbols({"b", "a"}) == Vocabulary.from_symbols(["a", "b", "a"])


def test_encode_and_decode_are_inverse() -> None:
    vocabulary = Vocabulary.from_symbols("edcba")
    assert vocabulary.encode("abcba", "cut") == [0, 1, 2, 1, 0]
    assert vocabulary.decode([0, 1, 2, 1, 0]) == list("abcba")
    assert vocabulary.encode([], "cut") == []


def test_symbols_are_numbered_once() -> None:
    vocabulary = Vocabulary.from_symbols("ab")
    vocabulary.encode("ab", "first")
    index = vocabulary._index
    vocabulary.encode("ba", "second")
    assert vocabulary._index is index
    assert vocabulary == Vocabulary(("a", "b"))


def test_unseen_label_names_cut_and_label() -> None:
    with pytest.raises(DataError, match=r"test-003: label 'x' does not occur in the training"):
        Vocabulary.from_symbols("ab").encode("ax", "test-003")


def test_unseen_symbol_becomes_unknown_where_there_is_one() -> None:
    vocabulary = Vocabulary.from_symbols("ab", first=[UNKNOWN])
    assert vocabulary.encode("xaby", "cut") == [0, 1, 2, 0]
    assert vocabulary.decode([0]) == [UNKNOWN]


def test_labels_and_phones_of_a_cut() -> None:
    cut = to_cut(
        Utterance(
            id="u",
            path="u.wav",
            samples=16_000,
            text="hi",
            speaker="anna",
            phones=[("HH", 0.0, 0.25), ("AY", 0.25, 0.75)],
            labels={"style": "calm", "empty": ""},
        )
    )
    assert label_of(cut, "text") == "hi"
    assert label_of(cut, "speaker") == "anna"
    assert label_of(cut, "style") == "calm"
    assert label_of(cut, "empty") is None
    assert label_of(cut, "mood") is None
    assert phones_of(cut) == [("HH", 0.0, 0.25), ("AY", 0.25, 0.75)]


def test_a_cut_without_labels() -> None:
    cut = to_cut(Utterance(id="u", path="u.wav", samples=16_000))
    assert [label_of(cut, kind) for kind in ("text", "speaker", "style")] == [None] * 3
    assert phones_of(cut) == []
