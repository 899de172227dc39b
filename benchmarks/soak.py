"""Thousands of steps and dozens of evaluations in one process: do memory and handles stay flat?

    python benchmarks/soak.py [--steps 2000] [--evaluations 50] [--out runs/soak]

A tiny encoder is fine-tuned for ``--steps`` updates (with evaluations on dev and checkpoints on the
way), and then evaluated ``--evaluations`` times into folders of their own. Resident memory, open
files and threads are noted throughout; printed are their medians in the third and in the last
tenth, after what imports and first uses take, and the slope.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

PAGE = os.sysconf("SC_PAGE_SIZE")


class Watch:
    """Notes memory (MB), open files and threads of this process, and says how they went."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.notes: list[tuple[float, int, int]] = []

    def note(self) -> None:
        """Take a note."""
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6
        self.notes.append((resident, len(os.listdir("/proc/self/fd")), threading.active_count()))

    def report(self, seconds: float, units: int) -> dict[str, object]:
        """Return the figures, and print them."""
        tenth = max(1, len(self.notes) // 10)
        early, late = self.notes[2 * tenth : 3 * tenth] or self.notes, self.notes[-tenth:]
        medians = [
            [statistics.median(n[k] for n in part) for k in range(3)] for part in (early, late)
        ]
        row = {
            "what": self.what,
            "units": units,
            "seconds": round(seconds, 1),
            "notes": len(self.notes),
            "MB": [round(part[0], 1) for part in medians],
            "MB by tenths": [round(n[0], 1) for n in self.notes[tenth - 1 :: tenth]],
            "most MB": round(max(n[0] for n in self.notes), 1),
            "kB a unit": round(1000 * (medians[1][0] - medians[0][0]) / (0.7 * units), 2),
            "files": [part[1] for part in medians],
            "threads": [part[2] for part in medians],
        }
        print(json.dumps(row), flush=True)
        return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--evaluations", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    options = parser.parse_args()
    os.nice(19)
    import torch

    from helpers import quicken_probes, tiny_encoder, tone_corpus
    from speechft import pipeline
    from speechft.console import Bar
    from speechft.evaluation.config import EvaluationConfig
    from speechft.evaluation.encoders import evaluate
    from speechft.recipe import Recipe

    torch.set_num_threads(1)
    quicken_probes()
    shutil.rmtree(options.out, ignore_errors=True)
    base = options.out / "base"
    tiny_encoder().save(base)
    (options.out / "tones").mkdir()
    corpus = tone_corpus(options.out / "tones")
    watch, usual = Watch("fine-tuning steps"), Bar.advance

    def advance(self: Bar, amount: float = 1.0) -> None:
        watch.note()
        usual(self, amount)

    Bar.advance = advance
    content = {
        "title": "soak",
        "encoder": str(base),
        "data": {"corpus": str(corpus.folder)},
        "finetuning": {
            "task": "sid",
            "steps": options.steps,
            "learning_rate": 1e-4,
            "hidden": None,
            "evaluate_every": 100,
            "checkpoint_every": 100,
        },
    }
    began = time.monotonic()
    pipeline.finetune_recipe(Recipe.model_validate(content), options.out / "tuned")
    rows = [watch.report(time.monotonic() - began, options.steps)]
    Bar.advance = usual
    watch, began = Watch("evaluations"), time.monotonic()
    for number in range(options.evaluations):
        config = EvaluationConfig(tasks=("sid",), floors=())
        place = options.out / "evaluations" / str(number)
        evaluate([str(base)], str(corpus.folder), config, place, seed=number)
        watch.note()
    rows.append(watch.report(time.monotonic() - began, options.evaluations))
    (options.out / "soak.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
