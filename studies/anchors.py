"""Measure the two anchors of the miniature SUPERB score and write them into the package's assets.

Floor: MFCC under protocol ``mini``. Ceiling: a supervised topline of the same size, the packaged
encoder trained on the probe's own training split with all its layers and a linear head, last step
taken, no selection on test. Run once for a version of corpus and encoder, before any fine-tuning
result is looked at:  python studies/anchors.py --out runs/anchors
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speechft.checkpoint import write_json
from speechft.data.corpora import find_corpus
from speechft.data.manifest import Corpus
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.load import digest_of, load_encoder
from speechft.evaluation.score import Anchor, Anchors
from speechft.evaluation.suite import Candidate, EvaluationConfig, choose_tasks, evaluate_encoder
from speechft.finetuning.finetune import FinetuningConfig, finetune_encoder
from speechft.runs import stage

ENCODER, SEED = "tiny-hubert", 0
TASKS = ("pr", "sid", "ic", "style")
STEPS = {"pr": 250, "sid": 150, "ic": 250, "style": 100}


def topline(task: str, corpus: Corpus, folder: Path) -> float:
    """Train everything on the probe's training split; return the metric on test."""
    config = FinetuningConfig(
        task=task,
        strategy="plain",
        steps=STEPS[task],
        learning_rate=1e-3,
        hidden=None,
        batch_seconds=48,
        dropout={"hidden_dropout": 0.1, "attention_dropout": 0.1},
    )
    train, _, test = corpus.task_splits(task)
    settings = {"config": config.as_dict(), "seed": SEED}
    inputs = {"encoder": digest_of(ENCODER), "corpus": corpus.digest}
    with stage(folder / task, name="topline", config=settings, inputs=inputs) as work:
        if not work.done:
            encoder = load_encoder(ENCODER)
            assert isinstance(encoder, HuggingFaceEncoder)
            tuned = finetune_encoder(
                encoder, config, corpus, work.scratch, seed=SEED, splits=(train, test)
            )
            write_json(work.scratch / "test.json", tuned.dev)
    return float((folder / task / "test.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/anchors"))
    out = parser.parse_args().out
    corpus = find_corpus("synthetic", out / "corpus")
    config = EvaluationConfig(tasks=TASKS)
    tasks = choose_tasks(config, corpus)
    floor = evaluate_encoder(
        Candidate("MFCC", "mfcc"), tasks, corpus, config, out / "mfcc", seed=SEED
    )
    anchors = Anchors(
        version="miniature-1",
        corpus=corpus.digest,
        protocol=config.protocol,
        tasks={
            row.task: Anchor(floor=row.value, ceiling=topline(row.task, corpus, out))
            for row in floor
        },
    )
    target = Path(__file__).parents[1] / "src" / "speechft" / "assets" / "anchors.json"
    write_json(target, anchors.as_dict())
    print(target.read_text())


if __name__ == "__main__":
    main()
