"""The evidence behind the demo: three lineages, five tuning seeds, three probe seeds, two tasks.

Each lineage of the tiny encoder is fine-tuned on speakers and on phones with the demo's recipe, as
many passes over three times the data, and merged at 0.25. Frozen probes then measure pre-trained,
plain, stable and merged encoders on the test splits of ``synthetic-study``, and further
coefficients on dev. One command; interrupt it and run it again, it goes on where it was:

    python studies/demo.py --out runs/study

On several cores run it once for each lineage beside one another (``--lineages 1``), then once more
without; it collects what there is. Raw rows go to ``studies/demo/``, where
``python studies/demo_table.py`` makes tables and figure of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pretraining import rounds

from speechft.checkpoint import atomic_write, write_json
from speechft.compositions import Composer
from speechft.data.corpora import find_corpus
from speechft.data.manifest import Corpus
from speechft.evaluation.suite import (
    Candidate,
    EvaluationConfig,
    choose_tasks,
    evaluate_encoder,
    read_items,
)
from speechft.features.extract import DownsamplerCache
from speechft.recipe import Recipe, load_recipe
from speechft.results import ResultRow

HERE = Path(__file__).with_suffix("")
CORPUS = "synthetic-study"
TUNED_ON = ("sid", "pr")
LINEAGES = (1, 2, 3)
TUNING_SEEDS = (1, 2, 3, 4, 5)
PROBE_SEEDS = 3
STEPS = 300
"""Updates: the demo's 100, for three times its data."""
ALPHA = 0.25
CURVE = (0.1, 0.5, 0.75)
"""Further coefficients, looked at on dev, for the first tuning seed."""
RATES = ("substitutions", "insertions", "deletions", "blank_ratio")


class Study:
    """The corpus and the encoders of one lineage, and where everything goes.

    Args:
        lineage: Its number; the first is the packaged encoder.
        out: Folder of the study.
        corpus: What is tuned and probed on.
    """

    def __init__(self, lineage: int, out: Path, corpus: Corpus) -> None:
        self.lineage, self.out, self.corpus = lineage, out / f"lineage-{lineage}", corpus
        self.config = EvaluationConfig(seeds=PROBE_SEEDS)
        self.tasks = choose_tasks(self.config, corpus)
        self.cache = DownsamplerCache()
        self.base = "tiny-hubert"
        if lineage > 1:
            *_, (_, last) = rounds(lineage, out.parent / f"lineage-{lineage}")
            self.base = str(last)

    def recipe(self, tuned_on: str, seed: int) -> Recipe:
        """Return the demo's recipe for a task and a seed."""
        changes = [f"data.corpus={CORPUS}", f"encoder={self.base}", f"seed={seed}"]
        changes += [f"finetuning.task={tuned_on}", f"finetuning.steps={STEPS}"]
        return load_recipe(Recipe, "demo", changes)

    def floors(self) -> None:
        """Measure the pre-trained encoder, and beside the first lineage MFCC and random weights."""
        candidates = [Candidate("pre-trained", self.base)]
        if self.lineage == 1:
            candidates.append(Candidate("MFCC", "mfcc"))
            candidates.append(Candidate("random", "random", like=self.base))
        for candidate in candidates:
            self.measure(candidate, self.out / "floors" / candidate.name, {})

    def cell(self, tuned_on: str, seed: int, *, curve: bool) -> None:
        """Tune, merge and measure; with ``curve`` further coefficients on dev instead."""
        recipe, place = self.recipe(tuned_on, seed), self.out / f"{tuned_on}-{seed}"
        composer = Composer(recipe, {"*": self.corpus}, place, self.cache)
        about = {"tuned_on": tuned_on, "tuning_seed": seed}
        stable = composer.compose("stable", CURVE if curve else (ALPHA,))
        for alpha, path in stable.merged.items():
            candidate = Candidate(f"Speech-FT {alpha:g}", str(path), alpha=alpha)
            self.measure(candidate, place / f"alpha-{alpha:g}", about, test=not curve)
        if not curve:
            plain = composer.compose("plain").tuned
            for name, path in (("stable", stable.tuned), ("plain", plain)):
                self.measure(Candidate(name, str(path)), place / name, about)

    def measure(
        self, candidate: Candidate, place: Path, about: dict[str, Any], *, test: bool = True
    ) -> None:
        """Evaluate an encoder unless that is done; write its rows into its folder."""
        rows = evaluate_encoder(
            candidate,
            self.tasks,
            self.corpus,
            self.config,
            place,
            seed=0,
            test=test,
            cache=self.cache,
        )
        about = {"lineage": self.lineage, **about, "encoder": candidate.name}
        with atomic_write(place / "rows.jsonl") as file:
            for row in rows:
                content = {**about, **_content(row, place, test)}
                file.write((json.dumps(content) + "\n").encode())


def _content(row: ResultRow, place: Path, test: bool) -> dict[str, Any]:
    details = row.details
    content = {
        "task": row.task,
        "probe_seed": row.seed,
        "dev": details["dev"],
        "learning_rate": row.learning_rate,
        "converged": details["converged"],
        "layer_weights": details["layer_weights"],
        "split": row.split,
    }
    if test:
        items = read_items(place, row.task, row.seed)
        amounts = [int(item.amount) for item in items]
        content |= {"test": round(row.value, 4)}
        content |= {name: details[name] for name in RATES if name in details}
        content |= {"amounts": " ".join(map(str, amounts))}
    return content


def jobs(lineages: list[int], out: Path, corpus: Corpus) -> Iterator[tuple[str, Any]]:
    """Yield what is to be done in order: whole seeds first, the curves last."""
    studies = {lineage: Study(lineage, out, corpus) for lineage in lineages}
    for lineage, study in studies.items():
        yield f"lineage {lineage}, floors", study.floors
    for curve, seeds in ((False, TUNING_SEEDS), (True, TUNING_SEEDS[:1])):
        for seed in seeds:
            for lineage, study in studies.items():
                for task in TUNED_ON:
                    yield (
                        f"lineage {lineage}, tuned on {task}, seed {seed}",
                        lambda s=study, t=task, n=seed, c=curve: s.cell(t, n, curve=c),
                    )


def collect(out: Path, corpus: Corpus) -> None:
    """Write the rows of everything that is done, and the items that they are about, once."""
    paths = sorted(out.glob("lineage-*/**/rows.jsonl"))
    with atomic_write(HERE / "rows.jsonl") as file:
        for path in paths:
            file.write(path.read_bytes())
    place = out / "lineage-1" / "floors" / "pre-trained"
    items = {}
    for task in choose_tasks(EvaluationConfig(), corpus):
        found = read_items(place, task.name)
        items[task.name] = {
            "metric": task.metric,
            "higher_is_better": task.higher_is_better,
            "speakers": [item.group or item.reference for item in found],
            "totals": [int(item.total) for item in found],
        }
    write_json(HERE / "items.json", {"corpus": corpus.digest, "tasks": items})
    print(f"{len(paths)} encoders measured; rows in {HERE}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--lineages", type=int, nargs="+", default=list(LINEAGES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    corpus = find_corpus(CORPUS, arguments.out / "corpus")
    for title, job in jobs(arguments.lineages, arguments.out, corpus):
        print(title, flush=True)
        job()
    collect(arguments.out, corpus)


if __name__ == "__main__":
    main()
