"""The claims of the Speech-FT paper, one row each: its figure, ours, a verdict, one sentence.

Figures are of lineages 4 to 7 where all of them are measured, else of lineages 1 to 3
(``studies/demo``), and say which; rows of the closed list take their verdict from there. Figures of
the paper: arXiv 2502.12672.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from demo_table import TUNED, Floats, Study, place_of, table_of
from evidence_figures import Encoder, Found, Judge, off_tasks
from evidence_units import ALPHA
from inference import MARGIN, Estimate, estimate
from power import off_task

MERGED, STABLE, BASE = "Speech-FT 0.25", "stable", "pre-trained"


@dataclass(frozen=True)
class Row:
    """One claim."""

    claim: str
    paper: str
    ours: str
    verdict: str
    sentence: str


def by_lineage(cells: list[tuple[int, int]], values: Floats) -> Estimate:
    """Return the estimate over lineages of (1 + draws, cells) values."""
    numbers = sorted({lineage for lineage, _ in cells})
    means = np.stack(
        [values[:, [lineage == n for lineage, _ in cells]].mean(1) for n in numbers], 1
    )
    return estimate(means[0], means[1:].mean(1), 30)


@dataclass(frozen=True)
class Explored:
    """Figures of lineages 1 to 3."""

    study: Study
    which: str = "lineages 1 to 3"

    def points(self, tuned_on: str, task: str, first: str, second: str) -> Estimate:
        """Return the difference of two encoders in points of a task's own metric."""
        cells, sides = self.study.cells(tuned_on), []
        for name in (first, second):
            known = self.study.values(tuned_on if name in TUNED else "", name, task)
            sides.append(np.stack([known[place_of(name, cell)] for cell in cells], 1))
        return by_lineage(cells, sides[0] - sides[1])

    def logits(self, tuned_on: str, first: str, second: str) -> Estimate:
        """Return how much better the first is off-task, in logits."""
        return by_lineage(self.study.cells(tuned_on), off_task(self.study, tuned_on, first, second))

    def level(self, tuned_on: str, task: str) -> str:
        """Return a task's figures of pre-trained, stable and merged."""
        figures = (self.study.figures(tuned_on, name)[task][0] for name in (BASE, STABLE, MERGED))
        return arrows(figures)


@dataclass(frozen=True)
class Confirmed:
    """The same of the lineages that confirm."""

    judge: Judge

    @property
    def which(self) -> str:
        """Return which lineages these are, in words."""
        return f"lineages {self.judge.lineages[0]} to {self.judge.lineages[-1]}"

    @property
    def whole(self) -> bool:
        """Return whether every lineage has what the rows need."""
        every = tuple(self.judge.lineages)
        return all(self._off_task(t, STABLE).lineages == every for t in ("sid", "pr")) and all(
            self._off_task(t, MERGED).lineages == every for t in ("sid", "pr")
        )

    def points(self, tuned_on: str, task: str, first: str, second: str) -> Estimate:
        """Return the difference of two encoders in points of a task's own metric."""
        return self._over(
            lambda n, seed: (
                self.judge.evidence.percent(encoder(n, tuned_on, seed, first), task)
                - self.judge.evidence.percent(encoder(n, tuned_on, seed, second), task)
            )
        )

    def logits(self, tuned_on: str, first: str, second: str) -> Estimate:
        """Return how much better the first is off-task, in logits."""
        tasks, evidence = off_tasks(tuned_on), self.judge.evidence
        return self._over(
            lambda n, seed: (
                evidence.better(encoder(n, tuned_on, seed, first), tasks)
                - evidence.better(encoder(n, tuned_on, seed, second), tasks)
            )
        )

    def level(self, tuned_on: str, task: str) -> str:
        """Return a task's figures of pre-trained, stable and merged."""
        evidence = self.judge.evidence
        return arrows(
            self._over(lambda n, s, x=x: evidence.percent(encoder(n, tuned_on, s, x), task)).value
            for x in (BASE, STABLE, MERGED)
        )

    def _off_task(self, tuned_on: str, name: str) -> Found:
        evidence = self.judge.evidence
        of = self.judge.over_seeds(lambda n, s: evidence.off_task(encoder(n, tuned_on, s, name)))
        return self.judge.over(of)

    def _over(self, figure: Callable[[int, int], Floats]) -> Estimate:
        found = self.judge.over(self.judge.over_seeds(figure)).estimate
        assert found is not None, "asked only when everything is there"
        return found


