"""The evidence behind the demo: three lineages, five tuning seeds, three probe seeds, two tasks.

Each lineage of the tiny encoder is fine-tuned on speakers and on phones with the demo's recipe, as
many passes over three times the data, and merged at 0.25. Frozen probes then measure pre-trained,
plain (the CNN is trained too: ``plain-cnn``), stable and merged encoders on the test splits of
``synthetic-study``, and further coefficients on dev. One command; interrupt it and run it again,
here or on another machine, and it goes on where it was:

    python studies/demo.py --out runs/study

Raw rows go to ``studies/demo/`` as they come; ``python studies/demo_table.py`` makes tables and
figure of them. On several cores run it for each lineage beside one another (``--lineages 1``).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pretraining import rounds
from rows import Rows, as_fixed, changed_of, is_measured, kept_base, write_measured

from speechft.compositions import Composer
from speechft.data.corpora import find_corpus
from speechft.data.manifest import Corpus
from speechft.encoders.load import digest_of
from speechft.evaluation.candidates import Candidate
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.predictions import items_of
from speechft.evaluation.protocols import PROTOCOLS
from speechft.evaluation.suite import choose_tasks, evaluate_encoder
from speechft.features.downsampler import DownsamplerCache
from speechft.recipe import Recipe, load_recipe
from speechft.results import ResultRow
from speechft.storage.files import json_digest, write_json

ROWS = Path(__file__).with_suffix("")
CORPUS = "synthetic-study"
TUNED_ON = ("sid", "pr")
LINEAGES = (1, 2, 3)
TUNING_SEEDS = (1, 2, 3, 4, 5)
PROBES = EvaluationConfig(tasks=("pr", "sid", "ic", "style"), seeds=3)
STEPS = 300
"""Updates: the demo's 100, for three times its data."""
ALPHA = 0.25
CURVE = (0.1, 0.5, 0.75)
"""Further coefficients, looked at on dev, for the first tuning seed."""
RATES = ("substitutions", "insertions", "deletions", "blank_ratio")


@dataclass(frozen=True)
class Lineage:
    """One pre-training of the encoder.

    Args:
        number: The first is the packaged encoder.
        base: The encoder.
        out: Folder of what is made from it.
        corpus: What is tuned and probed on.
    """

    number: int
    base: str
    out: Path
    corpus: Corpus
    cache: DownsamplerCache = field(default_factory=DownsamplerCache)

    def floors(self) -> Rows:
        """Measure the pre-trained encoder, and beside the first lineage MFCC and random weights."""
        candidates = [Candidate("pre-trained", self.base)]
        if self.number == 1:
            candidates.append(Candidate("MFCC", "mfcc"))
            candidates.append(Candidate("random", "random", like=self.base))
        return [row for c in candidates for row in self.measure(c, self.out / "floors" / c.name)]

    def cell(self, tuned_on: str, seed: int) -> Rows:
        """Tune and merge on one task with one seed; measure all three encoders."""
        composer, place = self.composer(tuned_on, seed)
        stable, plain = composer.compose("stable", [ALPHA]), composer.compose("plain-cnn")
        candidates = [
            Candidate(f"Speech-FT {ALPHA:g}", str(stable.merged[ALPHA]), alpha=ALPHA),
            Candidate("stable", str(stable.tuned)),
            Candidate("plain-cnn", str(plain.tuned)),
        ]
        return [row for c in candidates for row in self.measure(c, place / c.name)]

    def curve(self, tuned_on: str, seed: int) -> Rows:
        """Measure further coefficients on dev."""
        composer, place = self.composer(tuned_on, seed)
        merged = composer.compose("stable", CURVE).merged
        rows = []
        for alpha, path in merged.items():
            candidate = Candidate(f"Speech-FT {alpha:g}", str(path), alpha=alpha)
            rows += self.measure(candidate, place / candidate.name, test=False)
        return rows

    def composer(self, tuned_on: str, seed: int) -> tuple[Composer, Path]:
        """Return what tunes and merges by the demo's recipe, and the folder that it works in."""
        changes = [f"data.corpus={CORPUS}", f"encoder={self.base}", f"seed={seed}"]
        changes += [f"finetuning.task={tuned_on}", f"finetuning.steps={STEPS}"]
        place = self.out / f"{tuned_on}-{seed}"
        recipe = load_recipe(Recipe, "demo", changes)
        return Composer(recipe, {"*": self.corpus}, place, self.cache), place

    def measure(self, candidate: Candidate, place: Path, *, test: bool = True) -> Rows:
        """Return what is kept of the probes of an encoder on all tasks."""
        rows = self.probe(candidate, place, test=test)
        return [{"encoder": candidate.name, **content(row, place, test)} for row in rows]

    def probe(self, candidate: Candidate, place: Path, *, test: bool = True) -> list[ResultRow]:
        """Probe an encoder on all tasks; what was done already is read."""
        tasks = choose_tasks(PROBES, self.corpus)
        return evaluate_encoder(
            candidate, tasks, self.corpus, PROBES, place, seed=0, test=test, cache=self.cache
        )


