"""How one's own recordings are read: which columns mean what, which rows are which split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from speechft.data.columns import Naming
from speechft.data.corpora.settings import keywords

_OTHERS = ("splits", "draw", "disjoint_speakers")
"""Settings that name no column."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Settings of ``generic``: after ``--set`` in `speechft prepare`, or behind ``?``.

    A column that is named beats what columns are called (`speechft.data.columns`).
    """

    path: str = ""
    """Column with the audio's path; in parquet with the audio itself."""
    split: str = ""
    text: str = ""
    phones: str = ""
    speaker: str = ""
    language: str = ""
    label: str = ""
    start: str = ""
    end: str = ""
    duration: str = ""
    channel: str = ""
    splits: str = ""
    """Which splits, and what they are called here: ``train:Training,test:Held out``."""
    draw: str = ""
    """Draw dev and test where there are none, see `speechft.data.corpora.drawing`."""
    disjoint_speakers: bool = False
    """Refuse speakers that train shares with dev or test."""

    @classmethod
    def of(cls, settings: Sequence[str]) -> Reading:
        """Return it from ``key=value`` as they are typed.

        Raises:
            ConfigError: A key that it does not have, or a value of the wrong type.
        """
        return cls(**keywords("generic", cls, settings))

    @property
    def naming(self) -> Naming:
        """Return what columns mean."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _OTHERS}
        return Naming({meant: column for meant, column in columns.items() if column})

    def told(self) -> dict[str, Any]:
        """Return what decides the corpus beside its files: what differs from the default."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        differ = {f.name: given[f.name] for f in fields(self) if given[f.name] != f.default}
        return {"disjoint_speakers": self.disjoint_speakers, **differ}