def encoder(lineage: int, tuned_on: str, seed: int, name: str) -> Encoder:
    """Return the encoder of a name that the older rows have, in the rows of the evidence."""
    if name == BASE:
        return Encoder(lineage)
    return Encoder(lineage, tuned_on, seed, "path", "", ALPHA if name == MERGED else 1.0)


def arrows(figures: Iterable[float]) -> str:
    """Return figures one after the other."""
    return " → ".join(f"{value:.1f}" for value in figures)


def words(found: Estimate, digits: int = 1) -> str:
    """Return a figure with its 95 % interval."""
    low, high = found.interval()
    return f"{found.value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def judged(*claims: tuple[Estimate, int]) -> str:
    """Return the verdict of several differences that the paper has with a sign.

    Reproduced if every interval lies on the paper's side of 0, partly if one does, not reproduced
    if one lies on the other side and none on the paper's; else open.
    """
    sides = [sorted(sign * end for end in found.interval()) for found, sign in claims]
    agree = [low > 0 for low, _ in sides]
    against = [high < 0 for _, high in sides]
    if all(agree):
        return "reproduced"
    return "partly" if any(agree) else "not" if any(against) else "open"


def known_rows(of: Explored | Confirmed) -> list[Row]:
    """Return the claims that need no more than stable encoders and their merges at 0.25."""
    lost = of.points("sid", "pr", STABLE, BASE)
    back = of.points("sid", "pr", MERGED, STABLE)
    sid_down = of.points("pr", "sid", STABLE, BASE)
    sid_up = of.points("pr", "sid", MERGED, BASE)
    over = {task: of.logits(task, MERGED, STABLE) for task in ("sid", "pr")}
    above = {task: of.logits(task, MERGED, BASE) for task in ("sid", "pr")}
    kept = [found.p_equivalent() < 0.05 for found in above.values()]
    return [
        Row(
            "Tuning on speakers costs phones, the merge gives them back (PER)",
            "5.17 → 29.08 → 6.91",
            f"{of.level('sid', 'pr')}: stable {words(lost)}, merged minus stable {words(back)}",
            judged((lost, 1), (back, -1)),
            "The loss is smaller here, as tuning is weaker; the merge gives nearly all of it back.",
        ),
        Row(
            "The merge is better off-task than stable tuning (SUPERB_S: SID 651 → 881, PC 727 → "
            "878, ER 909 → 1010)",
            "for every task that is tuned on",
            f"off-task logits: SID {words(over['sid'], 2)}, PR {words(over['pr'], 2)}",
            judged((over["sid"], 1), (over["pr"], 1)),
            "At the fixed alpha 0.25, which also gives gain away; at equal gain see C3 and C4.",
        ),
        Row(
            "The merge is better than pre-trained all in all (8 of 8 supervised tasks)",
            "870.20 → 905.79 (ASR), 881.07 (SID)",
            f"off-task logits: SID {words(above['sid'], 2)}, PR {words(above['pr'], 2)}",
            judged((above["sid"], 1), (above["pr"], 1)),
            "Off-task alone, where the paper's score has the tuned task too: no gain is shown; "
            f"that it keeps them within {MARGIN:g} logit is "
            f"{'shown' if all(kept) else 'not shown' if not any(kept) else 'shown for one'}.",
        ),
        Row(
            "Tuned on what is said, merged, speakers gain (SID)",
            "81.86 → 79.89 → 84.11",
            f"{of.level('pr', 'sid')}: stable {words(sid_down)}, merged minus pre-trained "
            f"{words(sid_up)}",
            judged((sid_down, -1), (sid_up, 1)),
            "Tuned on phones. The merge brings speakers near where they were, not above.",
        ),
    ]


