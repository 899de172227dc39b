"""Symbols and decoding against s3prl and the official Speech-FT; see oracle/superb."""

from __future__ import annotations

from typing import Any

import pytest

from oracle_data import entries, oracle_json
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

SNIPS = "superb/11_snips/encode_decode.json"
OTHERS = "superb/11_snips/other_text_encoders.json"
GREEDY = "superb/02_ctc/greedy_decode/greedy.json"
TED = "superb/10_tedlium/normalise_tokenise.json"
LINES, DECODED = entries(SNIPS, "lines"), entries(SNIPS, "decode")
SLOTS = SlotText(["artist", "playlist"])
"""Of the tests without an oracle."""


def oracle_slots() -> SlotText:
    return SlotText(oracle_json(SNIPS)["slots_txt"][1:])


def test_symbol_sets_are_those_of_s3prl() -> None:
    recorded = oracle_json(GREEDY)
    assert list(PhoneText().symbols) == recorded["pr"]["vocab"]
    assert list(oracle_slots().symbols) == recorded["sf"]["vocab"]
    assert list(LetterText().symbols) == recorded["asr"]["vocab"]
    assert {s: n for n, s in enumerate(TedliumText().symbols)} == oracle_json(TED)["vocab"]


@pytest.mark.parametrize(
    ("kind", "coder"), [("pr_word_phoneme", PhoneText()), ("character", CharacterText())]
)
def test_texts_are_encoded_as_in_s3prl(kind: str, coder: SymbolText) -> None:
    recorded = oracle_json(OTHERS)[kind]
    assert recorded
    for row in recorded:
        assert coder.encode(row["text"]) == row["ids"]
        assert coder.decode(row["ids"]) == row["decode"]


def test_letters_are_encoded_as_in_s3prl() -> None:
    coder = LetterText()
    for row in oracle_json(OTHERS)["asr_fairseq_dictionary"]:
        # fairseq adds unseen symbols to its dictionary, which the head then lacks
        expected = [n if n < len(coder.symbols) else coder.unknown for n in row["ids"]]
        assert coder.encode(row["text"]) == expected
        if row["symbols_after"] == len(coder.symbols):
            assert " ".join(coder.tokens(row["ids"])) == row["string"]
            assert " ".join(coder.words(coder.tokens(row["ids"]))) == " ".join(row["words"].split())


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_slots_are_encoded_as_in_s3prl(line: dict[str, Any]) -> None:
    slots = oracle_slots()
    expected = line["ctc_text_encode"]["value"]
    assert slots.encode_line(line["line"], s3prl=True) == expected
    assert slots.decode(expected) == line["ctc_text_decode"]
    path = [n for number in expected for n in (number, 0)]
    assert slots.decode_path(path) == line["decode_after_greedy_filter"]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_lines_are_encoded_with_their_end_and_differ_at_punctuation_only(
    line: dict[str, Any],
) -> None:
    slots = oracle_slots()
    found = slots.encode_line(line["line"])
    assert found[-1] == slots.eos
    if not set("?!.,;-") & set(line["line"].partition("\t")[0]):
        assert found == line["ctc_text_encode"]["value"]


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("BOS WHAT 'S UP ? EOS\tO O O O O X", "WHAT 'S UP"),
        ("BOS ROCK - ROLL EOS\tO playlist playlist O X", "B-playlist ROCK E-playlist ROLL"),
        ("BOS PLAY SIA ! EOS\tO O artist artist X", "PLAY B-artist SIA E-artist"),
    ],
)
def test_slots_on_punctuation_keep_their_borders_and_the_end(line: str, read: str) -> None:
    assert SLOTS.encode_line(line)[-1] == SLOTS.eos
    assert SLOTS.decode(SLOTS.encode_line(line)) == read


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


@pytest.mark.parametrize("row", DECODED, ids=range(len(DECODED)))
def test_random_numbers_are_decoded_as_in_s3prl(row: dict[str, Any]) -> None:
    assert oracle_slots().decode(row["ids"]) == row["decode"]


@pytest.mark.parametrize("kind", ["pr", "sf"])
def test_greedy_decoding_is_that_of_s3prl(kind: str) -> None:
    coder = PhoneText() if kind == "pr" else oracle_slots()
    for row in oracle_json(GREEDY)[kind]["rows"]:
        assert coder.decode_path(row["frame_path"]) == row["hypothesis"]


def test_greedy_decoding_of_letters_is_that_of_s3prl() -> None:
    coder = LetterText()
    for row in oracle_json(GREEDY)["asr"]["rows"]:
        tokens = coder.tokens(greedy_decode(row["frame_path"], drop=(coder.eos,)))
        assert " ".join(tokens) == row["pred_tokens"]
        assert coder.words(tokens) == row["pred_words"]
        assert coder.decode_path(row["frame_path"]) == " ".join(row["pred_words"])


def test_tedlium_is_normalised_as_in_the_official_code() -> None:
    coder = TedliumText()
    for line in oracle_json(TED)["lines"]:
        text = normalize_tedlium(line["text"], official=True)
        assert text == line["normalized_text"]
        assert coder.encode(text) == line["text_ids"]
    for row in oracle_json(TED)["greedy_decode"]:
        # their tokeniser does not strip, ours does, as s3prl's scoring splits at any space
        assert coder.decode_path(row["ids"]) == row["batch_decode"].strip()


def test_tedlium_is_normalised_rightly_by_default() -> None:
    assert normalize_tedlium("tab\tseparated\nline") == "TAB SEPARATED LINE"
    assert normalize_tedlium("<unk> so we <unk> go") == "SO WE GO"


def test_tedlium_differs_at_tabs_and_unknown_words_only() -> None:
    lines = oracle_json(TED)["lines"]
    same = [x for x in lines if "<unk>" not in x["text"] and "\t" not in x["text"]]
    assert same
    for line in same:
        assert normalize_tedlium(line["text"]) == line["normalized_text"]
