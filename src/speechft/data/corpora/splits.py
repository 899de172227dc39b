"""Names of splits: what they stand for, and which of a data set or a table are wanted."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from speechft.errors import nearest, unknown_choice

MEANT = {
    "train": "train",
    "training": "train",
    "validation": "dev",
    "valid": "dev",
    "val": "dev",
    "dev": "dev",
    "devel": "dev",
    "development": "dev",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""Names of splits in files, folders and tables, in small letters, as Hugging Face reads them."""


def split_of(name: str) -> str | None:
    """Return the split that a file or folder name stands for, as Hugging Face guesses it."""
    for word in re.split(r"[^a-z]+", name.lower()):
        if word in MEANT:
            return MEANT[word]
    return None


def plain_split(name: str) -> str:
    """Return the name that a split has here: files are called after it."""
    return re.sub(r"[^\w.-]", "-", name)


def unread_splits(names: Iterable[str]) -> str:
    """Return the splits that no task reads, with what may be meant; empty where there are none."""
    unread = {n: nearest(n, MEANT) for n in sorted({*names} - {*MEANT.values()})}
    return ", ".join(n if near is None else f"{n} ({MEANT[near]}?)" for n, near in unread.items())


def wanted_splits(wanted: str, there: Collection[str]) -> dict[str, list[str]]:
    """Return the splits that a user wants, by what they are called here.

    Args:
        wanted: ``train:Training,test:Held out``, or names as they are there; empty for none.
        there: The names that there are.

    Raises:
        ConfigError: One that is wanted is not there.
    """
    found: dict[str, list[str]] = {}
    for item in filter(None, wanted.split(",")):
        ours, _, theirs = item.strip().rpartition(":")
        if theirs not in there:
            raise unknown_choice("split", theirs, there)
        found.setdefault(ours or split_of(theirs) or plain_split(theirs), []).append(theirs)
    return found