def coefficient_row(regrets: Mapping[str, Estimate | None]) -> list[str]:
    """Return the claim that 0.25 is the coefficient to take, by its regret in each tuned task.

    A regret is never below 0, so that only one beyond the margin of equivalence counts.
    """
    known = {task: f for task, f in regrets.items() if f is not None and f.lineages > 1}
    lost = [found.interval()[0] > MARGIN for found in known.values()]
    verdict = "open" if not any(lost) else "not" if all(lost) else "partly"
    ours = ", ".join(f"{task.upper()} {words(found, 2)}" for task, found in known.items())
    return [
        "0.25 is the coefficient to take",
        "0.25 throughout",
        f"logits lost against the best of the path: {ours or 'not measured'} (confirming lineages)",
        verdict,
        "How far one may go depends on the task that was tuned on; H2 asks for the strength.",
    ]


OPEN = {
    "C6": (
        "The head-only phase is needed (Table VII: without it PER rises, SUPERB_S below "
        "pre-trained)",
        "+3.27 PER",
        "The pilot saw the gain of stable tuning come with the frozen CNN instead.",
    ),
    "C7": ("Better than weight-space regularisation (Table VIII)", "881.07 against 838.56", ""),
    "C8": ("Better than LoRA (Table VIII)", "881.07 against 785.93", ""),
    "C9": ("Better than DoRA (Table VIII)", "881.07 against 790.12", ""),
    "C10": (
        "Better than stopping early (Table VIII)",
        "881.07 against 736.06",
        "At equal gain on speakers, on the path of states after 30, 60, 150 and 300 updates. The "
        "state at 20 % (60) has not gained there; its own merges are not measured.",
    ),
}
"""Claims of the closed list that are the paper's: claim, its figure, a sentence."""
COMPARED = {
    "H6": (
        "Merged features stay nearer to pre-trained than others (section V-D)",
        "figure",
        "Similarity of the merge that moved as far as the other method's encoder, minus that of "
        "the latter.",
    ),
    "Table III": (
        "Several tasks: in sequence is best (Table III)",
        "887.50 (best of four)",
        "In sequence minus each other way, PR and SID tuned on, merged at 0.25; mean over PR, SID "
        "and IC, logits.",
    ),
}
"""Claims that several differences decide, all above 0 in the paper: claim, its figure, a sentence.
"""
LATER = (("Continued pre-training in Mandarin (Table II): CER and SUPERB_S", "24.23, 866.51"),)
"""Claims of which nothing is measured."""


def compared_rows(
    progress: Mapping[str, str], compared: Mapping[str, Mapping[str, Estimate | None]]
) -> list[list[str]]:
    """Return the claims of `COMPARED`, judged where all is measured; see `paper_rows`."""
    rows = []
    for name, (claim, paper, sentence) in COMPARED.items():
        known = {other: f for other, f in compared[name].items() if f and f.lineages > 1}
        ours = ", ".join(f"{other} {words(found, 2)}" for other, found in known.items())
        whole = progress[name] == "open" and len(known) == len(compared[name])
        verdict = judged(*((found, 1) for found in known.values())) if whole else progress[name]
        rows.append([claim, paper, ours or "not measured", verdict, sentence])
    return rows


def paper_rows(
    of: Explored | Confirmed,
    verdicts: Mapping[str, str],
    progress: Mapping[str, str],
    regrets: Mapping[str, Estimate | None],
    measured: Mapping[str, str],
    compared: Mapping[str, Mapping[str, Estimate | None]],
) -> str:
    """Return the table of claims.

    Args:
        of: Figures of the lineages that are looked at.
        verdicts: Of the closed list.
        progress: In words, how much of what a claim needs is measured.
        regrets: Of 0.25, by tuned task.
        measured: Figures of those of the closed list that are whole.
        compared: By key of `COMPARED`, the differences by what is compared with.
    """
    rows = [
        [row.claim, row.paper, f"{row.ours} ({of.which})", row.verdict, row.sentence]
        for row in known_rows(of)
    ]
    rows.append(coefficient_row(regrets))
    translated = {"supported": "reproduced", "contradicted": "not", "no difference": "not"}
    for name, (claim, paper, sentence) in OPEN.items():
        verdict = translated.get(verdicts[name], progress[name])
        ours = f"off-task {measured[name]} ({name})" if name in measured else f"see {name}"
        rows.append([claim, paper, ours, verdict, sentence])
    rows += compared_rows(progress, compared)
    rows += [[claim, paper, "not measured", "open, tier C", ""] for claim, paper in LATER]
    return table_of(["claim", "paper", "ours (95 %)", "verdict", "in a sentence"], rows)
