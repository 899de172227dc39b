"""Phones: every mnemonic that espeak gives for the task accents has ARPAbet phones."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from speechft.data.corpora.synthetic.phones import ARPABET, SILENCE, to_arpabet
from speechft.data.corpora.synthetic.voices import TASK_ACCENTS
from speechft.errors import DataError

CMU = (
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH "
    "UH UW V W Y Z ZH"
).split()
"""The 39 phones of the CMU dictionary."""

SPEAK = """
import json, sys
import numpy as np
from speechft.data.corpora.synthetic.espeak import Espeak, Prosody
from speechft.data.corpora.synthetic.texts import make_text
espeak, rng, found = Espeak(), np.random.default_rng(0), {}
for accent in sys.argv[1:]:
    said = found.setdefault(accent, {})
    for number in range(80):
        kind, name = (("sentence", "tune"), ("command", "train"), ("command", "test"))[number % 3]
        text = make_text(kind, name, rng).words
        for mnemonic, _ in espeak.say(text, accent, Prosody(350, 50, 40)).phonemes:
            said.setdefault(mnemonic, text)
print(json.dumps(found))
"""


def test_the_phones_are_those_of_the_cmu_dictionary() -> None:
    assert sorted({phone for phones in ARPABET.values() for phone in phones}) == CMU
    assert SILENCE not in CMU


def test_every_mnemonic_of_the_task_accents_is_known() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SPEAK, *TASK_ACCENTS], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert set(found) == set(TASK_ACCENTS)
    for accent, said in found.items():
        phones = set()
        for mnemonic, text in said.items():
            try:
                phones.update(to_arpabet(mnemonic))
            except DataError as error:
                pytest.fail(f"{accent}: {error} in {text!r}")
        assert SILENCE in phones
        assert len(phones - {SILENCE}) > 33, f"{accent} speaks nearly all phones"


@pytest.mark.parametrize(
    ("mnemonic", "phones"),
    [
        ("_:", ("SIL",)),
        ("", ("SIL",)),
        ("(en)", ()),
        ("@L", ("AH", "L")),
        ("'eI", ("EY",)),
        ("tS", ("CH",)),
        ("t#", ("T",)),
    ],
)
def test_special_mnemonics(mnemonic: str, phones: tuple[str, ...]) -> None:
    assert to_arpabet(mnemonic) == phones


def test_unknown_mnemonic_is_named() -> None:
    with pytest.raises(DataError, match="espeak phoneme 'q!' has no ARPAbet phone"):
        to_arpabet("q!")
