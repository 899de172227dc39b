"""The symbols of a CTC head as a tokenizer of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechft.data.labels import UNKNOWN
from speechft.storage.files import write_json
from speechft.tasks.word_search import BOUNDARY

if TYPE_CHECKING:
    from collections.abc import Sequence


def write_tokenizer(folder: Path, symbols: Sequence[str], *, spelled: bool) -> Any:
    """Write ``vocab.json`` and the settings of a tokenizer; returns it.

    Args:
        folder: Where they go.
        symbols: In the order of the logits; the blank is the first.
        spelled: Whether symbols are letters that make words; phones have blanks between them.
    """
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2PhonemeCTCTokenizer

    vocabulary = folder / "vocab.json"
    write_json(vocabulary, {symbol: number for number, symbol in enumerate(symbols)})
    special = {"pad_token": symbols[0], "unk_token": UNKNOWN, "bos_token": None, "eos_token": None}
    if UNKNOWN not in symbols:
        special["unk_token"] = symbols[0]
    if spelled:
        delimiter = BOUNDARY if BOUNDARY in symbols else " "
        made = Wav2Vec2CTCTokenizer(str(vocabulary), word_delimiter_token=delimiter, **special)
    else:
        made = Wav2Vec2PhonemeCTCTokenizer(str(vocabulary), do_phonemize=False, **special)
    made.save_pretrained(folder)
    return made
