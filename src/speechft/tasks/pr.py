"""Phone recognition (SUPERB PR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from speechft.data.labels import phones_of
from speechft.tasks.ctc import CtcTask

if TYPE_CHECKING:
    from lhotse.cut import Cut

_SILENCES = frozenset({"SIL", "sil", "sp", "spn", "SPN", "<sil>", ""})


class PhoneRecognition(CtcTask):
    """Phone recognition (SUPERB PR); silences are left out."""

    name = "pr"
    title = "phone recognition"
    label = "phones"
    metric: ClassVar[str] = "per"

    def symbols(self, cut: Cut) -> list[str]:
        """Return the phones without silence."""
        return [phone for phone, _, _ in phones_of(cut) if phone not in _SILENCES]

    def labelled(self, cut: Cut) -> bool:
        """Return whether a cut has phones, be it silence."""
        return bool(phones_of(cut))

    def units(self, symbols: Sequence[str]) -> list[str]:
        """Return the phones."""
        return list(symbols)
