"""What a corpus lost when it was prepared is told by split, and too much of it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from speechft.data.issues import Issue
from speechft.data.losses import (
    check_losses,
    is_loss,
    losses_of,
    lost_beside,
    tell_losses,
    without_split,
)
from speechft.data.manifest import Corpus
from speechft.errors import DataError

LOST = {"train": {"too-short": 1}, "dev": {"cut-off": 2, "silence": 1}, "*": {"bad-label": 4}}


def corpus(lost: dict[str, dict[str, int]] | None = None, **info: Any) -> Corpus:
    statistics = {split: {"utterances": n} for split, n in (("train", 19), ("dev", 7), ("all", 74))}
    info |= {} if lost is None else {"lost": lost}
    return Corpus(Path("/corpora/mine"), "mine", "0", statistics, info)


def test_what_no_table_speaks_of_and_copies_are_no_loss() -> None:
    kinds = ("no-label", "listed-twice", "clipping", "too-short", "missing-audio")
    assert [kind for kind in kinds if is_loss(Issue(kind, ""))] == ["too-short"]
    assert is_loss(Issue("missing-audio", "", outcome="left out"))


def test_losses_of_splits_hold_those_of_no_known_split() -> None:
    assert losses_of(corpus(LOST), ["dev"]) == {"cut-off": 2, "silence": 1, "bad-label": 4}
    assert losses_of(corpus(LOST), ["all", "train", "train"]) == {"too-short": 1, "bad-label": 4}
    assert losses_of(corpus(), ["dev"]) == {}
    assert lost_beside(corpus(LOST), "dev", 14) == 6


def test_they_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    tell_losses(corpus())
    tell_losses(corpus({"dev": {"cut-off": 2}, "*": {"bad-label": 4}}))
    assert capsys.readouterr().err == (
        "warning: corpus mine lacks 6 of 106 recordings, which were left out when it was prepared "
        "(2 cut-off, 4 bad-label); issues.tsv of its preparation has them\n"
    )


def test_too_many_of_a_split_are_refused_with_the_setting_that_allows_them() -> None:
    check_losses(corpus(LOST), ["train", "all"], 0.05, "max_left_out")
    check_losses(corpus(LOST), ["dev"], 0.3, "max_left_out")
    with pytest.raises(DataError, match=r"lacks 3 of 10 recordings of split dev, .*2 cut-off, 1 s"):
        check_losses(corpus(LOST), ["train", "dev"], 0.29, "max_left_out")
    with pytest.raises(DataError, match=r"5 % may be\n.*issues\.tsv .* raise max_left_out \(1 "):
        check_losses(corpus({"gone": {"silence": 1}}), ["gone"], 0.05, "max_left_out")


def test_what_no_split_is_known_of_is_held_against_all() -> None:
    check_losses(corpus({"*": {"bad-label": 5}}), ["dev"], 0.05, "max_left_out")
    with pytest.raises(DataError, match=r"lacks 6 of 106 recordings, which were .*6 bad-label"):
        check_losses(corpus({"*": {"bad-label": 6}}), ["dev"], 0.05, "max_left_out")


def test_what_the_user_allowed_is_counted_and_not_refused() -> None:
    gone = corpus({"dev": {"missing-audio": 50}}, lost_by_choice=["missing-audio"])
    check_losses(gone, ["dev"], 0.0, "max_left_out")
    assert losses_of(gone, ["dev"]) == {"missing-audio": 50}
    mixed = corpus({"dev": {"missing-audio": 5, "silence": 1}}, lost_by_choice=["missing-audio"])
    with pytest.raises(DataError, match="lacks 1 of 13 recordings of split dev"):
        check_losses(mixed, ["dev"], 0.05, "max_left_out")


def test_a_split_that_is_not_there_says_why() -> None:
    assert "its split test is empty: it lacks 3 of 3 recordings" in without_split(
        corpus({"test": {"silence": 3}}), "test"
    )
    assert without_split(corpus(), "test") == (
        "its split test is missing or empty; its splits: train, dev, all"
    )
    assert without_split(corpus(), "trian").endswith("(is 'train' meant?)")
