"""Measure the two anchors of the miniature SUPERB score and write them into the package's assets.

Floor: MFCC under protocol ``mini``. Ceiling: a supervised topline of the same size, an encoder
trained on the probe's own training split with all its layers and a linear head, from the weights of
pre-training round 1, last step taken, no selection on test. Run once for a version of the corpus,
before any fine-tuning result is looked at:

    python studies/anchors.py --encoder runs/round-1/encoder --out runs/anchors
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speechft.data.corpora import find_corpus
from speechft.data.manifest import Corpus
from speechft.encoders.hugging_face import HuggingFaceEncoder
from speechft.encoders.load import digest_of, load_encoder
from speechft.evaluation.candidates import Candidate
from speechft.evaluation.config import EvaluationConfig
from speechft.evaluation.miniature_score import Anchor, Anchors
from speechft.evaluation.suite import choose_tasks, evaluate_encoder
from speechft.finetuning.finetune import FinetuningConfig, finetune_encoder
from speechft.runs import stage
from speechft.storage.files import write_json

SEED = 0
STEPS = {"pr": 600, "sid": 300, "ic": 400, "style": 600}


def topline(task: str, start: str, corpus: Corpus, folder: Path) -> float:
    """Train everything on the probe's training split; return the metric on test."""
    config = FinetuningConfig(
        task=task,
        strategy="plain-cnn",
        steps=STEPS[task],
        learning_rate=5e-4 if task in ("pr", "style") else 1e-3,
        hidden=None,
        batch_seconds=24,
        batch_utterances=12,
        max_duration=1.5 if task == "sid" else None,
        dropout={"hidden_dropout": 0.1, "attention_dropout": 0.1},
    )
    train, _, test = corpus.task_splits(task)
    settings = {"config": config.as_dict(), "seed": SEED}
    inputs = {"encoder": digest_of(start), "corpus": corpus.digest}
    with stage(folder / task, name="topline", config=settings, inputs=inputs) as work:
        if not work.done:
            encoder = load_encoder(start)
            assert isinstance(encoder, HuggingFaceEncoder)
            tuned = finetune_encoder(
                encoder, config, corpus, work.scratch, seed=SEED, splits=(train, test)
            )
            write_json(work.scratch / "test.json", tuned.dev)
    return float((folder / task / "test.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", required=True, help="weights the topline starts from")
    parser.add_argument("--out", type=Path, default=Path("runs/anchors"))
    start, out = (arguments := parser.parse_args()).encoder, arguments.out
    corpus = find_corpus("synthetic", out / "corpus")
    config = EvaluationConfig(tasks=tuple(STEPS))
    tasks = choose_tasks(config, corpus)
    floor = evaluate_encoder(
        Candidate("MFCC", "mfcc"), tasks, corpus, config, out / "mfcc", seed=SEED
    )
    anchors = Anchors(
        version="miniature-1",
        corpus=corpus.info["spec"],
        protocol=config.protocol,
        start=digest_of(start),
        tasks={
            row.task: Anchor(floor=row.value, ceiling=topline(row.task, start, corpus, out))
            for row in floor
        },
    )
    for row in floor:  # an anchor that is no better than the floor would turn scores around
        anchor, sign = anchors.tasks[row.task], 1 if row.higher_is_better else -1
        if sign * (anchor.ceiling - anchor.floor) < 5.0:
            raise SystemExit(f"the topline of {row.task} is too near its floor: {anchor}")
    target = Path(__file__).parents[1] / "src" / "speechft" / "assets" / "anchors.json"
    write_json(target, anchors.as_dict())
    print(target.read_text())


if __name__ == "__main__":
    main()
