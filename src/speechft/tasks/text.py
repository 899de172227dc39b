"""Text and CTC symbols: the symbol sets of SUPERB's recognition tasks, greedy decoding."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from typing import ClassVar

from speechft.errors import DataError

CHARACTERS = (" ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "'")
"""Characters of s3prl's ``ctc/vocab/character.txt``, in its order."""
PHONES = (
    "SIL SPN AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH "
    "EH0 EH1 EH2 ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 "
    "OY0 OY1 OY2 P R S SH T TH UH0 UH1 UH2 UW0 UW1 UW2 V W Y Z ZH"
).split()
"""Phones of s3prl's ``ctc/vocab/phoneme.txt``: ARPAbet with stress, silence, spoken noise."""
_LETTERS = "ETAONIHSRDLUMCWFGYPBVK'XJQZ"
_TED_LETTERS = "ETAONIHSRDLUMWCFGYPBVK'XJQZ"
_PUNCTUATION = frozenset("?!.,;-")


def greedy_decode(path: Iterable[int], *, blank: int = 0, drop: Collection[int] = ()) -> list[int]:
    """Collapse the best symbols of the frames: repeats become one, the blank goes.

    Args:
        path: Most likely symbol of each frame.
        blank: The CTC blank.
        drop: Further symbols to leave out wherever they occur, such as the end of the sequence.
    """
    return [symbol for symbol, _ in groupby(path) if symbol != blank and symbol not in drop]


