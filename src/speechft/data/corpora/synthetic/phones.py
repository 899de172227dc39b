"""espeak mnemonics to ARPAbet, for the English accents that the phone tasks use."""

from __future__ import annotations

from speechft.errors import DataError

SILENCE = "SIL"

_TABLE = """
p P|b B|t T|d D|k K|g G|f F|v V|T TH|D DH|s S|z Z|S SH|Z ZH|h HH|m M|n N|N NG|l L|r R|w W|j Y
tS CH|dZ JH|t# T|t2 T|d# D|z# Z|l# L|r- R|x K|? T|t[ TH|n- N|m- M|w# W|C SH
i IY|i: IY|I IH|I2 IH|I# IH|E EH|E2 EH|E# EH|a AE|aa AE|a# AH|A: AA|A@ AA|A# AA|0 AA|02 AA|0# AA
O2 AA|O AO|O: AO|O@ AO|o@ AO|V AH|VR ER|@ AH|@2 AH|@5 AH|@# AH|@L AH L|@- AH|@r ER|3 ER|3: ER
IR ER|U UH|U# UH|u: UW|u UW|eI EY|e: EY|e@ EH|aI AY|aI@ AY|aI3 AY|OI OY|oU OW|@U OW|o: OW|aU AW
aU@ AW|; Y|i@ IY|i@3 IY|U@ UH|EI EY|VI AY|ER EH|e EH|a: AA|o OW|oU# OW|I@ IY|j# Y|O# AO|aU3 AW|e# EH
"""

ARPABET = {
    mnemonic: tuple(phones)
    for mnemonic, *phones in (
        item.split() for line in _TABLE.split("\n") for item in line.split("|") if item
    )
}


def to_arpabet(mnemonic: str) -> tuple[str, ...]:
    """Return the phones of one mnemonic; a pause gives ``("SIL",)``.

    Raises:
        DataError: The mnemonic is not in the table.
    """
    if mnemonic.startswith("_") or not mnemonic:
        return (SILENCE,)
    if mnemonic.startswith("("):  # espeak announces a change of language
        return ()
    bare = mnemonic.lstrip("',%=")
    phones = ARPABET.get(bare) or ARPABET.get(bare.rstrip("#-;2"))
    if phones is None:
        raise DataError(f"espeak phoneme {mnemonic!r} has no ARPAbet phone")
    return phones
