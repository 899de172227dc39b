"""From the rows of the evidence to figures over lineages, also at equal gain; see ``DESIGN.md``.

All figures are arrays of 1 + draws values: the sample itself, then the same under resampled items.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from demo_table import item_weights
from evidence_units import EARLY, PATH, STUDY, TASKS, UPDATES, WEAKER
from inference import Estimate, Floats, at_gain, estimate, logit_error
from rows import unpacked

LEVELS = (0.5, 0.8)
"""Of the reference gain."""


@dataclass(frozen=True)
class Encoder:
    """A measured encoder of a lineage: which rows are its own."""

    lineage: int
    tuned_on: str = ""
    seed: int = 0
    kind: str = "base"
    variant: str = ""
    alpha: float = 0.0
    updates: int = UPDATES

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Encoder:
        """Return the encoder of a row."""
        updates = row.get("updates", UPDATES)
        names = ("lineage", "tuned_on", "seed", "kind", "variant", "alpha")
        return cls(*(row[name] for name in names), updates)


@dataclass
class Evidence:
    """All rows, and figures of them.

    Args:
        rows: From ``studies/evidence``.
        items: By cell, speakers and totals of the items by task and split.
        draws: Resampled items.
    """

    rows: Sequence[Mapping[str, Any]]
    items: Mapping[str, Mapping[str, Any]]
    draws: int = 1000
    _weights: dict[tuple[str, str], Floats] = field(default_factory=dict)
    _losses: dict[tuple[Any, ...], Floats] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, rows: Sequence[Mapping[str, Any]], draws: int = 1000) -> Evidence:
        """Read what the items are, which lies beside the rows."""
        items = {
            path.stem.removeprefix("items-"): json.loads(path.read_text())
            for path in folder.glob("items-*.json")
        }
        return cls(rows, items, draws)

    @cached_property
    def probes(self) -> dict[tuple[Encoder, str, int | None], dict[str, Mapping[str, Any]]]:
        """Return rows of probes by encoder, cell and layer, then by task."""
        found: dict[Any, dict[str, Mapping[str, Any]]] = defaultdict(dict)
        for row in self.rows:
            if row["measure"] == "probe":
                found[Encoder.of(row), row["cell"], row["layer"]][row["task"]] = row
        return dict(found)

    @cached_property
    def features(self) -> dict[Encoder, Mapping[str, Any]]:
        """Return similarity, weight move and speaker EER by encoder."""
        return {Encoder.of(row): row for row in self.rows if row["measure"] == "features"}

    @cached_property
    def suggestions(self) -> dict[Encoder, Mapping[str, Any]]:
        """Return what was suggested, by the stable encoder that it was suggested for."""
        return {
            Encoder(row["lineage"], row["tuned_on"], row["seed"], "path", "", 1.0): row
            for row in self.rows
            if row["measure"] == "suggestion"
        }

    def seeds(self, lineage: int) -> list[int]:
        """Return the tuning seeds of a lineage."""
        return sorted({r["seed"] for r in self.rows if r["lineage"] == lineage and r["seed"]})

    def loss(self, encoder: Encoder, task: str, cell: str, split: str, layer: int | None) -> Floats:
        """Return (1 + draws,) logit errors; NaN where the row is missing or not whole."""
        key = (encoder, task, cell, split, layer)
        if key not in self._losses:
            self._losses[key] = self._loss(*key)
        return self._losses[key]

    def _loss(
        self, encoder: Encoder, task: str, cell: str, split: str, layer: int | None
    ) -> Floats:
        percent = self.percent(encoder, task, cell, split, layer)
        return logit_error(percent if task == "pr" else 100 - percent)

    def percent(
        self,
        encoder: Encoder,
        task: str,
        cell: str = STUDY,
        split: str = "test",
        layer: int | None = None,
    ) -> Floats:
        """Return (1 + draws,) figures in percent of a task's own metric; NaN as in `loss`."""
        row = self.probes.get((encoder, cell, layer), {}).get(task)
        if row is None or not row["whole"] or f"{split}_amounts" not in row:
            return np.full(1 + self.draws, np.nan)
        about = self.items[cell][f"{task} {split}"]
        weights = self.weights(cell, f"{task} {split}", about["speakers"])
        amounts = np.array(unpacked(row[f"{split}_amounts"]), dtype=float)
        totals = np.array(about["totals"], dtype=float)
        return np.asarray(100 * (weights @ amounts) / (weights @ totals))

    def weights(self, cell: str, split: str, speakers: Sequence[str]) -> Floats:
        """Return (1 + draws, n) weights of items: the same for all encoders."""
        if (cell, split) not in self._weights:
            drawn = item_weights(speakers, self.draws, 0)
            self._weights[cell, split] = np.vstack([np.ones_like(drawn[:1]), drawn])
        return self._weights[cell, split]

    def better(
        self,
        encoder: Encoder,
        tasks: Iterable[str],
        cell: str = STUDY,
        split: str = "test",
        layer: int | None = None,
    ) -> Floats:
        """Return minus the change in logit error against the lineage's base, mean over tasks."""
        base = Encoder(encoder.lineage)
        changes = [
            self.loss(base, task, cell, split, layer) - self.loss(encoder, task, cell, split, layer)
            for task in tasks
        ]
        return np.asarray(np.mean(changes, axis=0))

    def off_task(self, encoder: Encoder, cell: str = STUDY, split: str = "test") -> Floats:
        """Return the primary figure: the mean over the tasks that were not tuned on."""
        return self.better(encoder, off_tasks(encoder.tuned_on), cell, split)

    def gain(self, encoder: Encoder) -> Floats:
        """Return the gain on the tuned task, on dev."""
        return self.better(encoder, encoder.tuned_on.split("+"), split="dev")