def content(row: ResultRow, place: Path, test: bool) -> dict[str, Any]:
    """Return what is kept of a row: figures, and on test the errors or hits of every item."""
    details = row.details
    kept = {
        "task": row.task,
        "probe_seed": row.seed,
        "dev": details["dev"],
        "learning_rate": row.learning_rate,
        "converged": details["converged"],
        "layer_weights": details["layer_weights"],
    }
    if test:
        amounts = [str(int(item.amount)) for item in items_of(row, place)]
        kept |= {name: details[name] for name in RATES if name in details}
        kept |= {"test": round(row.value, 4), "amounts": " ".join(amounts)}
    return kept


def base_of(number: int, out: Path) -> str:
    """Return the encoder of a lineage: packaged, kept in the repository, or pre-trained now."""
    if (kept := kept_base(number)) is not None:
        return kept
    *_, (_, last) = rounds(number, out.parent / f"lineage-{number}")
    return str(last)


def jobs(lineages: list[Lineage]) -> Iterator[tuple[str, Callable[[], Rows], dict[str, Any]]]:
    """Yield name, work and description of everything in order: whole seeds first, curves last."""
    for lineage in lineages:
        yield f"lineage-{lineage.number}", lineage.floors, {"lineage": lineage.number}
    for kind, seeds in (("cell", TUNING_SEEDS), ("curve", TUNING_SEEDS[:1])):
        for seed in seeds:
            for lineage in lineages:
                for task in TUNED_ON:
                    about = {"lineage": lineage.number, "tuned_on": task, "tuning_seed": seed}
                    name = f"lineage-{lineage.number}-{task}-{seed}{'-curve' * (kind == 'curve')}"
                    yield name, partial(getattr(lineage, kind), task, seed), about


def describe_items(lineage: Lineage) -> None:
    """Write what the items of every task are, once for all rows."""
    place, items = lineage.out / "floors" / "pre-trained", {}
    for row in lineage.probe(Candidate("pre-trained", lineage.base), place):
        if row.seed != 0:
            continue
        found = items_of(row, place)
        items[row.task] = {
            "metric": row.metric,
            "speakers": [item.group or item.reference for item in found],
            "totals": [int(item.total) for item in found],
        }
    write_json(ROWS / "items.json", items)


def design() -> str:
    """Return a digest of how encoders are tuned, merged and probed; rows of another are void.

    ``design.json`` holds the settings that there were when the design was fixed. Settings that came
    later count only where they differ from their defaults, so that new ones do not make the rows
    void. Two things are read as they were: what the rows call ``plain-cnn`` was named ``plain``
    then, and the three probe seeds shared the batches of the first.
    """
    recipe = load_recipe(Recipe, "demo", [f"finetuning.steps={STEPS}"])
    probes = PROTOCOLS[PROBES.protocol]
    merging = {f.name: getattr(recipe.merging, f.name) for f in fields(recipe.merging)}
    now = [recipe.finetuning.as_dict(), merging, PROBES.as_dict()]
    now.append({name: config.as_dict() for name, config in probes.items()})
    changed = [changed_of(recipe.finetuning), recipe.merging.changed(), changed_of(PROBES)]
    changed.append({name: changed_of(config) for name, config in probes.items()})
    fixed = json.loads((ROWS / "design.json").read_text())
    parts = [as_fixed(*part) for part in zip(now, changed, fixed[:4], strict=True)]
    return json_digest([*parts, ALPHA, CURVE])[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--lineages", type=int, nargs="+", choices=LINEAGES, default=LINEAGES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out, corpus = arguments.out, find_corpus(CORPUS, arguments.out / "corpus")
    lineages = [
        Lineage(n, base_of(n, out), out / f"lineage-{n}", corpus) for n in arguments.lineages
    ]
    made = {"corpus": corpus.digest[:12], "design": design()}
    stamps = {n.number: {"base": digest_of(n.base)[:12], **made} for n in lineages}
    for name, work, about in jobs(lineages):
        path, stamp = ROWS / f"{name}.jsonl", stamps[about["lineage"]]
        if is_measured(path, stamp):
            continue
        print(name, flush=True)
        write_measured(path, stamp, about, work())
    if lineages[0].number == 1 and not (ROWS / "items.json").exists():
        describe_items(lineages[0])


if __name__ == "__main__":
    main()
