"""The SUPERB row of evaluated encoders beside published ones: as a table, CSV or LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from speechft.belonging import side_by_side
from speechft.errors import DataError
from speechft.evaluation.superb_score import CONSTANTS, FITTED, superb_score
from speechft.results import ResultRow, mean_over_seeds, of_all_layers, of_part
from speechft.tasks import SUPERB, measure_of

Key = tuple[str, str]
"""(task, metric)."""
NEAR = 5.0
"""Points of SUPERB_S: the constants are not known well enough to rank encoders that are nearer."""


@dataclass(frozen=True)
class Published:
    """Figures of an encoder as they were published."""

    name: str
    source: str
    figures: Mapping[Key, float]
    score: float | None = None
    """SUPERB_S as it was published."""


def _four(per: float, sid: float, er: float, f1: float, cer: float) -> dict[Key, float]:
    return {
        ("pr", "per"): per,
        ("sid", "accuracy"): sid,
        ("er", "accuracy"): er,
        ("sf", "slot_type_f1"): f1,
        ("sf", "slot_value_cer"): cer,
    }


_PAPER = "Speech-FT (arXiv 2502.12672), table of the official repository"
PUBLISHED = (
    Published("HuBERT Base", _PAPER, _four(5.17, 81.86, 64.99, 88.54, 24.70), 870.20),
    Published(
        "HuBERT Base, stable on ASR", _PAPER, _four(5.22, 79.89, 65.38, 88.52, 23.80), 870.71
    ),
    Published(
        "HuBERT Base, Speech-FT on ASR", _PAPER, _four(3.94, 84.11, 67.78, 88.84, 23.46), 905.79
    ),
    Published("wav2vec 2.0 Base", _PAPER, _four(5.78, 75.26, 63.45, 88.12, 24.88), 837.08),
    Published(
        "wav2vec 2.0 Base, stable on ASR", _PAPER, _four(6.84, 72.95, 64.53, 87.22, 26.45), 824.82
    ),
    Published(
        "wav2vec 2.0 Base, Speech-FT on ASR",
        _PAPER,
        _four(4.14, 78.44, 64.87, 88.37, 24.10),
        864.79,
    ),
    Published(
        "WavLM Large",
        "WavLM (arXiv 2110.13900), as the constants wavlm-large have it",
        {
            (task, metric): best
            for task, metrics in CONSTANTS["wavlm-large"].tasks.items()
            for metric, (_, best) in metrics.items()
        },
    ),
)
"""Six rows of Speech-FT's main table, and the best encoder of the score's other constants.

