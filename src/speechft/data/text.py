"""One rule for text: what is a letter, what separates words, and when two names are the same.

Unicode is composed (NFC). A word is letters and digits with their combining marks, and apostrophes;
typographic apostrophes count between letters. Invisible characters (joiners, soft hyphens, marks of
direction) are dropped; everything else separates words. ASCII text comes out as it always did:
upper case, with ``A-Z``, digits and ``'``.
"""

from __future__ import annotations

import math
import re
import unicodedata
from decimal import Decimal
from typing import Any

_APOSTROPHES = "\u2019\u2018\u02bc\u2032\uff07\u055a"
_SPACELESS = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Kana and iteration marks
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
"""Scripts that put no space between words."""
_ALONE = re.compile(f"[{_SPACELESS}]")
_LENGTHENED = frozenset("\u30fc\uff70")
"""Signs that lengthen the vowel before them: they stand with it."""


def composed(text: str) -> str:
    """Return a text with composed characters (NFC), so that equal names are equal."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def written(value: Any) -> str:
    """Return a typed value, of JSON or parquet, as text; nothing for one that is missing.

    Missing are None and whatever does not equal itself: NaN, as pandas has it for a missing cell. A
    whole number is written without its point: one missing number makes a column of pandas floats,
    and speaker 1.0 is speaker 1. Of a list what is there, separated by spaces.
    """
    if isinstance(value, list | tuple):
        return " ".join(text for text in map(written, value) if text)
    if isinstance(value, float | Decimal):
        if math.isnan(value):
            return ""
        whole = math.isfinite(value) and value == int(value) and abs(int(value)) <= 2**53
        return str(int(value)) if whole else str(value)
    return "" if value is None else str(value)


def folded(name: str) -> str:
    """Return what names have in common that are probably one: a speaker's, a class's.

    Alike are names that differ in case and blanks, and numbers that differ in leading zeros or in
    an empty fraction, which tools for tables take away and add: 007, 7 and 7.0.
    """
    plain = " ".join(composed(name).casefold().split())
    number = re.fullmatch(r"0*([0-9]+?)(\.0+)?", plain)
    return number[1] if number else plain


def words(text: str) -> list[str]:
    """Return the words of a transcript in upper case, without punctuation."""
    if text.isascii():
        return "".join(c if c.isalnum() or c == "'" else " " for c in text.upper()).split()
    text = composed(composed(text).upper())
    kept: list[str] = []
    for place, character in enumerate(text):
        before = bool(kept) and kept[-1] != " "
        if character in _APOSTROPHES:
            following = place + 1 < len(text) and text[place + 1].isalnum()
            kept.append("'" if before and kept[-1] != "'" and following else " ")
        elif character.isalnum() or character == "'":
            kept.append(character)
        elif unicodedata.category(character)[0] == "M":
            kept.append(character if before else "")  # a mark without a letter is none
        elif unicodedata.category(character) != "Cf":
            kept.append(" ")
    return "".join(kept).split()


def units_of(word: str) -> list[str]:
    """Return what an error rate counts of a word: itself, or its characters.

    Scripts without spaces are counted by characters, each with its marks: the field's mixed error
    rate for Chinese beside English.
    """
    if word.isascii() or not _ALONE.search(word):
        return [word]
    units: list[str] = []
    alone = False
    for character in word:
        joined = unicodedata.category(character)[0] == "M" or character in _LENGTHENED
        own = bool(_ALONE.match(character))
        if units and (joined or not (own or alone)):
            units[-1] += character
        else:
            units.append(character)
        alone = own or (joined and alone)
    return units
