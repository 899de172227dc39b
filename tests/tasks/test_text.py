"""Symbols and decoding against s3prl and the official Speech-FT; see oracle/superb."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helpers import ORACLE
from speechft.errors import DataError
from speechft.tasks import (
    CharacterText,
    LetterText,
    PhoneText,
    SlotText,
    TedliumText,
    greedy_decode,
    normalize_tedlium,
)
from speechft.tasks.text import SymbolText, tagged_text


def load(name: str) -> Any:
    return json.loads((ORACLE / "superb" / name).read_text())


SNIPS = load("11_snips/encode_decode.json")
OTHERS = load("11_snips/other_text_encoders.json")
GREEDY = load("02_ctc/greedy_decode/greedy.json")
TED = load("10_tedlium/normalise_tokenise.json")
SLOTS = SlotText(SNIPS["slots_txt"][1:])


def test_symbol_sets_are_those_of_s3prl() -> None:
    assert list(PhoneText().symbols) == GREEDY["pr"]["vocab"]
    assert list(SLOTS.symbols) == GREEDY["sf"]["vocab"]
    assert list(LetterText().symbols) == GREEDY["asr"]["vocab"]
    assert {s: n for n, s in enumerate(TedliumText().symbols)} == TED["vocab"]


@pytest.mark.parametrize(
    ("kind", "coder"), [("pr_word_phoneme", PhoneText()), ("character", CharacterText())]
)
def test_texts_are_encoded_as_in_s3prl(kind: str, coder: SymbolText) -> None:
    assert len(OTHERS[kind]) > 5
    for row in OTHERS[kind]:
        assert coder.encode(row["text"]) == row["ids"]
        assert coder.decode(row["ids"]) == row["decode"]


def test_letters_are_encoded_as_in_s3prl() -> None:
    coder = LetterText()
    for row in OTHERS["asr_fairseq_dictionary"]:
        # fairseq adds unseen symbols to its dictionary, which the head then lacks
        expected = [n if n < len(coder.symbols) else coder.unknown for n in row["ids"]]
        assert coder.encode(row["text"]) == expected
        if row["symbols_after"] == len(coder.symbols):
            assert " ".join(coder.tokens(row["ids"])) == row["string"]
            assert " ".join(coder.words(coder.tokens(row["ids"]))) == " ".join(row["words"].split())


@pytest.mark.parametrize("line", SNIPS["lines"], ids=range(len(SNIPS["lines"])))
def test_slots_are_encoded_as_in_s3prl(line: dict[str, Any]) -> None:
    expected = line["ctc_text_encode"]["value"]
    assert SLOTS.encode_line(line["line"], s3prl=True) == expected
    assert SLOTS.decode(expected) == line["ctc_text_decode"]
    path = [n for number in expected for n in (number, 0)]
    assert SLOTS.decode_path(path) == line["decode_after_greedy_filter"]


def test_slots_on_punctuation_keep_their_borders_and_the_end() -> None:
    lines = [line["line"] for line in SNIPS["lines"]]
    read = {line: SLOTS.decode(SLOTS.encode_line(line)) for line in lines}
    assert all(SLOTS.encode_line(line)[-1] == SLOTS.eos for line in lines)
    by_start = {line.split(" ")[1]: text for line, text in read.items()}
    assert by_start["WHAT"] == "WHAT 'S UP"
    assert by_start["ROCK"] == "B-playlist ROCK E-playlist ROLL"
    untouched = [x for x in SNIPS["lines"] if not set("?!.,;-") & set(x["line"].partition("\t")[0])]
    assert len(untouched) > 5
    for line in untouched:
        assert SLOTS.encode_line(line["line"]) == line["ctc_text_encode"]["value"]
    playing = next(line for line in lines if "SIA" in line)
    assert read[playing] == "PLAY B-artist SIA E-artist"


def test_b_and_i_prefixes_part_neighbouring_slots() -> None:
    words = "PLAY SIA ADELE LIVE".split()
    tags = "O B-artist B-artist I-artist".split()
    expected = "PLAY B-artist SIA E-artist B-artist ADELE LIVE E-artist"
    assert tagged_text(words, tags) == expected
    assert SLOTS.decode(SLOTS.encode_slots(words, tags)) == expected


def test_bad_slots_are_refused() -> None:
    with pytest.raises(DataError, match="2 words but 1 slot labels"):
        SLOTS.encode_slots(["PLAY", "SIA"], ["O"])
    with pytest.raises(DataError, match="slot type 'venue' does not occur") as caught:
        SLOTS.encode_slots(["PLAY"], ["venue"])
    assert "artist, playlist" in (caught.value.hint or "")


@pytest.mark.parametrize("row", SNIPS["decode"], ids=range(len(SNIPS["decode"])))
def test_random_numbers_are_decoded_as_in_s3prl(row: dict[str, Any]) -> None:
    assert SLOTS.decode(row["ids"]) == row["decode"]


@pytest.mark.parametrize("kind", ["pr", "sf"])
def test_greedy_decoding_is_that_of_s3prl(kind: str) -> None:
    coder = PhoneText() if kind == "pr" else SLOTS
    for row in GREEDY[kind]["rows"]:
        assert coder.decode_path(row["frame_path"]) == row["hypothesis"]


def test_greedy_decoding_of_letters_is_that_of_s3prl() -> None:
    coder = LetterText()
    for row in GREEDY["asr"]["rows"]:
        tokens = coder.tokens(greedy_decode(row["frame_path"], drop=(coder.eos,)))
        assert " ".join(tokens) == row["pred_tokens"]
        assert coder.words(tokens) == row["pred_words"]
        assert coder.decode_path(row["frame_path"]) == " ".join(row["pred_words"])


def test_tedlium_is_normalised_as_in_the_official_code() -> None:
    coder = TedliumText()
    for line in TED["lines"]:
        text = normalize_tedlium(line["text"], official=True)
        assert text == line["normalized_text"]
        assert coder.encode(text) == line["text_ids"]
    for row in TED["greedy_decode"]:
        # their tokeniser does not strip, ours does, as s3prl's scoring splits at any space
        assert coder.decode_path(row["ids"]) == row["batch_decode"].strip()


def test_tedlium_is_normalised_rightly_by_default() -> None:
    assert normalize_tedlium("tab\tseparated\nline") == "TAB SEPARATED LINE"
    assert normalize_tedlium("<unk> so we <unk> go") == "SO WE GO"
    same = [x for x in TED["lines"] if "<unk>" not in x["text"] and "\t" not in x["text"]]
    assert len(same) > 20
    for line in same:
        assert normalize_tedlium(line["text"]) == line["normalized_text"]