The sources call the middle rows "regular" in one place and "Stable-FT" in another."""


@dataclass(frozen=True)
class Line:
    """One encoder of the table."""

    name: str
    protocol: str
    """Of its figures; ``published`` for those of others."""
    figures: Mapping[Key, float]
    scores: Mapping[str, float]
    """SUPERB_S by set of constants; empty where a task is missing."""
    learning_rates: Mapping[str, float]
    """Chosen by task."""
    published_score: float | None = None


@dataclass(frozen=True)
class SuperbTable:
    """Encoders over the figures of SUPERB's tasks."""

    keys: tuple[Key, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    """What a reader has to know."""

    def cells(self, *, brief: bool = False) -> tuple[list[str], list[list[str]]]:
        """Return header and cells.

        Args:
            brief: Leave out what is the same for all or in the rows: protocol and learning rates.
        """
        header = ["encoder", *(_heading(key) for key in self.keys)]
        header += ["SUPERB_S", "other constants", "protocol", "learning rates"]
        cells = [self._cells(line) for line in self.lines]
        if brief:
            return header[:-2], [line[:-2] for line in cells]
        return header, cells

    def _cells(self, line: Line) -> list[str]:
        figures = []
        for key in self.keys:
            value, decimals = line.figures.get(key), measure_of(*key).decimals + 1
            figures.append("-" if value is None else f"{value:.{decimals}f}")
        own = line.published_score or line.scores.get(FITTED[0])
        others = [line.scores[name] for name in FITTED[1:] if name in line.scores]
        spread = f"{min(others):.1f} to {max(others):.1f}" if others else "-"
        rates = ", ".join(f"{task} {rate:.2g}" for task, rate in line.learning_rates.items())
        score = "-" if own is None else f"{own:.2f}"
        return [line.name, *figures, score, spread, line.protocol, rates or "-"]


def superb_table(rows: Sequence[ResultRow]) -> SuperbTable:
    """Put the SUPERB figures of evaluated encoders beside published ones.

    Args:
        rows: As in files: of evaluations on test, see `side_by_side`; those of other tasks are left
            out, and published rows without any of the tasks.

    Raises:
        DataError: There is no figure of a task of SUPERB.
    """
    tested = [row for row in of_part(of_all_layers(rows), "test") if row.task in SUPERB]
    together = side_by_side(tested)
    shown = mean_over_seeds(together.rows)
    keys = tuple(
        dict.fromkeys((task, row.metric) for task in SUPERB for row in shown if row.task == task)
    )
    if not shown:
        raise DataError(
            "the results hold no test figure of a task of SUPERB",
            hint=f"evaluate one of: {', '.join(SUPERB)}",
        )
    lines = [
        _line(name, protocol, [r for r in shown if (r.encoder, r.protocol) == (name, protocol)])
        for name, protocol in dict.fromkeys((row.encoder, row.protocol) for row in shown)
    ]
    others = [
        Line(one.name, "published", one.figures, _scores(one.figures), {}, one.score)
        for one in PUBLISHED
        if one.figures.keys() & set(keys)
    ]
    return SuperbTable(keys, (*lines, *others), (*together.notes, *_notes(shown, lines)))


def scored_table(rows: Sequence[ResultRow]) -> SuperbTable | None:
    """Return the table where some encoder has all that SUPERB_S needs, else None."""
    if not any(row.task in SUPERB for row in of_part(rows, "test")):
        return None
    table = superb_table(rows)
    return table if any(line.scores for line in table.lines if line.learning_rates) else None


def is_ranked(first: Mapping[str, float], second: Mapping[str, float]) -> bool:
    """Return whether two encoders can be ranked by SUPERB_S whichever constants are right.

    Args:
        first: Score by set of constants.
        second: Of the other encoder.
    """
    differences = [first[name] - second[name] for name in FITTED]
    return min(differences) >= NEAR or max(differences) <= -NEAR


def at_edge(row: ResultRow) -> bool:
    """Return whether the chosen learning rate lies at the edge of the grid that was tried."""
    grid = [float(rate) for rate in row.details.get("grid") or ()]
    if row.learning_rate is None or len(grid) < 2:
        return False
    near = [abs(row.learning_rate - end) <= 0.01 * end for end in (min(grid), max(grid))]
    return any(near)


def as_csv(table: SuperbTable) -> str:
    """Return the table as CSV; its notes have no place there, and are to be told beside it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header, cells = table.cells()
    writer.writerows([header, *cells])
    return text.getvalue()


def as_latex(table: SuperbTable) -> str:
    """Return the table as a LaTeX ``tabular``, notes as comments."""
    header, cells = table.cells()
    lines = [" & ".join(map(_escaped, line)) + r" \\" for line in (header, *cells)]
    lines = [lines[0], r"\hline", *lines[1:]]
    columns = "l" + "r" * (len(header) - 3) + "ll"
    notes = [f"% {note}" for note in table.notes]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *lines, r"\end{tabular}", *notes]) + "\n"


def _line(name: str, protocol: str, rows: Sequence[ResultRow]) -> Line:
    figures = {(row.task, row.metric): row.value for row in rows}
    rates = {row.task: row.learning_rate for row in rows if row.learning_rate is not None}
    return Line(name, protocol, figures, _scores(figures), rates)


def _scores(figures: Mapping[Key, float]) -> dict[str, float]:
    """Return SUPERB_S by set of constants; empty where a figure is missing."""
    by_task: dict[str, dict[str, float]] = {}
    for (task, metric), value in figures.items():
        by_task.setdefault(task, {})[metric] = value
    needed = CONSTANTS[FITTED[0]].tasks
    if any(metric not in by_task.get(task, {}) for task in needed for metric in needed[task]):
        return {}
    return {name: superb_score(by_task, name) for name in CONSTANTS}


def _notes(rows: Sequence[ResultRow], lines: Sequence[Line]) -> list[str]:
    notes = [
        f"{row.encoder}, {row.task}: the learning rate {row.learning_rate:.3g} lies at the edge of "
        "the grid"
        for row in {(r.encoder, r.task, r.protocol): r for r in rows}.values()
        if at_edge(row)
    ]
    notes += _overlaps(rows, lines)
    scored = [line for line in lines if line.scores]
    notes += [
        f"{one.name} and {two.name} are not ranked: less than {NEAR:g} points of SUPERB_S apart "
        "under some of the constants"
        for number, one in enumerate(scored)
        for two in scored[number + 1 :]
        if not is_ranked(one.scores, two.scores)
    ]
    if scored:
        notes.append(
            f"SUPERB_S: constants {FITTED[0]}, fitted to six published rows; beside it what the "
            f"other solutions {', '.join(FITTED[1:])} give"
        )
    precisions = dict.fromkeys(
        str(r.details["precision"]) for r in rows if "precision" in r.details
    )
    if len(precisions) > 1:
        notes.append(f"figures of different precision stand side by side: {', '.join(precisions)}")
    protocols = dict.fromkeys(row.protocol for row in rows)
    notes.append(
        f"protocol {', '.join(protocols)}; published rows are of s3prl with learning rates that "
        "their papers do not say"
    )
    return notes


def _overlaps(rows: Sequence[ResultRow], lines: Sequence[Line]) -> list[str]:
    """Say which test items were tuned on, and what figure and score are without them."""
    notes = []
    for row in rows:
        clean, counts = row.details.get("clean"), row.details.get("tuned_on", {})
        if not clean:
            continue
        seen, total = counts.get("utterances", (0, 0))
        text = f"{row.encoder}, {row.task}: {seen} of {total} test utterances were tuned on"
        if clean["value"] is None:
            notes.append(f"{text}; none is left without them")
            continue
        text += f"; {row.metric} {row.value:.2f}, without them {clean['value']:.2f}"
        line = next(n for n in lines if (n.name, n.protocol) == (row.encoder, row.protocol))
        if line.scores and (row.task, row.metric) in line.figures:
            figures = {**line.figures, (row.task, row.metric): float(clean["value"])}
            text += f"; SUPERB_S {line.scores[FITTED[0]]:.2f}, without them "
            text += f"{_scores(figures)[FITTED[0]]:.2f}"
        notes.append(text)
    return notes


def _heading(key: Key) -> str:
    task, metric = key
    measure = measure_of(task, metric)
    return f"{task.upper()} {measure.heading} {'↑' if measure.higher_is_better else '↓'}"


def _escaped(text: str) -> str:
    for mark in "&%_#$":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("↑", r"$\uparrow$").replace("↓", r"$\downarrow$")
