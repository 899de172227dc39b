"""Targets and decoding of PR, ASR and SF against s3prl and the official Speech-FT; see oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lhotse.cut import Cut

from helpers import cut_of
from oracle_data import entries, oracle_json
from speechft.data.corpora.tedlium3 import normalise
from speechft.data.labels import UNKNOWN, Vocabulary
from speechft.errors import DataError
from speechft.tasks import WAV2VEC2_SYMBOLS, Task, find_task
from speechft.tasks.asr import CharacterLabels
from speechft.tasks.ctc import BLANK, END
from speechft.tasks.text import tagged_text

SNIPS = "superb/11_snips/encode_decode.json"
OTHERS = "superb/11_snips/other_text_encoders.json"
GREEDY = "superb/02_ctc/greedy_decode/greedy.json"
TED = "superb/10_tedlium/normalise_tokenise.json"
LINES = entries(SNIPS, "lines")
PR, ASR, SF = (find_task(name).variant("s3prl") for name in ("pr", "asr", "sf"))


def vocabulary_of(task: str) -> Vocabulary:
    """Return s3prl's symbols in its order, the first three called as we call them."""
    return Vocabulary((BLANK, END, UNKNOWN, *oracle_json(GREEDY)[task]["vocab"][3:]))


def tagged(line: str) -> Cut:
    """Return a cut with the words and slots of a line of Audio SNIPS."""
    text, _, labels = line.strip("\r\n ").partition("\t")
    words, slots = (" ".join(part.split(" ")[1:-1]) for part in (text, labels))
    return cut_of("line", text=words, labels={"slots": slots})


def decoded(task: Task, path: list[int], vocabulary: Vocabulary) -> str:
    """Return what a task says about frames whose most likely symbols are known."""
    logits = F.one_hot(torch.tensor(path), len(vocabulary)).float()[None]
    [prediction] = task.predict(logits, torch.tensor([len(path)]), vocabulary)
    return task.scorer.describe(prediction, vocabulary, None)


def test_marks_come_first_as_in_s3prl() -> None:
    cut = cut_of("a", phones=[("B", 0.0, 0.1), ("AA0", 0.1, 0.2)])
    assert PR.vocabulary([cut]).symbols == (BLANK, END, UNKNOWN, "AA0", "B")
    assert oracle_json(GREEDY)["pr"]["vocab"][:3] == ["<pad>", "<eos>", "<unk>"]
    assert {s: n for n, s in enumerate(WAV2VEC2_SYMBOLS)} == oracle_json(TED)["vocab"]


def test_phones_are_encoded_as_in_s3prl() -> None:
    """Silence, spoken noise and empty phones are no phones here."""
    vocabulary, compared = vocabulary_of("pr"), 0
    for row in oracle_json(OTHERS)["pr_word_phoneme"]:
        phones = row["text"].strip("\r\n ").split(" ")
        if not {"SIL", "SPN", ""} & set(phones):
            cut = cut_of("a", phones=[(phone, 0.0, 0.0) for phone in phones])
            assert PR.target(cut, vocabulary, 99).tolist() == row["ids"]
            assert PR.scorer.describe((row["ids"][:-1], 0.0), vocabulary, None) == row["decode"]
            compared += 1
    assert compared


def test_characters_are_encoded_as_in_s3prl() -> None:
    vocabulary, compared = vocabulary_of("sf"), 0
    for row in oracle_json(OTHERS)["character"]:
        words = row["text"].split()
        plain = row["text"].strip() == " ".join(words) and row["text"] == row["text"].upper()
        if plain and words and not set(row["text"]) & set("?!.,;-&"):
            cut = cut_of("a", text=row["text"], labels={"slots": " ".join("O" for _ in words)})
            assert SF.target(cut, vocabulary, 99).tolist() == row["ids"]
            assert SF.scorer.describe((row["ids"][:-1], 0.0), vocabulary, None) == row["decode"]
            compared += 1
    assert compared


