"""The checks that a base and a tuned model have to pass, and which of them a user lets fail."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from speechft.commands import option, takes
from speechft.errors import ConfigError, LineageError, unknown_choice

CHECKS = {
    "family": "both are of one family",
    "settings": "their configurations compute alike: layer norm, activation, strides, groups, ...",
    "types": "the encoder's weights are floating-point numbers of 16 bits or more",
    "base": "a delta file belongs to this base",
    "equal": "they differ",
    "lineage": "the weights of every layer, matrix and norm point where the base's point",
    "zeros": "nothing is filled with zeros in one of them alone, and no matrix in both",
    "constants": "nothing is filled with another constant in one of them alone",
    "scale": "the weights of every tensor are of the base's magnitude",
    "nonfinite": "no weight is NaN or infinite",
}
"""Every check by the name that lets it fail, with what it asks for."""

FORCED = ("family", "base", "equal", "lineage", "nonfinite")
"""What ``force`` lets fail; damage and other settings are let pass by their own names only."""


@dataclass(frozen=True)
class Objection:
    """What speaks against a merge."""

    check: str
    """One of `CHECKS`."""
    text: str


def read_allowed(value: Any) -> tuple[str, ...]:
    """Return names of checks out of ``"zeros,scale"`` or a list of names.

    Raises:
        ConfigError: One is no check.
    """
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple | set | frozenset):
        raise ConfigError(f"allow is {value!r}, expected names out of: {', '.join(CHECKS)}")
    wanted = [str(name).strip() for name in names]
    for name in wanted:
        if name and name not in CHECKS:
            raise unknown_choice("check to allow", name, CHECKS)
    return tuple(name for name in CHECKS if name in wanted)


def refuse(objections: Sequence[Objection], allowed: Collection[str], hint: str = "") -> list[str]:
    """Return the texts of objections that are let pass; refuse the others.

    Raises:
        LineageError: Names the first of them, and what lets them pass.
    """
    left = [one for one in objections if one.check not in allowed]
    if left:
        way = way_past(unique(one.check for one in left))
        more = [f"and {len(left) - 4} more"] if len(left) > 4 else []
        raise LineageError(
            "; ".join([*(one.text for one in left[:4]), *more]),
            hint=f"{hint or HINTS.get(left[0].check, HINT)}; {way} merges nevertheless and says so",
        )
    return [one.text for one in objections]


def way_past(checks: Sequence[str]) -> str:
    """Return what lets checks pass, as whoever is told gives it: an option, an argument, a key."""
    names = ",".join(checks)
    if not takes("allow"):
        return f"merging.allow=[{names}]"
    allow = option("allow", names)
    forced = takes("force") and all(check in FORCED for check in checks)
    return f"{option('force')} (or {allow})" if forced else allow


def unique(names: Iterable[str]) -> list[str]:
    """Return names once each, in their order."""
    return list(dict.fromkeys(names))


HINT = "give the checkpoint that the tuned model was initialised from"
_DAMAGED = "the file is damaged or was not written to its end; copy or make it again"
HINTS = {
    "equal": "the same model may be given twice, or be from before the encoder was trained",
    "zeros": _DAMAGED,
    "constants": _DAMAGED,
    "scale": _DAMAGED,
    "types": "quantised models cannot be merged; merge before quantising",
    "settings": "give the base's own configuration to the tuned model, if it is only misdescribed",
    "base": "use the base that the delta names",
}
