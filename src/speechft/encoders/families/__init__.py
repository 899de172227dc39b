"""The families of encoders, one file each; nothing outside this folder knows them by name.

A family is added by its file, which holds one `Family` as ``FAMILY``, and a line here. No file
imports torch before it is asked to compute.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from speechft.encoders.families.base import Family as Family

_FILES = (
    "wavlm",
    "decoar2",
    "hubert",
    "wav2vec2",
    "data2vec_audio",
    "unispeech",
    "unispeech_sat",
    "wav2vec2_conformer",
    "wav2vec2_bert",
    "whisper",
)
"""Files, in the order in which families are asked whether a checkpoint is theirs."""


def _read() -> dict[str, Family]:
    modules = (importlib.import_module(f"{__name__}.{name}") for name in _FILES)
    return {module.FAMILY.name: module.FAMILY for module in modules}


FAMILIES = _read()
"""Families by ``model_type``."""


def find_family(name: str | None) -> Family | None:
    """Return the family of a ``model_type``; None where it is not known."""
    return FAMILIES.get(name or "")


def in_s3prl() -> list[str]:
    """Return the names of the families that files of s3prl and fairseq are read for."""
    return sorted(family.name for family in FAMILIES.values() if family.in_s3prl)


def recognise(names: Iterable[str]) -> Family | None:
    """Return the family that unprefixed names, in either spelling, belong to; None if unclear."""
    held = set(names)
    return next((f for f in FAMILIES.values() if f.recognises(held)), None)
