"""Text: letters keep their marks, names are equal after composition, English stays as it was."""

from __future__ import annotations

import string
import unicodedata
from decimal import Decimal
from typing import Any

import pytest

from speechft.data.text import composed, folded, units_of, words, written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, you -- 42!", ["HELLO", "YOU", "42"]),
        ("'tis the dogs' o'clock", ["'TIS", "THE", "DOGS'", "O'CLOCK"]),
        ("हिन्दी में बात", ["हिन्दी", "में", "बात"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("e\u0301te\u0301", ["ÉTÉ"]),
        ("مَرْحَبًا بك", ["مَرْحَبًا", "بك"]),
        ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
        ("don\u2019t l\u02bceau", ["DON'T", "L'EAU"]),
        ("\u2018quoted\u2019 words\u2019", ["QUOTED", "WORDS"]),
        ("zwi\u00adschen \u200eleft", ["ZWISCHEN", "LEFT"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("love ❤\ufe0f it", ["LOVE", "IT"]),
        ("...", []),
        ("—«»„“", []),
        ("x²", ["X²"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    wanted = [unicodedata.normalize("NFC", word) for word in expected]
    assert words(text) == wanted
    assert words(unicodedata.normalize("NFD", text)) == wanted, "however it was typed"


def test_printable_ascii_is_as_it_always_was() -> None:
    for text in (string.printable, *(f"a{c}b'{c}" for c in string.printable)):
        kept = "".join(c if c.isalnum() or c == "'" else " " for c in text.upper())
        assert words(text) == kept.split()
        assert words(text + "\u00a0")[: len(kept.split())] == kept.split(), "also beside others"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("HELLO", ["HELLO"]),
        ("हिन्दी", ["हिन्दी"]),
        ("한국어", ["한국어"]),
        ("你好世界", ["你", "好", "世", "界"]),
        ("我用IPHONE打", ["我", "用", "IPHONE", "打"]),
        ("スーパー", ["スー", "パー"]),
        ("ที่นี่", ["ที่", "นี่"[0:3]]),
    ],
)
def test_units_of_an_error_rate(word: str, expected: list[str]) -> None:
    found = units_of(word)
    assert "".join(found) == word
    assert found == expected


def test_equal_names_are_equal() -> None:
    assert composed("Jose\u0301") == "José"
    assert composed("plain") == "plain"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        (float("nan"), ""),
        (Decimal("NaN"), ""),
        ("nan", "nan"),
        (1.0, "1"),
        (Decimal("7.00"), "7"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (2.0**60, "1.152921504606847e+18"),
        (float("inf"), "inf"),
        (True, "True"),
        (12, "12"),
        (["AH", None, float("nan"), 2.0], "AH 2"),
    ],
)
def test_typed_values_as_text(value: Any, expected: str) -> None:
    assert written(value) == expected


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("1", "1.0", True),
        ("007", "7.00", True),
        ("0", "0.0", True),
        ("Anna  B", "anna b", True),
        ("1.5", "1", False),
        ("10", "1", False),
        ("a1", "a1.0", False),
        ("\u0663", "3", False),
    ],
)
def test_names_that_are_probably_one(one: str, other: str, alike: bool) -> None:
    assert (folded(one) == folded(other)) is alike