class SymbolText:
    """Symbols with ``<pad>`` (the blank), ``<eos>`` and ``<unk>`` first; base of the ``ctc`` ones.

    Source: s3prl 0.4 ``downstream/ctc/text.py``.

    Args:
        symbols: The others, in order.
    """

    blank: ClassVar[int] = 0
    eos: ClassVar[int] = 1
    unknown: ClassVar[int] = 2
    joint: ClassVar[str] = ""

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = ("<pad>", "<eos>", "<unk>", *symbols)
        self._index = {symbol: number for number, symbol in enumerate(self.symbols)}

    def split(self, text: str) -> list[str]:
        """Return the symbols of a text."""
        return list(text.strip("\r\n "))

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text's symbols, the end of the sequence last."""
        numbers = [self._index.get(symbol, self.unknown) for symbol in self.split(text)]
        return [*numbers, self.eos]

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text up to the first end of the sequence."""
        kept: list[str] = []
        for number in numbers:
            if number == self.eos:
                break
            if number != self.blank:
                kept.append(self.symbols[number])
        return self.joint.join(kept)

    def decode_path(self, path: Iterable[int]) -> str:
        """Return the text of the most likely symbols of frames; the end is left out."""
        return self.decode(greedy_decode(path, blank=self.blank, drop=(self.eos,)))


class PhoneText(SymbolText):
    """Phones, separated by single spaces (SUPERB PR)."""

    joint: ClassVar[str] = " "

    def __init__(self, symbols: Sequence[str] = PHONES) -> None:
        super().__init__(symbols)

    def split(self, text: str) -> list[str]:
        """Return the phones; an empty one becomes unknown, as in s3prl."""
        return text.strip("\r\n ").split(" ")


class CharacterText(SymbolText):
    """Characters (s3prl's ``ctc`` recognisers)."""

    def __init__(self, symbols: Sequence[str] = CHARACTERS) -> None:
        super().__init__(symbols)


class SlotText(SymbolText):
    """Characters, and a symbol for the begin and the end of every slot type (SUPERB SF).

    Args:
        slots: Slot types, without ``O``.
        symbols: Characters.
    """

    def __init__(self, slots: Sequence[str], symbols: Sequence[str] = CHARACTERS) -> None:
        tags = [tag for slot in slots for tag in (f"B-{slot} ", f" E-{slot}")]
        super().__init__((*symbols, *tags))
        self.slots = tuple(slots)

    def encode_slots(
        self, words: Sequence[str], slots: Sequence[str], *, s3prl: bool = False
    ) -> list[int]:
        """Return the numbers of words with slots around them, the end of the sequence last.

        Punctuation is left out and ``&`` is read as ``AND``. Neighbouring words of the same slot
        type are one slot, unless the second begins with ``B-``.

        Args:
            words: Of one utterance.
            slots: As many slot types, ``O`` for none; ``B-`` and ``I-`` before them are allowed.
            s3prl: Lose what s3prl 0.4 loses: slot borders on punctuation, and the end of the
                sequence after it.

        Raises:
            DataError: Words and slots differ in number, or a slot type is not known.
        """
        if len(words) != len(slots):
            raise DataError(f"{len(words)} words but {len(slots)} slot labels")
        if s3prl:
            return self._encode_lossy(words, slots)
        numbers: list[int] = []
        for place, (slot, group) in enumerate(slot_groups(words, slots)):
            inside = " ".join("AND" if word == "&" else word for word in group)
            coded = [self._index.get(symbol, self.unknown) for symbol in inside]
            if slot is not None:
                coded = [self._tag(f"B-{slot} "), *coded, self._tag(f" E-{slot}")]
            numbers += ([self._index[" "]] if place else []) + coded
        return [*numbers, self.eos]

    def encode_line(self, line: str, *, s3prl: bool = False) -> list[int]:
        r"""Return the numbers of a line of Audio SNIPS, ``BOS words EOS\tO slots intent``."""
        text, _, labels = line.strip("\r\n ").partition("\t")
        return self.encode_slots(text.split(" ")[1:-1], labels.split(" ")[1:-1], s3prl=s3prl)

    def _tag(self, symbol: str) -> int:
        if symbol not in self._index:
            raise DataError(
                f"slot type {symbol.strip()[2:]!r} does not occur in the training split",
                hint=f"known slot types: {', '.join(self.slots)}",
            )
        return self._index[symbol]

    def _encode_lossy(self, words: Sequence[str], slots: Sequence[str]) -> list[int]:
        numbers: list[int] = []
        last = len(words) - 1
        for place, (word, slot) in enumerate(zip(words, slots, strict=True)):
            if word in "?!.,;-":
                continue
            if slot != "O" and (place == 0 or slots[place - 1] != slot):
                numbers.append(self._tag(f"B-{slot} "))
            letters = "AND" if word == "&" else word
            numbers += [self._index.get(letter, self.unknown) for letter in letters]
            if slot != "O" and (place == last or slots[place + 1] != slot):
                numbers.append(self._tag(f" E-{slot}"))
            numbers.append(self.eos if place == last else self._index[" "])
        return numbers


def slot_groups(words: Sequence[str], slots: Sequence[str]) -> list[tuple[str | None, list[str]]]:
    """Group words by slot: (type or None, words); words outside of slots stand alone."""
    groups: list[tuple[str | None, list[str]]] = []
    previous: str | None = None
    for word, label in zip(words, slots, strict=True):
        slot = None if label == "O" else re.sub(r"^[BI]-", "", label)
        if word in _PUNCTUATION or not word:
            continue
        if slot is not None and slot == previous and not label.startswith("B-"):
            groups[-1][1].append(word)
        else:
            groups.append((slot, [word]))
        previous = slot
    return groups


def tagged_text(words: Sequence[str], slots: Sequence[str]) -> str:
    """Write words with tags around slots: ``PLAY B-artist ADELE E-artist``."""
    parts = [
        " ".join(group) if slot is None else f"B-{slot} {' '.join(group)} E-{slot}"
        for slot, group in slot_groups(["AND" if w == "&" else w for w in words], slots)
    ]
    return " ".join(parts)


class LetterText:
    """Letters with ``|`` after every word (SUPERB ASR): fairseq's dictionary, blank first.

    Source: s3prl 0.4 ``downstream/asr`` with ``char.dict``.
    """

    symbols = ("<s>", "<pad>", "</s>", "<unk>", "|", *_LETTERS)
    blank = 0
    eos = 2
    unknown = 3

    def __init__(self) -> None:
        self._index = {symbol: number for number, symbol in enumerate(self.symbols)}

    def split(self, text: str) -> list[str]:
        """Return the symbols of a text, a ``|`` for every space and one at the end."""
        return [*text.upper().replace(" ", "|"), "|"]

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text's symbols, the end of the sequence last."""
        return [*(self._index.get(s, self.unknown) for s in self.split(text)), self.eos]

    def tokens(self, numbers: Iterable[int]) -> list[str]:
        """Return the symbols of numbers, blanks and ends left out."""
        return [self.symbols[n] for n in numbers if n not in (self.blank, self.eos)]

    def words(self, tokens: Iterable[str]) -> list[str]:
        """Return the words that symbols spell."""
        return "".join(tokens).replace("|", " ").split()

    def decode_path(self, path: Iterable[int]) -> str:
        """Return the words, separated by spaces, of the most likely symbols of frames."""
        return " ".join(self.words(self.tokens(greedy_decode(path, blank=self.blank))))


class TedliumText:
    """Letters with ``|`` between words: the 32 symbols of ``facebook/wav2vec2-base-960h``.

    The official Speech-FT recognises TED-LIUM 3 with them; there is no end of the sequence.
    """

    symbols = ("<pad>", "<s>", "</s>", "<unk>", "|", *_TED_LETTERS)
    blank = 0
    unknown = 3

    def __init__(self) -> None:
        self._index = {symbol: number for number, symbol in enumerate(self.symbols)}

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a normalised text."""
        return [self._index.get(symbol, self.unknown) for symbol in text.replace(" ", "|")]

    def decode_path(self, path: Iterable[int]) -> str:
        """Return the text of the most likely symbols of frames."""
        symbols = (self.symbols[number] for number in greedy_decode(path, blank=self.blank))
        return "".join(symbols).replace("|", " ").strip()


def normalize_tedlium(text: str, *, official: bool = False) -> str:
    r"""Return a TED-LIUM transcript in capital letters, apostrophes and single spaces.

    ``it 's`` becomes ``IT'S``, hyphens become spaces, all else is left out, and so is the noise
    mark ``<unk>``.

    Args:
        text: A transcript.
        official: Do what the official Speech-FT does: letters around a tab or line break are
            glued together, and ``<unk>`` becomes ``UNK``.
    """
    if not official:
        text = " ".join(text.replace("<unk>", " ").split())
    text = text.upper().replace(" '", "'").replace("-", " ")
    return " ".join(re.sub("[^ A-Z']", "", text).split())
