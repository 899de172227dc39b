"""Rows of one task of one encoder's evaluation: figures, intervals, details, scored items."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechft.devices import arithmetic_of, pick_device, resolve_precision
from speechft.evaluation.languages import by_language
from speechft.evaluation.predictions import dev_file, write_items
from speechft.evaluation.probe import ProbeResult
from speechft.evaluation.protocols import differences
from speechft.evaluation.score import bootstrap_interval, hierarchical_interval, resampled
from speechft.results import ResultRow
from speechft.tasks.base import Item
from speechft.tasks.measures import Measure

if TYPE_CHECKING:
    from speechft.evaluation.task_evaluation import TaskEvaluation


@dataclass(frozen=True)
class TaskRows:
    """What is written of the results of an evaluation."""

    of: TaskEvaluation

    def write(
        self, scratch: Path, by_fold: Sequence[Sequence[ProbeResult]], layer: int | None
    ) -> list[ResultRow]:
        """Write the scored items of every seed, and return the rows.

        Beside test items lie those of dev: what is chosen between encoders is chosen on them.

        Args:
            scratch: Where the evaluation works.
            by_fold: Results by fold and seed.
            layer: The hidden state that the probes saw alone.
        """
        by_seed = list(zip(*by_fold, strict=True))
        items = [_merged([result.items for result in results]) for results in by_seed]
        rows = []
        for place, results in enumerate(by_seed):
            rows += [self._row(m, results, items, place, layer) for m in self.of.task.measures]
            dev = _merged([result.dev_items for result in results])
            write_items(
                scratch / self._predictions(place, layer), items[place] if self.of.test else dev
            )
            if self.of.test:
                write_items(scratch / dev_file(self._predictions(place, layer)), dev)
        return rows

    def _row(
        self,
        measure: Measure,
        results: Sequence[ProbeResult],
        items_by_seed: Sequence[list[Item]],
        place: int,
        layer: int | None,
    ) -> ResultRow:
        first, names, items = results[0], self.of.folds[0].names, items_by_seed[place]
        dev_items = _merged([result.dev_items for result in results])
        dev = measure.value(dev_items)
        details = self._details(measure, results, items, dev_items)
        parts = [fold.test if self.of.test else fold.dev for fold in self.of.folds]
        cuts = itertools.chain.from_iterable(parts)
        if languages := by_language(measure, items if self.of.test else dev_items, cuts):
            details["languages"] = languages
        if len(items_by_seed) > 1 and self.of.test:
            over_seeds = hierarchical_interval(items_by_seed, measure=measure)
            details["interval_over_seeds"] = over_seeds
        split = "all folds" if len(results) > 1 else names[2] if self.of.test else names[1]
        return ResultRow(
            encoder_digest=self.of.digest,
            task=self.of.task.name,
            metric=measure.name,
            value=measure.value(items) if self.of.test else dev,
            higher_is_better=measure.higher_is_better,
            n=len(items) if self.of.test else len(dev_items),
            interval=bootstrap_interval(items, measure=measure) if self.of.test else None,
            split=split,
            part="test" if self.of.test else "dev",
            seed=self.of.seeds[place],
            protocol=self.of.config.protocol,
            learning_rate=first.learning_rate,
            evaluation=self.of.identity.evaluation,
            predictions=self._predictions(place, layer),
            layer=layer,
            left_out=self.of.left_out_counts(),
            details=details,
            **self.of.candidate.label(),
        )

    def _predictions(self, place: int, layer: int | None) -> str:
        """Return the name of the file with the scored items of a seed."""
        alone = "" if layer is None else f"-layer{layer}"
        return f"predictions-seed{self.of.seeds[place]}{alone}.jsonl"

    @property
    def _arithmetic(self) -> dict[str, Any]:
        """Return what the figures were computed with: they differ a little with all of it."""
        device = pick_device()
        return {
            "precision": resolve_precision(self.of.config.precision, device),
            **arithmetic_of(device),
        }

    def _details(
        self,
        measure: Measure,
        results: Sequence[ProbeResult],
        items: list[Item],
        dev_items: list[Item],
    ) -> dict[str, Any]:
        first = results[0]
        fixed = self.of.settings.steps is not None and self.of.task.trained  # no end to converge to
        details: dict[str, Any] = {
            "corpus": self.of.corpus.name,
            "dev": round(measure.value(dev_items), 4),
            "dev_n": len(dev_items),
            "grid": {f"{rate:.3g}": round(value, 4) for rate, value in first.grid.items()},
            "layer_weights": [round(weight, 4) for weight in first.layer_weights],
            "best_epoch": first.epochs,
            "converged": None if fixed else all(result.converged for result in results),
            **(measure.details(items) if measure.details else {}),
        }
        if first.setting is not None:
            details["setting"] = first.setting
        if len(results) > 1:
            details["folds"] = [round(measure.value(result.items), 4) for result in results]
            details["learning_rates"] = [result.learning_rate for result in results]
        details |= self._arithmetic
        if self.of.codec is not None:
            details["frame_codec"] = self.of.codec
        details["uncertainty"] = f"{resampled(items or dev_items, measure)} of the test data only"
        details["probe"] = self.of.settings.as_dict()
        notes = differences(self.of.config.protocol, self.of.task)
        return {**details, **({"protocol_notes": notes} if notes else {})}


def _merged(parts: Sequence[Sequence[Item]]) -> list[Item]:
    """Return the items of all folds, sorted by id."""
    if len(parts) == 1:
        return list(parts[0])
    items = [replace(item, fold=n) for n, part in enumerate(parts, start=1) for item in part]
    return sorted(items, key=lambda item: item.id)