def test_letters_are_encoded_as_in_s3prl() -> None:
    theirs, compared = oracle_json(GREEDY)["asr"]["vocab"], 0
    for row in oracle_json(OTHERS)["asr_fairseq_dictionary"]:
        words = row["text"].split()
        known = all(c.upper() in theirs for word in words for c in word)
        if known and words and row["text"] == " ".join(words):
            labels = CharacterLabels("asr", "text", closing=("|", "</s>"))
            target = labels.target(cut_of("a", text=row["text"]), Vocabulary(tuple(theirs)), 99)
            assert target.tolist() == row["ids"]
            assert labels.units(row["string"].split()) == row["words"].split()
            compared += 1
    assert compared


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_slots_are_encoded_as_in_s3prl(line: dict[str, Any]) -> None:
    vocabulary, expected = vocabulary_of("sf"), line["ctc_text_encode"]["value"]
    cut, words = tagged(line["line"]), line["line"].partition("\t")[0]
    if not set("?!.,;-") & set(words):
        assert SF.target(cut, vocabulary, 999).tolist() == expected
        told = SF.scorer.describe((expected[:-1], 0.0), vocabulary, None)
        assert told == line["ctc_text_decode"]
        [item] = SF.items([cut], [(expected[:-1], 0.0)], [torch.tensor(expected)], vocabulary)
        assert UNKNOWN in told or item.reference == told  # ours keeps what training lacks
    path = [n for number in expected for n in (number, 0)]
    assert decoded(SF, path, vocabulary) == line["decode_after_greedy_filter"]


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("BOS WHAT 'S UP ? EOS\tO O O O O X", "WHAT 'S UP"),
        ("BOS ROCK - ROLL EOS\tO playlist playlist O X", "B-playlist ROCK E-playlist ROLL"),
        ("BOS PLAY SIA ! EOS\tO O artist artist X", "PLAY B-artist SIA E-artist"),
    ],
)
def test_slots_on_punctuation_keep_their_borders_and_the_end(line: str, read: str) -> None:
    cut = tagged(line)
    vocabulary = SF.labels.with_marks(SF.labels.symbols(cut))  # type: ignore[attr-defined]
    numbers = SF.target(cut, vocabulary, 999).tolist()
    assert numbers[-1] == vocabulary.symbols.index(END)
    assert SF.scorer.describe((numbers[:-1], 0.0), vocabulary, None) == read


def test_b_and_i_prefixes_part_neighbouring_slots() -> None:
    words, tags = "PLAY SIA ADELE LIVE".split(), "O B-artist B-artist I-artist".split()
    expected = "PLAY B-artist SIA E-artist B-artist ADELE LIVE E-artist"
    assert tagged_text(words, tags) == expected
    cut = cut_of("a", text=" ".join(words), labels={"slots": " ".join(tags)})
    vocabulary = SF.vocabulary([cut])
    numbers = SF.target(cut, vocabulary, 99).tolist()
    assert SF.scorer.describe((numbers[:-1], 0.0), vocabulary, None) == expected


def test_bad_slots_are_refused() -> None:
    short = cut_of("a", text="PLAY SIA", labels={"slots": "O"})
    with pytest.raises(DataError, match="2 words but 1 slot labels"):
        SF.vocabulary([short])
    with pytest.raises(DataError, match="slot label 'B-' has no type"):
        SF.vocabulary([cut_of("a", text="SIA", labels={"slots": "B-"})])
    with pytest.raises(DataError, match="holds no slot"):
        SF.vocabulary([cut_of("a", text="SIA", labels={"slots": "O"})])
    assert SF.problem(short, None, 99) == "slots that do not match the words"


def test_numbers_are_decoded_as_in_s3prl() -> None:
    """Up to the end, which ours never sees: it is left out before."""
    vocabulary, end = vocabulary_of("sf"), 1
    for row in oracle_json(SNIPS)["decode"]:
        ids = row["ids"][: row["ids"].index(end)] if end in row["ids"] else row["ids"]
        told = SF.scorer.describe(([number for number in ids if number], 0.0), vocabulary, None)
        assert told == row["decode"]


@pytest.mark.parametrize("name", ["pr", "sf"])
def test_greedy_decoding_is_that_of_s3prl(name: str) -> None:
    task, vocabulary = {"pr": PR, "sf": SF}[name], vocabulary_of(name)
    for row in oracle_json(GREEDY)[name]["rows"]:
        assert decoded(task, row["frame_path"], vocabulary) == row["hypothesis"]


def test_tedlium_is_normalised_and_read_as_in_the_official_code() -> None:
    task, vocabulary = find_task("asr"), Vocabulary(WAV2VEC2_SYMBOLS)
    for line in oracle_json(TED)["lines"]:
        text = normalise(line["text"], "official")
        assert text == line["normalized_text"]
        if text:
            assert task.target(cut_of("a", text=text), vocabulary, 99).tolist() == line["text_ids"]
    for row in oracle_json(TED)["greedy_decode"]:
        # their tokeniser does not strip, ours does, as s3prl's scoring splits at any space
        assert decoded(task, row["ids"], vocabulary) == " ".join(row["batch_decode"].split())
