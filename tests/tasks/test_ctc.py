"""Phone and character recognition: symbols, targets, greedy decoding, scoring."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lhotse.cut import Cut

from helpers import cut_of
from oracle_data import entries, oracle_json
from speechft.data.labels import UNKNOWN, Vocabulary
from speechft.errors import DataError
from speechft.tasks.asr import ASR, CHARACTERS
from speechft.tasks.ctc import BLANK
from speechft.tasks.pr import PHONES, PR

GREEDY = "superb/02_ctc/greedy_decode/greedy.json"
ROWS = {kind: entries(GREEDY, kind, "rows") for kind in ("pr", "asr")}


def phones(*names: str) -> list[tuple[str, float, float]]:
    return [(name, 0.1 * n, 0.1 * n + 0.1) for n, name in enumerate(names)]


def spoken(*names: str) -> Cut:
    return cut_of("spoken", phones=phones(*names))


@pytest.mark.parametrize("row", ROWS["pr"], ids=range(len(ROWS["pr"])))
def test_greedy_decoding_of_phones_is_that_of_s3prl(row: dict[str, Any]) -> None:
    recorded = oracle_json(GREEDY)["pr"]
    symbols = recorded["vocab"]
    path = torch.tensor(row["frame_path"])
    junk = torch.tensor([len(symbols) - 1, recorded["blank"], len(symbols) - 2])  # past the length
    logits = F.one_hot(torch.cat([path, junk]), len(symbols)).float()[None]
    task = PR
    [(numbers, blanks)] = task.predict(logits, torch.tensor([len(path)]), Vocabulary(symbols))
    kept = [symbols[n] for n in numbers if n != recorded["eos"]]  # we have no eos
    assert " ".join(kept) == row["hypothesis"]
    assert blanks == pytest.approx(row["frame_path"].count(recorded["blank"]) / len(path))


@pytest.mark.parametrize("row", ROWS["asr"], ids=range(len(ROWS["asr"])))
def test_greedy_decoding_of_words_is_that_of_s3prl(row: dict[str, Any]) -> None:
    recorded = oracle_json(GREEDY)["asr"]
    symbols = recorded["vocab"]
    logits = F.one_hot(torch.tensor(row["frame_path"]), len(symbols)).float()[None]
    length = torch.tensor([len(row["frame_path"])])
    [(numbers, _)] = ASR.predict(logits, length, Vocabulary(symbols))
    kept = [symbols[n] for n in numbers if n != recorded["eos"]]
    assert CHARACTERS.units(kept) == row["pred_words"]


def test_rows_of_a_batch_are_decoded_up_to_their_lengths() -> None:
    paths = torch.tensor([[1, 1, 0, 1], [2, 2, 2, 3], [0, 0, 3, 3]])
    logits = F.one_hot(paths, 4).float()
    decoded = PR.predict(logits, torch.tensor([4, 3, 2]), Vocabulary(()))
    assert decoded == [([1, 1], 0.25), ([2], 0.0), ([], 1.0)]


def test_silences_are_left_out_and_the_blank_comes_first() -> None:
    task = PR
    cuts = [spoken("SIL", "B", "A", "sp"), spoken("A", "C", "SIL")]
    assert PHONES.symbols(cuts[0]) == ["B", "A"]
    vocabulary = task.vocabulary(cuts)
    assert vocabulary.symbols == (BLANK, UNKNOWN, "A", "B", "C")
    assert task.target(cuts[1], vocabulary, 50).tolist() == [2, 4]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop!", ["DON'T", "STOP"]),
        ("  one -- two\tthree\n", ["ONE", "TWO", "THREE"]),
        ("Grüße, señor", ["GRÜSSE", "SEÑOR"]),
        ("well-known", ["WELL", "KNOWN"]),
        ("route 66.", ["ROUTE", "66"]),
    ],
)
def test_text_becomes_words(text: str, words: list[str]) -> None:
    labels = CHARACTERS
    symbols = labels.symbols(cut_of("a", text=text))
    assert "".join(symbols) == "|".join(words)
    assert labels.units(symbols) == words


@pytest.mark.parametrize(
    ("names", "frames", "usable"),
    [
        ("A B C", 3, True),
        ("A B C", 2, False),
        ("A A B", 3, False),
        ("A A B", 4, True),
        ("A A A", 4, False),
        ("A A A", 5, True),
        ("A SIL A", 2, False),
        ("A SIL A", 3, True),
        ("SIL", 9, False),
    ],
)
def test_usable_is_what_ctc_can_align(names: str, frames: int, usable: bool) -> None:
    task, cut = PR, spoken(*names.split())
    assert (task.problem(cut, None, frames, training=True) is None) is usable
    symbols = PHONES.symbols(cut)
    if symbols:
        vocabulary = task.vocabulary([cut])
        target = task.target(cut, vocabulary, frames)
        loss = F.ctc_loss(
            torch.zeros(frames, 1, len(vocabulary)).log_softmax(-1),
            target[None],
            torch.tensor([frames]),
            torch.tensor([len(target)]),
            reduction="sum",
        )
        assert bool(loss.isfinite()) is usable


def test_missing_labels_are_named() -> None:
    task = PR
    with pytest.raises(DataError, match="task pr: the training split holds no phones"):
        task.vocabulary([cut_of("silent")])
    vocabulary = task.vocabulary([spoken("A")])
    with pytest.raises(DataError, match="cut silent has no phones, which task pr needs"):
        task.target(cut_of("silent"), vocabulary, 10)


def test_edits_are_counted_against_the_reference() -> None:
    task = PR
    cut = spoken("A", "B", "C", "B")
    vocabulary = task.vocabulary([cut])
    numbers = vocabulary.encode(["A", "C", "C", "B", "A"], "here")
    target = task.target(cut, vocabulary, 50)
    [item] = task.items([cut], [(numbers, 0.25)], [target], vocabulary)
    assert (item.prediction, item.reference) == ("A C C B A", "A B C B")
    assert (item.amount, item.total) == (2, 4)
    assert item.counts == {
        "substitutions": 1,
        "insertions": 1,
        "deletions": 0,
        "blank_ratio": 0.25,
    }


def test_what_training_did_not_hold_always_counts_as_wrong() -> None:
    task = PR
    vocabulary = task.vocabulary([spoken("A", "B")])
    cut = spoken("A", "X")
    target = task.target(cut, vocabulary, 50)
    guess = vocabulary.encode(["A", UNKNOWN], "here")
    [item] = task.items([cut], [(guess, 0.0)], [target], vocabulary)
    assert item.reference == "A X"
    assert (item.amount, item.total) == (1, 2)


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("go on", ["GO", "ON"]),
        ("今天天气好", list("今天天气好")),
        ("打开 wifi 吧", ["打", "开", "WIFI", "吧"]),
        ("ありがとう", list("ありがとう")),
        ("안녕 세상", ["안녕", "세상"]),
        ("ไป", list("ไป")),
    ],
)
def test_error_rates_count_characters_where_a_script_has_no_spaces(
    text: str, units: list[str]
) -> None:
    """A Mandarin sentence as one word would be right or wrong as a whole."""
    cut = cut_of("spoken", text=text)
    vocabulary = ASR.vocabulary([cut])
    assert CHARACTERS.units(CHARACTERS.symbols(cut)) == units
    wrong = [symbol for symbol in CHARACTERS.symbols(cut) if symbol != units[-1][-1]]
    numbers = vocabulary.encode(wrong, "spoken")
    target = torch.tensor(vocabulary.encode(CHARACTERS.symbols(cut), "spoken"))
    item = ASR.items([cut], [(numbers, 0.0)], [target], vocabulary)[0]
    assert (item.amount, item.total) == (1.0, len(units))
    assert (
        ASR.scorer.describe((numbers, 0.0), vocabulary, None)
        == "".join(wrong).replace("|", " ").strip()
    )
