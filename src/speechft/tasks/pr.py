"""Phone recognition (SUPERB PR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from speechft.data.labels import phones_of
from speechft.tasks.base import Task
from speechft.tasks.ctc import EditScorer, LinearCtcModel, SymbolLabels, edit_rates
from speechft.tasks.measures import Measure, ratio

if TYPE_CHECKING:
    from lhotse.cut import Cut

PER = Measure("per", False, ratio, written="PER", details=edit_rates)
SILENCES = frozenset({"SIL", "sil", "sp", "spn", "SPN", "<sil>", ""})
"""Names of silence among the phones of corpora."""


class PhoneLabels(SymbolLabels):
    """Phones; silences are left out."""

    def symbols(self, cut: Cut) -> list[str]:
        """Return the phones without silence."""
        return [phone for phone, _, _ in phones_of(cut) if phone not in SILENCES]

    def labelled(self, cut: Cut) -> bool:
        """Return whether a cut has phones, be it silence."""
        return bool(phones_of(cut))

    def units(self, symbols: Sequence[str]) -> list[str]:
        """Return the phones."""
        return list(symbols)


PHONES = PhoneLabels("pr", "phones")
PR = Task(
    "pr",
    "phone recognition",
    labels=PHONES,
    model=LinearCtcModel(),
    scorer=EditScorer((PER,), labels=PHONES),
)
