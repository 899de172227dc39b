"""How much of the evidence is measured, and what is left of it."""

from __future__ import annotations

from dataclasses import dataclass

from demo_table import table_of
from evidence import is_done
from evidence_units import CHOSEN, CONFIRMING, all_units

NEEDED = {
    "C1": ("cells",),
    "C2": ("home",),
    "C3": ("sid path", "sid weaker"),
    "C4": ("pr path", "pr weaker"),
    "C5": ("arm",),
    "C6": ("arm",),
    "C7": ("sid path", f"rival-{CHOSEN['l2sp']}", "attempt-l2sp-1", "attempt-l2sp-2"),
    "C8": ("sid path", f"rival-{CHOSEN['lora']}", "attempt-lora-1", "attempt-lora-2"),
    "C9": ("sid path", f"rival-{CHOSEN['dora']}", "attempt-dora-1", "attempt-dora-2"),
    "C10": ("sid path", "early"),
    "H2": ("path", "stronger"),
    "H5": ("layers",),
    "Table III": ("several",),
    "H6": ("sid path", f"rival-{CHOSEN['l2sp']}", f"rival-{CHOSEN['lora']}"),
}
"""Kinds of units that a claim rests on, beside pre-trained encoders; attempts: of lineage 1."""
LATER = {
    "H3: unit and head": "about 6",
    "H4: a base with PER below 20": "not known, there is none",
    "Table II: another language": "about 6, and a corpus that is not made yet",
    "135 epochs": "about 13",
    "alpha by thirds of the layers": "about 1",
    "(g, v) against fused weights": "about 1",
    "bf16 against fp32": "about 2",
}
"""Tier C: nothing is measured of it; core hours, from the costs in ``DESIGN.md``."""


@dataclass(frozen=True)
class Progress:
    """How much of what a figure needs is measured."""

    there: int
    needed: int

    def words(self, state: str = "open") -> str:
        """Return the state, and how much is there where that is not all."""
        return state if self.whole else f"{state}, {self.there} of {self.needed} units"

    @property
    def whole(self) -> bool:
        """Return whether everything is there."""
        return self.there == self.needed


def progress(name: str) -> Progress:
    """Return how many of the units of a claim or hypothesis are measured."""
    wanted = NEEDED[name]
    units = [
        unit
        for unit in all_units()
        if (unit.lineage in CONFIRMING or unit.kind == "attempt")
        and (
            unit.kind == "base"
            or any(set(w.split()) <= {unit.tuned_on, unit.kind, unit.long_kind} for w in wanted)
        )
    ]
    return Progress(sum(is_done(unit) for unit in units), len(units))


def left_table() -> str:
    """Return what is left of lineages 4 to 7, kind by kind, and what nothing is measured of."""
    left: dict[tuple[str, str], list[float]] = {}
    for unit in all_units():
        if unit.lineage in CONFIRMING and not is_done(unit):
            left.setdefault((unit.tier, unit.long_kind.strip("-")), []).append(unit.minutes)
    rows = [
        [tier, f"`{kind}`", str(len(minutes)), f"{sum(minutes) / 60:.1f}"]
        for (tier, kind), minutes in left.items()
    ]
    rows += [["C", name, "", hours] for name, hours in LATER.items()]
    return table_of(["tier", "what", "units", "core hours"], rows)


def progress_words() -> dict[str, str]:
    """Return by claim how much of it is measured."""
    return {name: progress(name).words() for name in NEEDED}
