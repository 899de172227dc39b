"""Pre-train a lineage of the tiny encoder and measure it on dev: the curve and the gate.

Two rounds of HuBERT pre-training, then frozen probes on the dev splits of ``synthetic-study``
(never its test splits), speaker EER and phone ABX, beside MFCC and random weights. One command,
resumable; another seed is another lineage:

    python studies/pretraining.py --seed 1 --out runs/lineage-1

Rows go to ``studies/pretraining/seed-N.jsonl``. ``--topline`` adds the supervised topline of the
same size, trained from scratch on the probes' data, which the gate needs. ``--rounds`` measures
encoders that are there already, those of the rounds in order, instead of training them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechft.analysis.abilities import abilities
from speechft.analysis.choosing import choose, speakers_of
from speechft.analysis.intervals import number_groups
from speechft.analysis.reading import read_states
from speechft.api import pretrain
from speechft.data.corpora import find_corpus
from speechft.data.manifest import Corpus
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.load import random_encoder
from speechft.evaluation.candidates import Candidate
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.suite import choose_tasks, evaluate_encoder
from speechft.features.downsampler import DownsamplerCache
from speechft.features.extract import count_frames
from speechft.finetuning.finetune import FinetuningConfig, finetune_encoder
from speechft.storage.files import write_text

TASKS = ("pr", "pc", "sid", "ic", "style")
TOPLINE = {"pr": 2000, "sid": 1500}
"""Updates of the topline by task."""


def rounds(seed: int, folder: Path, precision: str = "auto") -> Iterator[tuple[str, Path]]:
    """Run both rounds; yield name and encoder of each."""
    same = [f"optimization.precision={precision}"]
    first = pretrain("pretrain-tiny", out=folder / "round-1", overrides=[f"seed={seed}", *same])
    yield "round 1", first
    start = [f"start_from={first}", f"targets.source={first}", f"seed={seed + 100}", *same]
    yield "round 2", pretrain("pretrain-tiny-2", out=folder / "round-2", overrides=start)


def probes(name: str, candidate: Candidate, corpus: Corpus, folder: Path) -> list[dict[str, Any]]:
    """Return dev figures of frozen probes, trained until dev stops improving."""
    config = EvaluationConfig(tasks=TASKS)
    tasks, cache = choose_tasks(config, corpus), DownsamplerCache()
    rows = evaluate_encoder(
        candidate, tasks, corpus, config, folder, seed=0, test=False, cache=cache
    )
    return [
        {
            "encoder": name,
            "task": row.task,
            "metric": row.metric,
            "value": round(row.value, 3),
            "n": row.n,
            "converged": row.details["converged"],
        }
        for row in rows
    ]


def probe_free(name: str, candidate: Candidate, corpus: Corpus) -> list[dict[str, Any]]:
    """Return speaker EER and phone ABX error, each at its best hidden state, in percent.

    The committed rows of ``seed-1.jsonl`` have the ABX of an earlier definition: means of phones
    without their context.
    """
    encoder, cuts = candidate.load(), list(corpus.split("dev-unseen"))
    layers = list(range(encoder.num_layers + 1))
    counts = count_frames(encoder, cuts)
    choice = choose(cuts, encoder.timing, counts, seed=0, segments=False, triphones=True)
    groups = number_groups(speakers_of(cuts) or [])
    with tempfile.TemporaryDirectory() as scratch:
        cpu = torch.device("cpu")
        reading = read_states([encoder], [layers], choice, Path(scratch), kept=1, device=cpu)
        found = list(abilities(reading.states[0], choice, groups, {"abx", "speaker"}, seed=0))
    rows = []
    for ability in found:
        values = [layer.value for layer in ability.layers]
        best = int(np.argmin([100.0 if value is None else value for value in values]))
        rows.append(
            {
                "encoder": name,
                "task": "probe-free",
                "metric": ability.measure,
                "value": round(values[best] or 0.0, 3),
                "layer": best,
            }
        )
    return rows


def topline(task: str, like: Path, corpus: Corpus, folder: Path) -> dict[str, Any]:
    """Train encoder and head from scratch on the probe's data; return the best dev figure."""
    encoder = random_encoder(str(like), 0)
    assert isinstance(encoder, HuggingFaceEncoder)
    config = FinetuningConfig(
        task=task,
        strategy="plain-cnn",
        steps=TOPLINE[task],
        learning_rate=1e-3,
        hidden=None,
        batch_seconds=48,
        batch_utterances=20,
        max_duration=1.5,
        evaluate_every=100,
        dropout={"hidden_dropout": 0.1, "attention_dropout": 0.1},
    )
    train, dev, _ = corpus.task_splits(task)
    tuned = finetune_encoder(encoder, config, corpus, folder / task, splits=(train, dev))
    return {"encoder": "topline", "task": task, "metric": "dev", "value": round(tuned.dev, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/lineage-1"))
    parser.add_argument("--precision", default="auto", help="fp32 for lineages 4 to 7")
    parser.add_argument("--topline", action="store_true")
    parser.add_argument("--rounds", type=Path, nargs="*", help="encoders to measure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out, corpus = arguments.out, find_corpus("synthetic-study", arguments.out / "corpus")
    candidates = [("MFCC", Candidate("MFCC", "mfcc"))]
    given = [(f"round {n}", path) for n, path in enumerate(arguments.rounds or (), start=1)]
    for name, encoder in given or rounds(arguments.seed, out, arguments.precision):
        if name == "round 1":
            candidates.append(("random", Candidate("random", "random", like=str(encoder))))
        candidates.append((name, Candidate(name, str(encoder))))
    rows = []
    for name, candidate in candidates:
        rows += probes(name, candidate, corpus, out / "dev" / name.replace(" ", "-"))
        rows += probe_free(name, candidate, corpus)
    if arguments.topline:
        like = Path(candidates[-1][1].source)
        rows += [topline(task, like, corpus, out / "topline") for task in TOPLINE]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_text(Path(__file__).with_suffix("") / f"seed-{arguments.seed}.jsonl", text)
    print(text)


if __name__ == "__main__":
    main()
