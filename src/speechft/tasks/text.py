"""Text with marked slots, and the symbols that fine-tuned wav2vec 2.0 models write."""

from __future__ import annotations

import re
from collections.abc import Sequence

WAV2VEC2_SYMBOLS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
"""The 32 symbols of ``facebook/wav2vec2-base-960h``, blank first, ``|`` between words.

The official Speech-FT recognises TED-LIUM 3 with them; there is no end of the sequence."""
_PUNCTUATION = frozenset("?!.,;-")


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
