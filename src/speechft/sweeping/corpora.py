"""Which corpora merges are measured on: what the user gives, else what was tuned on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from speechft.arguments import Paths, texts_of
from speechft.console import log
from speechft.data.found_again import Recorded
from speechft.data.manifest import Corpus
from speechft.errors import DataError
from speechft.sweeping.tuning import find_tuning

DEFAULT = "synthetic"
"""Where nothing tells what was tuned on."""


def corpora_of(tuned: Sequence[Any], given: Paths) -> list[str]:
    """Return the corpora to measure on, as `find_corpus` takes them.

    Args:
        tuned: The tuned encoders.
        given: What the user says; nothing for what the folders of the encoders tell.

    Raises:
        DataError: A corpus that was tuned on is not found again.
    """
    if given:
        return texts_of(given)
    told = _told(tuned)
    if not told:
        log(
            f"nothing beside the tuned encoder tells which corpus it was tuned on: {DEFAULT} is "
            "read (--corpus says otherwise)"
        )
        return [DEFAULT]
    gone = [one.told for one in told if one.place is None]
    if gone:
        raise DataError(
            f"the encoder was tuned on {' and '.join(gone)}, which is not found where it was",
            hint="say where it lies now, or what else to measure on, with --corpus",
        )
    return [str(one.place) for one in told]


def tell_corpora(tuned: Sequence[Any], opened: Iterable[Corpus]) -> None:
    """Say where what is read is not what was tuned on."""
    told = _told(tuned)
    known = {one.digest for one in told}
    for corpus in {one.digest: one for one in opened}.values():
        if told and corpus.digest not in known:
            on = " and ".join(one.told for one in told)
            log(f"corpus {corpus.name} is not what the encoder was tuned on: that was {on}")


def _told(tuned: Sequence[Any]) -> list[Recorded]:
    found = [one for t in map(find_tuning, tuned) if t is not None for one in t.corpora]
    return list({one.digest: one for one in found}.values())
