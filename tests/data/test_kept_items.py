"""Drafts, utterances and rows that do not stay in memory are equal to those that do."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechft.data.corpora.base import Draft, kept_drafts
from speechft.data.kept_items import kept_rows
from speechft.data.utterances import Utterance, kept_utterances

PHONES = [("A", 0.0, 0.1), ("E", 0.1, 1 / 3)]


def test_items_come_back_equal() -> None:
    utterances = [
        Utterance("a", "a.wav", 5),
        Utterance("b", "/b", 7, 44_100, 2, "é", "s", PHONES, PHONES[:1], {"x": "y"}, "0f", 3, 9, 1),
    ]
    assert kept_utterances(utterances) == utterances
    drafts = [Draft("a", Path("x/é.wav"))]
    drafts += [Draft("b", Path("/b"), "t", "s", PHONES, [], {"k": "v"}, 0.1, 1 / 3, 1)]
    kept = kept_drafts()
    for draft in drafts:
        kept.append(draft)
    assert kept == drafts
    assert kept != drafts[:1]
    assert (kept[-1], kept[0:1]) == (drafts[1], drafts[:1])
    with pytest.raises(IndexError):
        kept[2]
    rows = kept_rows()
    rows.append({"path": "a", "text": ""})
    assert list(rows) == [{"path": "a", "text": ""}]