def mean_of_known(table: Floats) -> Floats:
    """Return the mean over the first axis of what is not NaN, NaN where nothing is left."""
    known = np.isfinite(table)
    total, count = np.where(known, table, 0.0).sum(0), known.sum(0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def off_tasks(tuned_on: str) -> list[str]:
    """Return the tasks of the primary figure."""
    return [task for task in TASKS if task not in tuned_on.split("+")]


def shown(found: Estimate | None, digits: int = 2) -> str:
    """Return a figure with its 95 % interval."""
    if found is None:
        return "not measured"
    if found.lineages < 2:
        return f"{found.value:+.{digits}f} (one lineage)"
    low, high = found.interval()
    return f"{found.value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


Path_ = Callable[[int, str, int], list[Encoder]]
"""From lineage, task and seed to the encoders of a path, its start left out."""


def merges(kind: str, variant: str = "", alphas: Sequence[float] = PATH) -> Path_:
    """Return the path of the merges of a tuned encoder."""
    return lambda lineage, task, seed: [
        Encoder(lineage, task, seed, kind, variant, alpha) for alpha in alphas
    ]


def stable(lineage: int, task: str, seed: int) -> Encoder:
    """Return the stable encoder of a lineage, task and tuning seed."""
    return Encoder(lineage, task, seed, "path", "", 1.0)


def stable_runs(lineage: int, task: str, seed: int) -> list[Encoder]:
    """Return the path of stable tuning: whole runs of more and more updates."""
    weaker = [Encoder(lineage, task, seed, "weaker", "", 1.0, updates) for updates in WEAKER]
    return [*weaker, stable(lineage, task, seed)]


def early_states(lineage: int, task: str, seed: int) -> list[Encoder]:
    """Return the states on the way of the one stable run."""
    states = [
        Encoder(lineage, task, seed, "early", "", 1.0, round(share * UPDATES)) for share in EARLY
    ]
    return [*states, stable(lineage, task, seed)]


MERGED = merges("path")


@dataclass(frozen=True)
class Found:
    """A figure and what it rests on."""

    estimate: Estimate | None
    lineages: tuple[int, ...]
    by_lineage: tuple[float, ...] = ()


@dataclass
class Judge:
    """Figures over some lineages.

    Args:
        evidence: The rows.
        lineages: Which; those without all that a figure needs are left out of it.
    """

    evidence: Evidence
    lineages: Sequence[int]

    def over(self, figure: Callable[[int], Floats], groups: int = 30) -> Found:
        """Return the mean over lineages of a figure of (1 + draws,) values.

        A draw of items in which a lineage has no figure (its reference gain is not above 0 there,
        a level is not reached) leaves that lineage out of that draw, as the sample itself would;
        dropping the draw for all lineages would keep the draws that vary least.
        """
        known = {n: values for n in self.lineages if np.isfinite((values := figure(n))[0])}
        if not known:
            return Found(None, ())
        table = np.stack(list(known.values()))
        drawn = mean_of_known(table[:, 1:])
        found = estimate(table[:, 0], drawn[np.isfinite(drawn)], groups)
        return Found(found, tuple(known), tuple(table[:, 0].tolist()))

    def over_seeds(self, figure: Callable[[int, int], Floats]) -> Callable[[int], Floats]:
        """Return a figure of a lineage: the mean over those of its seeds that have it."""

        def of_lineage(lineage: int) -> Floats:
            every = [figure(lineage, seed) for seed in self.evidence.seeds(lineage)]
            whole = [values for values in every if np.isfinite(values[0])]
            return np.mean(whole, 0) if whole else np.full(1 + self.evidence.draws, np.nan)

        return of_lineage

    def equal_gain(
        self,
        first: Path_,
        second: Path_,
        tuned_on: str,
        levels: Sequence[float] = LEVELS,
        reference: Path_ | None = None,
    ) -> Found:
        """Return how much better the first path is off-task at equal gain.

        Levels that a path does not reach are left out of the mean.
        """

        def figure(lineage: int) -> Floats:
            one, two = self.at_levels((first, second), lineage, tuned_on, levels, reference)
            differences = one - two
            reached = np.isfinite(differences[:, 0])
            return mean_of_known(differences[reached]) if reached.any() else differences[0]

        return self.over(figure)

    def at_levels(
        self,
        paths: Sequence[Path_],
        lineage: int,
        tuned_on: str,
        levels: Sequence[float] = LEVELS,
        reference: Path_ | None = None,
        split: str = "test",
    ) -> list[Floats]:
        """Return for each path (levels, 1 + draws) off-task figures, NaN where it does not reach.

        All paths are means over the same tuning seeds: those of which every point is measured.

        Args:
            paths: Some.
            lineage: Of the encoders.
            tuned_on: Task.
            levels: Of the reference gain.
            reference: The encoder whose gain counts; None for the stable one.
            split: Of the off-task figures; gains are of dev.
        """
        full = reference or merges("path", "", (1.0,))
        parts = [
            self._seed([*paths, full], lineage, tuned_on, seed, split)
            for seed in self.evidence.seeds(lineage)
        ]
        whole = [part for part in parts if all(np.isfinite(v[:, 0]).all() for v in part)]
        if not whole:
            return [np.full((len(levels), 1 + self.evidence.draws), np.nan) for _ in paths]
        means = [np.mean(side, 0) for side in zip(*whole, strict=True)]
        wanted = means[-2][-1]  # gain of the reference; its off-task figure comes behind it
        return [
            _on_path(gains, values, wanted, levels)
            for gains, values in zip(means[:-2:2], means[1:-2:2], strict=True)
        ]

    def _seed(
        self, paths: Sequence[Path_], lineage: int, tuned_on: str, seed: int, split: str
    ) -> list[Floats]:
        """Return gains and off-task figures, (points, 1 + draws), of each path in turn."""
        found = []
        for path in paths:
            points = path(lineage, tuned_on, seed)
            found.append(np.stack([self.evidence.gain(e) for e in points]))
            found.append(np.stack([self.evidence.off_task(e, split=split) for e in points]))
        return found


def _on_path(gains: Floats, values: Floats, wanted: Floats, levels: Sequence[float]) -> Floats:
    """Return (levels, draws) values where a path from 0 reaches shares of a wanted gain."""
    found = np.full((len(levels), len(wanted)), np.nan)
    for n in np.flatnonzero(wanted > 0):
        xs, ys = [0.0, *gains[:, n]], [0.0, *values[:, n]]
        found[:, n] = [at_gain(xs, ys, level * wanted[n]) for level in levels]
    return found
