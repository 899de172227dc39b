"""Words, tables, verdicts and pictures of the evidence, from committed rows, into the results page.

    python studies/evidence_table.py            # writes the parts between the marks, and pictures
    python studies/evidence_table.py --print    # prints it

What has rows of lineages 4 to 7 is taken from them; the rest from lineages 1 to 3 where the demo's
study has it, said as such; all else is open, with the number of its units. Rules: ``DESIGN.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from demo_table import Study, read, table_of
from evidence_choices import further_tasks_table, in_sequence, regret_table, regrets_of
from evidence_claims import (
    arm_effect,
    arm_effect_at_gain,
    domains,
    nearer,
    predicts,
    route_around,
    strength,
)
from evidence_details import further, points_table, similarity_table, strength_table
from evidence_drawing import FRONTIERS, IMAGES, SIMILARITY, draw
from evidence_figures import (
    LEVELS,
    MERGED,
    Evidence,
    Found,
    Judge,
    early_states,
    merges,
    shown,
    stable,
    stable_runs,
)
from evidence_progress import left_table, progress, progress_words
from evidence_settings import settings_table
from evidence_units import ALPHA as COEFFICIENT
from evidence_units import (
    CHOSEN,
    CONFIRMING,
    METHODS,
    OTHERS,
    ROWS,
    TUNED_ON,
    design,
    method_name,
)
from evidence_words import said
from inference import ALPHA, MARGIN, Estimate, holm
from paper_claims import Confirmed, Explored, paper_rows
from rows import read_measured

_CLOSED = """Intervals are of each claim alone; p is corrected for all ten (Holm), those that are
not measured counting as 1. So a claim whose interval leaves 0 out may stay open.
"""
PAGE = Path(__file__).parents[1] / "docs" / "results.md"
MARKS = {
    "advice": "<!-- advice: studies/evidence_table.py fills studies/advice.md in -->",
    "evidence": "<!-- evidence: studies/evidence_table.py writes what follows -->",
}
"""What begins a part of the page; it ends with the same name after a slash."""
DRAWS = 1000
RIVALS = {
    "stable tuning": stable_runs,
    **{METHODS[name]: merges("rival", CHOSEN[name]) for name in ("l2sp", "lora", "dora")},
    "early checkpoint": early_states,
}
"""Paths that the merge is compared with at equal gain: those of the closed list."""
PATHS = {"merge": MERGED, **RIVALS, "LiNeS": merges("lines")}
PATHS |= {METHODS[name]: merges("rival", CHOSEN.get(name, name)) for name in OTHERS}
PATHS |= {method_name(name): merges("rival", name) for name in CHOSEN}
"""All paths that are shown."""
SAID = {
    "C1": ("H1: merging gives more at home than in the tuning domain", 1),
    "C2": ("H1 flipped: tuned at home, it gives less there", -1),
    "C3": ("merge against stable tuning at equal gain, tuned on SID", 1),
    "C4": ("merge against stable tuning at equal gain, tuned on PR", 1),
    "C5": ("H7: a frozen CNN keeps more", 1),
    "C6": ("H7: the head-only phase keeps more", 1),
    "C7": ("merge against L2-SP at equal gain", 1),
    "C8": ("merge against LoRA at equal gain", 1),
    "C9": ("merge against DoRA at equal gain", 1),
    "C10": ("merge against the early checkpoint at equal gain", 1),
}
"""The closed list: in words, and the sign that is claimed."""


def claims_of(judge: Judge) -> dict[str, Found]:
    """Return the figure of every claim of the closed list."""
    found = {
        "C1": domains(judge, "cells", "unseen", TUNED_ON),
        "C2": domains(judge, "home", "unseen", TUNED_ON),
        "C3": judge.equal_gain(MERGED, stable_runs, "sid"),
        "C4": judge.equal_gain(MERGED, stable_runs, "pr"),
        "C5": arm_effect(judge, "cnn", 1.0, TUNED_ON),
        "C6": arm_effect(judge, "head", 1.0, TUNED_ON),
    }
    for name, rival in zip(("C7", "C8", "C9", "C10"), list(RIVALS)[1:], strict=True):
        found[name] = judge.equal_gain(MERGED, RIVALS[rival], "sid")
    return found


def adjusted_p(found: dict[str, Found], whole: dict[str, bool]) -> dict[str, float]:
    """Return p by claim after Holm over the closed list; 1 where not all rows are there."""
    return holm(
        {
            name: figure.estimate.p_value() if figure.estimate and whole[name] else float("nan")
            for name, figure in found.items()
        }
    )


def verdicts(found: dict[str, Found], whole: dict[str, bool]) -> dict[str, str]:
    """Return the verdict of each claim: by Holm over the closed list, and only when it is whole.

    Args:
        found: By claim.
        whole: Whether all rows of a claim are there; p is 1 where not.
    """
    adjusted, result = adjusted_p(found, whole), {}
    for name, figure in found.items():
        sign = SAID[name][1]
        if not whole[name] or figure.estimate is None:
            result[name] = "open" if whole[name] else "preliminary" if figure.estimate else "open"
        elif adjusted[name] < ALPHA:
            agrees = figure.estimate.value * sign > 0
            result[name] = "supported" if agrees else "contradicted"
        else:
            same = figure.estimate.p_equivalent() < ALPHA
            result[name] = "no difference" if same else "open"
    return result


def states_of(words: dict[str, str]) -> dict[str, str]:
    """Return the verdict of each claim, with how much is measured where that is not all."""
    return {
        name: word if progress(name).whole else progress(name).words(word)
        for name, word in words.items()
    }


def claims_table(found: dict[str, Found], words: dict[str, str]) -> str:
    """Return the closed list with figures and verdicts."""
    adjusted = adjusted_p(found, {name: progress(name).whole for name in found})
    states, rows = states_of(words), []
    for name, (text, _) in SAID.items():
        which = ", ".join(map(str, found[name].lineages)) or "none"
        p = f"{adjusted[name]:.2g}" if progress(name).whole else ""
        rows.append([name, text, shown(found[name].estimate), which, p, states[name]])
    header = ["", "claim", "figure, logits (95 %)", "lineages", "p after Holm", "verdict"]
    return f"{_CLOSED}\n{table_of(header, rows)}"


def hypotheses_table(judge: Judge, found: dict[str, Found], words: dict[str, str]) -> str:
    """Return H1 to H7 with what decides them."""
    slope, around = strength(judge, TUNED_ON), route_around(judge, TUNED_ON)
    near = nearer_than(judge)
    better = predicts(judge)
    gains = {f: arm_effect_at_gain(judge, f, TUNED_ON) for f in ("cnn", "head")}
    rows = [
        [
            "H1 domains",
            f"D {shown(found['C1'].estimate)}; tuned at home {shown(found['C2'].estimate)}",
            _both(words["C1"], words["C2"], "C1", "C2"),
        ],
        ["H2 strength", f"slope {shown(slope.estimate)}", _sign(slope, -1, "H2")],
        ["H3 unit and head", "not measured", "open, tier C"],
        ["H4 base", "not measured", "open, tier C: there is no base with PER below 20"],
        ["H5 probes route around damage", shown(around.estimate), _sign(around, 1, "H5")],
        [
            "H6 similarity",
            "; ".join(
                [f"against {rival}: {shown(figure.estimate)}" for rival, figure in near.items()]
                + [f"predicts better by {shown(better.estimate)}"]
            ),
            _similar(near, better),
        ],
        [
            "H7 what stabilises",
            f"CNN {shown(found['C5'].estimate)}, at equal gain {shown(gains['cnn'].estimate)}; "
            f"head-only {shown(found['C6'].estimate)}, at equal gain "
            f"{shown(gains['head'].estimate)}",
            "; ".join(
                f"{name}: {_stabilises(words[claim], gains[factor], claim)}"
                for name, factor, claim in (("CNN", "cnn", "C5"), ("head-only", "head", "C6"))
            ),
        ],
    ]
    return table_of(["hypothesis", "figure (95 %)", "verdict"], rows)


def _both(first: str, second: str, *names: str) -> str:
    if not all(progress(name).whole for name in names):
        return "; ".join(f"{name} {progress(name).words()}" for name in names)
    supported = (first, second).count("supported")
    return "fails" if first == "contradicted" else ("open", "half", "holds")[supported]


def _sign(found: Found, sign: int, name: str) -> str:
    """Return whether the interval lies on the side of a hypothesis."""
    if found.estimate is None or not progress(name).whole:
        return progress(name).words()
    low, high = sorted(sign * end for end in found.estimate.interval())
    return "holds" if low > 0 else "fails" if high < 0 else "open"


def _similar(near: dict[str, Found], better: Found) -> str:
    if not progress("H6").whole:
        return progress("H6").words()
    first = all(_sign(figure, 1, "H6") == "holds" for figure in near.values())
    second = _sign(better, 1, "H6") == "holds"
    return ("open", "half", "holds")[first + second]


def _stabilises(word: str, at_gain: Found, name: str) -> str:
    if not progress(name).whole:
        return progress(name).words()
    same = at_gain.estimate is not None and at_gain.estimate.value > 0
    return "stabilises" if word == "supported" and same else word if word != "supported" else "half"


def frontier_table(judge: Judge) -> str:
    """Return what each method's path has off-task where it reaches shares of stable's gain."""
    rows = []
    for tuned_on in TUNED_ON:
        for name, path in PATHS.items():
            levels = [
                judge.over(lambda n, p=path, i=i, t=tuned_on: judge.at_levels((p,), n, t)[0][i])
                for i in range(len(LEVELS))
            ]
            if any(level.estimate for level in levels):
                cells = (reached(level, judge.lineages) for level in levels)
                rows.append([tuned_on.upper(), name, *cells])
    header = ["tuned on", "path", *(f"off-task at {level:.0%} of the gain" for level in LEVELS)]
    return table_of(header, rows) if rows else "No path is measured yet.\n"


def differences_table(judge: Judge) -> str:
    """Return how much better the merge is than each rival at each level; nothing where none is."""
    rows = []
    for tuned_on in TUNED_ON:
        for name, path in PATHS.items():
            if path is MERGED:
                continue
            levels = [judge.equal_gain(MERGED, path, tuned_on, (level,)) for level in LEVELS]
            if any(level.estimate for level in levels):
                cells = (reached(level, judge.lineages) for level in levels)
                rows.append([tuned_on.upper(), name, *cells])
    header = ["tuned on", "merge minus", *(f"at {level:.0%} of the gain" for level in LEVELS)]
    return table_of(header, rows) if rows else ""


def reached(found: Found, lineages: Sequence[int]) -> str:
    """Return a figure at a level of gain, with the lineages that reach it where not all do."""
    if found.estimate is None:
        return "not reached"
    missing = ", ".join(str(n) for n in lineages if n not in found.lineages)
    return f"{shown(found.estimate)}{f'; without {missing}' if missing else ''}"


def reference_words(judge: Judge) -> str:
    """Return the gains that the levels are shares of, and how sure they are."""
    parts = []
    for tuned_on in TUNED_ON:
        of = judge.over_seeds(lambda n, seed, t=tuned_on: judge.evidence.gain(stable(n, t, seed)))
        known = [gain for n in judge.lineages if np.isfinite((gain := of(n))[0])]
        if known:
            gains = ", ".join(f"{gain[0]:+.2f}" for gain in known)
            error = float(np.mean([gain[1:].std(ddof=1) for gain in known]))
            lost = float(np.mean([(gain[1:] <= 0).mean() for gain in known]))
            parts.append(
                f"{tuned_on.upper()} {gains} (standard error over items {error:.2f}; not above 0, "
                f"and the lineage left out, in {lost:.0%} of the draws)"
            )
    return f"The gain itself, on dev, lineage by lineage: {'; '.join(parts)}.\n" if parts else ""


def arithmetic_words(evidence: Evidence) -> str:
    """Return what computed the rows; all must be of one kind."""
    probes = [row for row in evidence.rows if row["measure"] == "probe"]
    kinds = {row["arithmetic"] for row in probes}
    if len(kinds) > 1:
        raise SystemExit(f"rows of several kinds cannot be compared: {', '.join(sorted(kinds))}")
    models = sorted({row["processor"] for row in evidence.rows})
    whole = sum(row["whole"] for row in probes)
    if not probes:
        return "No row of this design is there yet."
    return (
        f"{whole} of {len(probes)} probes are whole (converged, best rate inside the grid), in "
        f"{', '.join(kinds)} on {', '.join(models)}."
    )


def judge_of(draws: int = DRAWS) -> Judge:
    """Read the committed rows of the design of today."""
    now = design()
    rows = [row for row in read_measured(ROWS) if row["design"] == now]
    return Judge(Evidence.read(ROWS, rows, draws), CONFIRMING)


def generated(judge: Judge, images: Sequence[str] = ()) -> dict[str, str]:
    """Return the parts of the page that the rows decide, with pictures that are drawn already."""
    found = claims_of(judge)
    words = verdicts(found, {name: progress(name).whole for name in found})
    advice = said(judge, PATHS, found, states_of(words))
    return {"advice": advice, "evidence": tables(judge, found, words, images)}


def tables(
    judge: Judge, found: dict[str, Found], words: dict[str, str], images: Sequence[str]
) -> str:
    """Return the tables of the page and its pictures."""
    rows, evidence = judge.evidence.rows, judge.evidence
    whole = {name: progress(name).whole for name in found}
    measured = {n: shown(f.estimate) for n, f in found.items() if f.estimate and whole[n]}
    there = sorted({row["lineage"] for row in rows} & set(CONFIRMING))
    which = ", ".join(map(str, there)) or "none"
    made, study = arithmetic_words(evidence), Study(*read())
    confirmed = Confirmed(judge)
    of = confirmed if confirmed.whole else Explored(study)
    parts: list[str] = [
        f"Design `{design()}`. Confirming lineages with rows: {which}. {made}\n",
        "### What the paper says, and what we find\n",
        paper_rows(
            of, words, progress_words(), regrets_of(judge, COEFFICIENT), measured, compared(judge)
        ),
        "### The closed list\n",
        claims_table(found, words),
        "### Hypotheses\n",
        hypotheses_table(judge, found, words),
        "### Frontiers at equal gain\n",
        reference_words(judge),
        frontier_table(judge),
        differences_table(judge),
        "### Settings of the rivals\n",
        settings_table(judge),
        "### Largest harmless alpha against strength\n",
        f"The largest coefficient whose off-task loss on dev is at most {MARGIN:g} logit.\n",
        strength_table(judge),
        "### Similarity against what is kept\n",
        similarity_table(judge),
        "### Which alpha: regret\n",
        regret_table(judge),
        "### Tuned on further tasks, and on two\n",
        further_tasks_table(judge),
        "### What is not measured yet\n",
        left_table(),
        "### In points, and further figures\n",
        points_table(judge, study),
        *further_lines(judge),
    ]
    parts += [f"![{name}](images/{name})\n" for name in images]
    return "\n".join(parts)


def nearer_than(judge: Judge) -> dict[str, Found]:
    """Return H6 (a) by the method that the merge is compared with."""
    return {
        name: nearer(judge, CHOSEN[name.lower().replace("-", "")]) for name in ("L2-SP", "LoRA")
    }


def compared(judge: Judge) -> dict[str, dict[str, Estimate | None]]:
    """Return the differences of the paper's further claims."""
    found = {"H6": nearer_than(judge), "Table III": in_sequence(judge)}
    return {
        name: {other: figure.estimate for other, figure in differences.items()}
        for name, differences in found.items()
    }


def further_lines(judge: Judge) -> list[str]:
    """Return the further figures that are measured."""
    known = {name: found for name, found in further(judge).items() if found}
    return [table_of(["", "95 %"], [[n, shown(f)] for n, f in known.items()])] if known else []


def drawn() -> list[str]:
    """Return the pictures that there are."""
    return [name for name in (FRONTIERS, SIMILARITY) if (IMAGES / name).is_file()]


def place(page: str, parts: dict[str, str]) -> str:
    """Return a page with each text between the marks of its name."""
    for name, text in parts.items():
        before, _, rest = page.partition(MARKS[name])
        _, end, after = rest.partition(f"<!-- /{name} -->")
        page = f"{before}{MARKS[name]}\n\n{text}\n{end}{after}"
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print", action="store_true")
    arguments, judge = parser.parse_args(), judge_of()
    if arguments.print:
        print("\n".join(generated(judge).values()))
        return
    parts = generated(judge, draw(judge, PATHS))
    PAGE.write_text(place(PAGE.read_text(), parts))
    print(f"wrote {PAGE.name}")


if __name__ == "__main__":
    main()
