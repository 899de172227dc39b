"""Figures of the evidence by name, for ``advice.md``: the plain words at the top of the page.

In the template ``{of[sid pr stable minus base]:.1b}`` stands for a difference with its interval;
the names are those of `Difference`, `Regret`, `Claim` and `Level`. So no figure in the words can be
older than the rows. Which words fit the figures is for people to say: read the difference that
``evidence_table.py`` makes in the page whenever rows come.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from evidence_choices import regret, worths
from evidence_figures import MERGED, Encoder, Found, Judge, Path_
from evidence_units import CHOSEN, PATH, TASKS, UPDATES
from inference import Floats

TEMPLATE = Path(__file__).with_name("advice.md")
NAMED = {"base": 0.0, "stable": 1.0}
"""Encoders with a name; others are an alpha of stable's path, ``@150`` the state after so many
updates, ``l2sp at 0.5`` a point of the path of a rival, in the setting that confirms."""


@dataclass(frozen=True)
class Said:
    """A figure as words show it.

    Format: ``.1`` the value with one decimal, ``.1i`` its 95 % interval, ``.1b points`` the value,
    these words, the interval; ``+`` before it for a sign; ``-`` before it turns the figure round,
    so that a loss reads as one.
    """

    found: Found

    def __format__(self, spec: str) -> str:
        read = re.fullmatch(r"(?P<sign>[+-]?)\.(?P<digits>\d)(?P<what>[ib]?)(?P<unit>( .+)?)", spec)
        if read is None:
            raise ValueError(f"no format of a figure: {spec!r}; .1, .1i, .1b or .1b points")
        if self.found.estimate is None:
            return "(not measured)"
        sign, digits = (-1 if read["sign"] == "-" else 1), read["digits"]
        plus = "+" if read["sign"] == "+" else ""
        value = f"{_zero(sign * self.found.estimate.value, int(digits)):{plus}.{digits}f}"
        value += read["unit"]
        if not read["what"]:
            return value
        if self.found.estimate.lineages < 2:
            interval = "(one lineage)"
        else:
            ends = sorted(sign * end for end in self.found.estimate.interval())
            low, high = (f"{_zero(end, int(digits)):.{digits}f}" for end in ends)
            interval = f"({low} to {high})"
        return f"{value} {interval}" if read["what"] == "b" else interval


def _zero(value: float, digits: int) -> float:
    """Return a value that prints as 0 without a sign where it rounds to it."""
    return round(value, digits) + 0.0


@dataclass(frozen=True)
class Difference:
    """``of[TUNED_ON WHAT FIRST minus SECOND]``, or ``of[TUNED_ON WHAT ENCODER]`` for a level.

    WHAT is a task (percent of its own metric, test), ``off`` (the other tasks, logits, above 0 is
    better), ``gain`` (of the tuned task on dev, logits) or ``worth`` (off-task plus the gain of the
    tuned task, both on test). The last three are against pre-trained as they stand.
    """

    judge: Judge

    def __getitem__(self, key: str) -> Said:
        tuned_on, what, names = key.split(" ", 2)
        sides = [self._of(tuned_on, what, name) for name in names.split(" minus ")]

        def figure(lineage: int, seed: int) -> Floats:
            one, *other = (side(lineage, seed) for side in sides)
            return np.asarray(one - other[0]) if other else one

        return Said(self.judge.over(self.judge.over_seeds(figure)))

    def _of(self, tuned_on: str, what: str, name: str) -> Callable[[int, int], Floats]:
        evidence = self.judge.evidence

        def figure(lineage: int, seed: int) -> Floats:
            encoder = _encoder(lineage, tuned_on, seed, name)
            if what in TASKS:
                return evidence.percent(encoder, what)
            if what == "off":
                return evidence.off_task(encoder)
            if what == "gain":
                return evidence.gain(encoder)
            if what == "worth":
                table = worths(evidence, lineage, tuned_on, seed)
                return np.asarray(table[(0.0, *PATH).index(encoder.alpha)])
            raise KeyError(f"no figure {what!r}; {', '.join(TASKS)}, off, gain or worth")

        return figure


def _encoder(lineage: int, tuned_on: str, seed: int, name: str) -> Encoder:
    if name.startswith("@"):
        updates = int(name[1:])
        if updates < UPDATES:
            return Encoder(lineage, tuned_on, seed, "early", "", 1.0, updates)
        name = "stable"
    method, _, at = name.partition(" at ")
    if at:
        variant = CHOSEN.get(method, method)
        return Encoder(lineage, tuned_on, seed, "rival", variant, float(at))
    alpha = NAMED[name] if name in NAMED else float(name)
    return Encoder(lineage, tuned_on, seed, "path", "", alpha) if alpha else Encoder(lineage)


@dataclass(frozen=True)
class Regret:
    """``regret[TUNED_ON ALPHA]``: what an alpha loses against the best of each path, logits."""

    judge: Judge

    def __getitem__(self, key: str) -> Said:
        tuned_on, alpha = key.split(" ")
        return Said(regret(self.judge, lambda _, __: float(alpha), tuned_on))


@dataclass(frozen=True)
class Level:
    """``level[TUNED_ON PERCENT PATH]``: how much more the merge keeps where both gained as much."""

    judge: Judge
    paths: Mapping[str, Path_]

    def __getitem__(self, key: str) -> Said:
        tuned_on, percent, path = key.split(" ", 2)
        levels = (int(percent) / 100,)
        return Said(self.judge.equal_gain(MERGED, self.paths[path], tuned_on, levels))


@dataclass(frozen=True)
class Claim:
    """``claim[C3]``: a figure of the closed list."""

    found: Mapping[str, Found]

    def __getitem__(self, name: str) -> Said:
        return Said(self.found[name])


def said(
    judge: Judge,
    paths: Mapping[str, Path_],
    found: Mapping[str, Found],
    states: Mapping[str, str],
    template: str | None = None,
) -> str:
    """Return the template with its figures filled in.

    Args:
        judge: Of the lineages.
        paths: By name, what the merge is compared with.
        found: The closed list.
        states: Of it: the verdict, or how much is measured.
        template: Without, that of `TEMPLATE` below its first line.

    Raises:
        KeyError: For a name that there is not.
        ValueError: For a format that there is not.
    """
    text = TEMPLATE.read_text().partition("\n\n")[2] if template is None else template
    return text.format(
        of=Difference(judge),
        regret=Regret(judge),
        level=Level(judge, paths),
        claim=Claim(found),
        verdict=states,
    )
